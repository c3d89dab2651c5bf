"""The benchmark of audits: what it breaks is broken, a part of it runs, and the committed result holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "audit.json"


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("audit")


def test_a_small_part_runs_and_is_kept_beside_the_others(benchmark, tmp_path, capsys):
    output = tmp_path / "audit.json"
    output.write_text(json.dumps({"parts": {"private": {"holds": True}}}))
    arguments = benchmark._parse(["--quick", "--only", "one_step", "--output", str(output)])
    result = benchmark._run(arguments)
    assert result["quick"] is True
    parts = json.loads(output.read_text())["parts"]
    assert parts["private"] == {"holds": True}
    (run,) = parts["one_step"]["runs"]
    assert (run["steps"], run["canaries"]) == (1, 5000)
    assert 0 < run["share_of_true"] < 1
    assert "private: holds" in benchmark._format(result)
    capsys.readouterr()


def test_only_a_run_with_all_seeds_replaces_the_committed_result(benchmark):
    assert benchmark._parse([]).output == RESULT
    assert benchmark._parse(["--rounds", "3"]).output is None
    assert benchmark._parse(["--quick"]).output is None


def test_the_committed_result_holds():
    result = json.loads(RESULT.read_text())
    assert result["quick"] is False
    parts = result["parts"]
    assert all(part.get("holds", True) for part in parts.values())
    assert all(run["one_run"] > 3 and run["canaries"] == 1000 for run in parts["non_private"]["mislabelled"])
    for runs in parts["private"]["runs"].values():
        assert len(runs) == 20
        assert all(run["lower"] < 2 for run in runs)
    assert parts["broken"]["called_broken"] >= 3
    assert all(run["f_dp"] >= 0.7 * run["claimed"] for run in parts["one_step"]["runs"])
