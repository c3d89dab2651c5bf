"""Federated fits in one process and in two, and fits of which a process is killed.

They run in processes of their own: federated_script.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# What the tests compare is computed once, in the worker to which all of them go.
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("federated_processes")]

SCRIPT = Path(__file__).with_name("federated_script.py")
KINDS = ["mean", "exact", "one", "scaffold", "median", "personal", "private", "secure", "examples", "vectorized"]
# Variables that a launcher or an earlier fit in this process left: with them the script waits for ranks nobody starts.
FOREIGN = (
    "SLURM_",
    "PL_",
    "LP_",
    "MASTER_",
    "LOCAL_RANK",
    "NODE_RANK",
    "RANK",
    "WORLD_SIZE",
    "GROUP_RANK",
    "TORCHELASTIC_",
)
SAME_BITS = {"exact", "median", "one", "secure"}


def start(devices: int, folder: Path, *kinds: str, timeout: float = 200, **environment: str) -> tuple[int, str]:
    """Run the script; returns when all of its processes have ended, with the first one's status and what they said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    command = [sys.executable, str(SCRIPT), str(devices), str(folder), *kinds]
    variables = kept | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"} | environment
    # A session of its own, so that a run that hangs is ended with all of its processes and not waited for.
    process = subprocess.Popen(
        command, env=variables, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
        return -signal.SIGKILL, f"no end after {timeout:g} s: {said.decode()}"
    return process.returncode, said.decode()


def results(devices: int, folder: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"results_{devices}_{rank}.json").read_text())
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alone")
    status, said = start(1, folder, *KINDS)
    assert status == 0, said[-3000:]
    return results(1, folder)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("together")
    status, said = start(2, folder, *KINDS)
    assert status == 0, said[-3000:]
    return [results(2, folder, rank) for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_p40_two_processes_end_with_the_model_of_one(
    alone: dict[str, Any], together: list[dict[str, Any]], kind: str
) -> None:
    expected, first, second = alone[kind], together[0][kind], together[1][kind]
    assert first["weights"] == second["weights"]
    assert first["weights"] == pytest.approx(expected["weights"], rel=0, abs=0 if kind in SAME_BITS else 1e-12)
    for found in (first, second):
        for name in ("clients", "epsilon", "charged", "steps"):
            assert found[name] == expected[name], name
        assert found["metrics"].keys() == expected["metrics"].keys()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_logged_does_not_depend_on_the_number_of_processes(
    alone: dict[str, Any], together: list[dict[str, Any]], kind: str
) -> None:
    """Also where a process has no client in a round ("one"). What a single step logged is that process's own, and so
    is "error", which the module logs with sync_dist=False."""
    own = ("_step", "error")
    expected = {name: value for name, value in alone[kind]["metrics"].items() if not name.endswith(own)}
    assert {"loss_epoch", "val_loss", "federated/loss", "federated/clients", "federated/delta_norm"} <= expected.keys()
    for found in together:
        shared = {name: value for name, value in found[kind]["metrics"].items() if not name.endswith(own)}
        assert shared == pytest.approx(expected, rel=1e-5)


def test_clients_of_all_rounds_are_the_same_without_a_process_group(alone: dict[str, Any]) -> None:
    assert alone["mean"]["clients"] == alone["exact"]["clients"]
    assert [len(cohort) for cohort in alone["one"]["clients"]] == [1, 1, 1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_other_with_an_error(tmp_path: Path, rank: int) -> None:
    """Within the minute that is left of the limit when two processes have started on a busy machine."""
    status, said = start(2, tmp_path, "mean", timeout=120, LP_KILL=f"{rank}:1")
    assert status != 0
    assert status != -signal.SIGKILL or rank == 0
    assert not list(tmp_path.glob("results_*"))
    assert "Error" in said or "Child process" in said


@pytest.mark.parametrize("kind", ["personal", "scaffold", "private"])
def test_p43_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path, alone: dict[str, Any], kind: str) -> None:
    status, said = start(1, tmp_path, kind, LP_RESUMABLE="1", LP_KILL="0:2")
    assert status == -signal.SIGKILL, said[-3000:]
    assert not list(tmp_path.glob("results_*"))
    status, said = start(1, tmp_path, kind, LP_RESUMABLE="1")
    assert status == 0, said[-3000:]
    found = results(1, tmp_path)[kind]
    assert found["weights"] == alone[kind]["weights"]
    assert found["clients"] == alone[kind]["clients"][2:]
    if kind == "private":
        # The round in which the run was killed had been charged, and is charged again.
        assert found["charged"] == alone[kind]["charged"] + 1
        assert found["epsilon"] > alone[kind]["epsilon"]
