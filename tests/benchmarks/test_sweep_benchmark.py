"""A sweep of two runs at a time, one of which is killed, and started again: the slowest test of sweeps."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("sweep")


@pytest.mark.timeout(900)
def test_p32_a_killed_run_loses_no_other_and_its_cost_is_counted(benchmark, tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra joblib")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "sweep.json"
    assert benchmark.main(["--quick", "--output", str(output)]) == 0, capsys.readouterr().err
    result = json.loads(output.read_text())
    assert all(result["claims"].values())
    assert result["first"]["killed_after_steps"] >= 1
    assert result["again"]["epsilon_of_the_sweep"] > result["first"]["epsilon_of_the_sweep"] > 0
    assert set(result["figures"]) == {"0", "1"}


@pytest.mark.parametrize(("argv", "written"), [([], True), (["--quick"], False), (["--threads", "2"], False)])
def test_only_a_complete_run_has_a_place_of_its_own(benchmark, argv, written):
    assert (benchmark._parse(argv).output is not None) is written
