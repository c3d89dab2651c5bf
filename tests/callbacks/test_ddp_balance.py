"""Balance under privacy in two processes: what one process does, from one release of counts.

The trainings are in ddp_scenarios.py and run in processes of their own, all of them once for this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("ddp_balance")]

SCRIPT = Path(__file__).with_name("ddp_scenarios.py")
CASES = ["public", "noisy", "weights"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one process found, and then what each of two did."""
    folder = tmp_path_factory.mktemp("ddp_balance")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PL_"))}
    environment |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, str(SCRIPT), str(folder), "balanced:1", "balanced"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found = []
    for name, rank in (("balanced-1", 0), ("balanced", 0), ("balanced", 1)):
        path = folder / name / f"{rank}.pt"
        assert path.exists(), (folder / name / f"{rank}.log").read_text()[-3000:]
        found.append(torch.load(path, weights_only=False))
    return found


def drawn(result: dict[str, Any]) -> dict[int, list[int]]:
    steps: dict[int, list[int]] = defaultdict(list)
    for step, indices in result["seen"]:
        steps[step].extend(indices)
    return steps


@pytest.mark.parametrize("case", CASES)
def test_p19_two_processes_train_as_one_does(outcomes: list[dict[str, Any]], case: str) -> None:
    alone, first, second = (outcome[case] for outcome in outcomes)
    for each in (first, second):
        assert each["balance"] == alone["balance"]
        assert each["history"] == alone["history"]
        assert each["steps"] == alone["steps"] == 24
        assert each["total_steps"] == alone["total_steps"]
        torch.testing.assert_close(each["weights"], alone["weights"], rtol=0, atol=1e-6)
    whole, one, two = (drawn(result) for result in (alone, first, second))
    for step in whole:
        # A share without examples has the placeholder, which is example 0.
        assert set(whole[step]) - {0} == (set(one[step]) | set(two[step])) - {0}
        assert not (set(one[step]) & set(two[step])) - {0}


def test_p16_p19_all_processes_use_the_counts_that_one_released(outcomes: list[dict[str, Any]]) -> None:
    first, second = (outcome["unseeded"] for outcome in outcomes[1:])
    assert first["balance"] == second["balance"]
    assert first["history"] == second["history"]
    assert [count for name, count in first["history"] if "Laplace" in name] == [1]


def test_p19_processes_with_other_labels_are_told(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes[1:]:
        assert "do not agree on the classes of the train examples" in outcome["disagreement"]
