"""The benchmark of whole fits runs and compares what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "passive"}


def run_benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "fit.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=240)


def test_quick_run_compares_fits_with_bare_steps(tmp_path):
    output = tmp_path / "fit.json"
    run = run_benchmark(
        *("--quick", "--rounds", "1", "--steps", "3", "--threads", "1", "--networks", "mlp", "--output", str(output))
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    row = result["networks"]["mlp"]
    assert row["fit_multiple"] == pytest.approx(
        row["fit_milliseconds"]["private"] / row["fit_milliseconds"]["plain"], rel=0.01
    )
    assert row["within_limit"] == (row["fit_multiple"] <= row["step_multiple"] + row["allowance"])
    assert min(row["step_processor_multiple"], row["fit_processor_multiple"]) > 0
    assert "mlp" in run.stdout


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--steps", "0"], ["--networks", "vgg"]])
def test_bad_arguments_name_themselves(arguments):
    run = run_benchmark(*arguments)
    assert run.returncode == 2
    assert arguments[0] in run.stderr
