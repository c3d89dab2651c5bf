"""The augmentation benchmark runs, covers its contenders, and only a complete run replaces the committed result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kornia", reason="kornia, which is measured against, is not installed")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONTENDERS = ["kornia", "transforms", "device", "workers", "torchvision", "loader"]


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("augmentation")


def test_quick_run_covers_the_contenders(tmp_path):
    output = tmp_path / "augmentation.json"
    command = [sys.executable, str(BENCHMARKS / "augmentation.py"), "--quick", "--rounds", "1", "--shape", "28x28"]
    run = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    cell = result["shapes"]["28x28"]
    assert list(cell["contenders"]) == CONTENDERS
    assert cell["shape"] == [1, 28, 28]
    assert all(one["images_per_second"] > 0 for one in cell["contenders"].values())
    assert all(name in run.stdout for name in CONTENDERS)


def test_committed_result_is_a_complete_run_and_no_slower_than_kornia():
    result = json.loads((BENCHMARKS / "results" / "augmentation.json").read_text())
    assert result["quick"] is False
    assert set(result["shapes"]) == {"28x28", "32x32", "96x96"}
    for cell in result["shapes"].values():
        assert list(cell["contenders"]) == CONTENDERS
        assert cell["contenders"]["device"]["time_multiple"] <= 1
        assert set(cell["datamodule_adds"]) == {"device", "device_best", "workers", "workers_best"}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "augmentation.json"),
        (["--quick"], None),
        (["--threads", "2"], None),
        (["--rounds", "3"], None),
        (["--shape", "28x28"], None),
    ],
)
def test_only_a_complete_run_replaces_the_committed_result(arguments, name, benchmark):
    assert benchmark._parse(arguments).output == (None if name is None else BENCHMARKS / "results" / name)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--threads", "0"], ["--shape", "3x3"]])
def test_bad_arguments_name_themselves(arguments, benchmark, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark._parse(arguments)
    assert arguments[0] in capsys.readouterr().err
