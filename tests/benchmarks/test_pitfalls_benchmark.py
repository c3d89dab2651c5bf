"""The experiments on Opacus cover each pitfall of the table, and the committed result is theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULT = json.loads((BENCHMARKS / "results" / "pitfalls.json").read_text(encoding="utf-8"))
ROWS = [f"P{number:02d}" for number in range(1, 36) if number not in (16, 32, 33, 34)]
FAST = ("P01", "P02", "P10", "P12", "P17", "P35")


@pytest.fixture
def pitfalls(load_benchmark):
    return load_benchmark("pitfalls")


def test_each_row_has_an_experiment(pitfalls):
    assert list(pitfalls.ROWS) == ROWS
    run = "import json, pitfalls; print(json.dumps({k: v.__name__ for k, v in pitfalls._experiments().items()}))"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", run], cwd=BENCHMARKS, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[-1]) == {row: row.lower() for row in ROWS}


def test_the_committed_result_has_every_row_an_outcome_and_a_number():
    assert set(RESULT["versions"]) == {"opacus", "torch", "pytorch-lightning"}
    assert RESULT["versions"]["opacus"].startswith("1.6.")
    assert [row["row"] for row in RESULT["rows"]] == ROWS
    for row in RESULT["rows"]:
        assert set(row) == {"row", "outcome", "mode", "other_modes", "evidence"}
        assert row["mode"]
        assert row["mode"] not in row["other_modes"]
        assert {row["outcome"], *row["other_modes"].values()} <= set(RESULT["outcomes"])
        assert any(character.isdigit() for character in row["evidence"])


def test_fast_rows_come_out_as_committed(tmp_path):
    output = tmp_path / "new" / "pitfalls.json"
    command = [sys.executable, str(BENCHMARKS / "pitfalls.py"), "--rows", *FAST, "--out", str(output)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ)
    assert run.returncode == 0, run.stderr
    committed = {row["row"]: row for row in RESULT["rows"]}
    again = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [row["row"] for row in again] == list(FAST)
    for row in again:
        for key in ("outcome", "mode", "other_modes"):
            assert row[key] == committed[row["row"]][key]
        assert f"| {row['row']} |" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "name"), [([], "pitfalls.json"), (["--rows", "P01"], None)], ids=["all rows", "one row"]
)
def test_only_a_complete_run_replaces_the_committed_result(pitfalls, arguments, name):
    assert pitfalls._parse(arguments).out == (None if name is None else BENCHMARKS / "results" / name)


def test_an_unknown_row_is_refused_by_name(pitfalls, capsys):
    with pytest.raises(SystemExit):
        pitfalls._parse(["--rows", "P16"])
    assert "P16" in capsys.readouterr().err
