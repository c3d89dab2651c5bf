"""The noise benchmark runs, covers its contenders, and only a complete run replaces the committed result."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONTENDERS = ["plain", "secure", "secure release", "torch", "NumPy", "Opacus secure mode"]


def run_benchmark(*arguments):
    command = [sys.executable, str(BENCHMARKS / "noise.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("noise")


def test_quick_run_covers_the_contenders(tmp_path):
    output = tmp_path / "noise.json"
    run = run_benchmark("--quick", "--rounds", "2", "--output", str(output))
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert list(result["contenders"]) == CONTENDERS
    assert result["quick"] is True
    assert result["hardware"]["threads"] == 1
    assert result["hardware"]["load_average_at_end"] >= 0
    for name, cell in result["contenders"].items():
        assert cell["millions_per_second"] > 0
        assert cell["description"]
        assert name in run.stdout
    assert result["contenders"]["plain"]["time_multiple"] == 1


def test_every_contender_makes_noise_of_one_scale(benchmark):
    """Mean square of what each leaves or adds; 4,000 normals at 7 standard errors, 3e-12 each."""
    count = 4000
    contenders = benchmark._contenders(count)
    assert list(contenders) == CONTENDERS
    before = 0.0
    for name, contender in contenders.items():
        values = contender()
        square = float((values.__array__().astype(float) ** 2).mean())
        added = name in ("secure release", "Opacus secure mode")  # both add to one sum, in this order
        expected = before + 1.0 if added else 1.0
        before = square if added else before
        assert abs(square - expected) < 7 * expected * 2 * math.sqrt(2 / count)


def test_committed_result_is_a_complete_run():
    result = json.loads((BENCHMARKS / "results" / "noise.json").read_text())
    assert result["quick"] is False
    assert list(result["contenders"]) == CONTENDERS
    assert result["normals"] == 1_863_690


@pytest.mark.parametrize(
    ("arguments", "name"),
    [([], "noise.json"), (["--quick"], None), (["--threads", "2"], None), (["--rounds", "3"], None)],
)
def test_only_a_complete_run_replaces_the_committed_result(arguments, name, benchmark):
    assert benchmark._parse(arguments).output == (None if name is None else BENCHMARKS / "results" / name)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--threads", "0"]])
def test_bad_arguments_name_themselves(arguments, benchmark, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark._parse(arguments)
    assert arguments[0] in capsys.readouterr().err
