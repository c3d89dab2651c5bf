"""The benchmark of de-duplication runs, counts pairs rightly, and its committed result keeps its limits."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("deduplication")


def test_pairs_are_counted_as_by_hand(benchmark):
    rng = np.random.default_rng(0)
    persons, truth = rng.integers(0, 5, 30), rng.integers(0, 6, 30)
    said = {(a, b) for a, b in combinations(range(30), 2) if persons[a] == persons[b]}
    true = {(a, b) for a, b in combinations(range(30), 2) if truth[a] == truth[b]}
    wanted = (len(said & true) / len(said), len(said & true) / len(true))
    assert benchmark.pairs_found(persons, truth) == pytest.approx(wanted)


def test_a_rival_that_is_missing_is_named_before_anything_runs(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None if name == "duckdb" else object())
    with pytest.raises(SystemExit):
        benchmark._parse([])
    assert (
        "duckdb not installed: pip install splink duckdb, or leave it out with --no-splink" in capsys.readouterr().err
    )
    assert benchmark._parse(["--no-splink"]).no_splink
    assert not benchmark._parse(["--tables", "personas"]).no_splink


def test_a_quick_run_has_all_parts(tmp_path):
    output = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / "deduplication.py"), "--quick", "--no-splink", "--tables", "personas"]
    run = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert set(result["tables"]["personas"]["contenders"]) == {"ours", "exact"}
    assert result["normalised_in_batches"][0]["rows"] == 20_000
    assert result["normalised_in_batches"][0]["cells_changed"]["normalise codes"]["gender"] > 10_000


def _points(table):
    return {point["threshold"]: point for point in table["contenders"]["ours"]["curve"]}


def test_the_committed_result_keeps_its_limits():
    result = json.loads((BENCHMARKS / "results" / "deduplication.json").read_text())
    tables = result["tables"]
    figures = _points(tables["historical_figures"])[0.7]
    assert figures["precision"] >= 0.95
    assert figures["recall"] >= 0.70
    assert tables["historical_figures"]["contenders"]["ours"]["seconds"] < 180
    assert _points(tables["fake_1000"])[0.7]["f1"] >= 0.8
    small, large = result["normalised_in_batches"]
    assert large["rows"] == 10_000_000
    assert large["peak_memory_mib"] < 1.5 * small["peak_memory_mib"]
