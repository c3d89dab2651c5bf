"""The fairness benchmark runs, compares equal figures, and only a complete run replaces the committed result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONTENDERS = ["all figures", "figures of counts", "fairlearn"]


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("fairness")


def test_quick_run_covers_the_contenders(tmp_path):
    output = tmp_path / "fairness.json"
    command = [sys.executable, str(BENCHMARKS / "fairness.py"), "--quick", "--rounds", "1", "--output", str(output)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert list(result["contenders"]) == CONTENDERS
    assert result["quick"] is True
    assert result["largest_error"] < 1e-6
    for name, cell in result["contenders"].items():
        assert isinstance(cell["milliseconds_per_sample"], float)  # a difference of times: noise, in a quick run
        assert name in run.stdout


@pytest.mark.parametrize(
    ("arguments", "name"),
    [([], "fairness.json"), (["--quick"], None), (["--threads", "1"], None), (["--rows", "1000"], None),
     (["--rounds", "1"], None)],
    ids=str,
)  # fmt: skip
def test_only_a_complete_run_replaces_the_committed_result(arguments, name, benchmark):
    assert benchmark._parse(arguments).output == (None if name is None else BENCHMARKS / "results" / name)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--threads", "0"], ["--rows", "0"]], ids=str)
def test_bad_arguments_name_themselves(arguments, benchmark, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark._parse(arguments)
    assert arguments[0] in capsys.readouterr().err
