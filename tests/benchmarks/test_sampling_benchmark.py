"""The sampling benchmark runs without its optional contenders, and its committed result holds the claim."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CASES = ["epoch", "large", "batches", "over", "under"]


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("sampling")


def test_quick_run_covers_the_cases(tmp_path):
    output = tmp_path / "sampling.json"
    command = [sys.executable, str(BENCHMARKS / "sampling.py"), "--quick", "--rounds", "1", "--output", str(output)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert list(result["cases"]) == CASES
    for case in result["cases"].values():
        assert case["contenders"]["this package"]["time_multiple"] == 1
        assert len(case["contenders"]) + len(case["absent"]) >= 2
        assert all(name in run.stdout for name in (*case["contenders"], *case["absent"]))


def test_the_classes_are_long_tailed(benchmark):
    counts = np.bincount(benchmark._labels(100_000))
    assert counts.sum() == 100_000
    assert len(counts) == 10
    assert counts[9] == 97


def test_committed_result_is_a_complete_run_and_holds_the_claim():
    result = json.loads((BENCHMARKS / "results" / "sampling.json").read_text())
    assert result["quick"] is False
    assert list(result["cases"]) == CASES
    epoch = result["cases"]["epoch"]
    assert epoch["indices"] == 10_000_000
    assert epoch["contenders"]["this package"]["processor_seconds"] < 1
    assert epoch["contenders"]["torch WeightedRandomSampler"]["time_multiple"] >= 5
    assert "2^24" in result["cases"]["large"]["absent"]["torch WeightedRandomSampler"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "sampling.json"),
        (["--quick"], None),
        (["--threads", "2"], None),
        (["--rounds", "3"], None),
        (["--cases", "epoch"], None),
    ],
)
def test_only_a_complete_run_replaces_the_committed_result(arguments, name, benchmark):
    assert benchmark._parse(arguments).output == (None if name is None else BENCHMARKS / "results" / name)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--cases", "none"]])
def test_bad_arguments_name_themselves(arguments, benchmark, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark._parse(arguments)
    assert arguments[0] in capsys.readouterr().err
