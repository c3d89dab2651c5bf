"""The benchmark of the attacks runs, and only a complete run replaces the committed result."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmark_membership", BENCHMARKS / "membership.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quick_run_covers_all_attacks(tmp_path):
    pytest.importorskip("polars", reason="invented people need the extra persona")
    pytest.importorskip("matplotlib", reason="the picture needs the extra plots")
    output, picture = tmp_path / "membership.json", tmp_path / "inversion.png"
    command = [sys.executable, str(BENCHMARKS / "membership.py"), "--quick", "--targets", "1", "--references", "4"]
    run = subprocess.run(
        [*command, "--output", str(output), "--picture", str(picture)], capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert result["quick"] is True
    assert set(result["membership"]["sides"]) == {"plain", "private"}
    for side in result["membership"]["sides"].values():
        assert set(side["attacks"]) == {"loss", "lira", "rmia"}
        assert len(side["classes"]) == 10
    assert set(result["attributes"]["private"]) == {"gender", "age_band", "location", "gender, an input"}
    assert result["inversion"]["cases"]["one step, one image"]["labels_right"] == 1.0
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "name"),
    [([], "membership.json"), (["--quick"], None), (["--targets", "2"], None), (["--only", "inversion"], None),
     (["--references", "8"], None)],
    ids=str,
)  # fmt: skip
def test_only_a_complete_run_replaces_the_committed_result(arguments, name, benchmark):
    assert benchmark._parse(arguments).output == (None if name is None else BENCHMARKS / "results" / name)


@pytest.mark.parametrize("arguments", [["--targets", "0"], ["--references", "3"], ["--threads", "0"]], ids=str)
def test_bad_arguments_name_themselves(arguments, benchmark, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark._parse(arguments)
    assert arguments[0] in capsys.readouterr().err
