"""CSV that no spreadsheet program runs, from which the table can be had back."""

from __future__ import annotations

import csv

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation.csv_export import neutralise_formulas, restore_formulas, write_csv
from lightning_privacy.preparation.read import read_table

FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\uff1d1+1",
    "\uff0b1",
    "|calc",
    "%x",
    "=cmd|'/C calc'!A0",
    "\u200b=1",
    "'=1",
]


@pytest.mark.parametrize("cell", FORMULAS, ids=[repr(cell) for cell in FORMULAS])
def test_a_formula_gets_an_apostrophe(tmp_path, cell):
    assert write_csv(pl.DataFrame({"x": [cell]}), tmp_path / "t.csv") == 1
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["x"], ["'" + cell]]


@pytest.mark.parametrize("cell", ["Ada", "-5", "+3.5", "a=b", "O'Brien", "'quoted'", "", " x", "1-2", "\u00fc"])
def test_what_is_no_formula_stays(tmp_path, cell):
    assert write_csv(pl.DataFrame({"x": [cell]}), tmp_path / "t.csv") == 0
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == [cell]


def test_names_of_columns_are_made_safe_too(tmp_path):
    table = pl.DataFrame({"=evil()": [1], "n": [-5]})
    write_csv(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == '"\'=evil()","n"\n1,-5\n'
    assert restore_formulas(read_table(tmp_path / "t.csv")).equals(table)
    both = pl.DataFrame({"=a": [1], "'=a": [2]})
    assert restore_formulas(neutralise_formulas(both)).equals(both)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="=+-@'|%\t\r\n ab1\uff1d", max_size=6) | st.none(), min_size=1, max_size=8))
def test_every_table_can_be_had_back(cells):
    table = pl.DataFrame({"x": cells}, schema={"x": pl.String})
    safe = neutralise_formulas(table)
    assert restore_formulas(safe).equals(table)
    bare = [cell for cell in safe["x"].to_list() if cell]
    assert not [
        cell
        for cell in bare
        if cell.lstrip()[:1] in "=+-@|%\uff1d" and not cell.lstrip("+-").isdigit() and cell.strip()
    ]


def test_categories_are_text_too(tmp_path):
    table = pl.DataFrame({"x": pl.Series(["=1", "a"], dtype=pl.Enum(["=1", "a"]))})
    assert write_csv(table, tmp_path / "t.csv") == 1
    assert "'=1" in (tmp_path / "t.csv").read_text()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    write_csv(pl.DataFrame({"x": ["old"]}), path)
    assert path.stat().st_mode & 0o077 == 0

    def fail(*arguments, **settings):
        raise OSError("disk full")

    monkeypatch.setattr(pl.DataFrame, "write_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        write_csv(pl.DataFrame({"x": ["new"]}), path)
    assert path.read_text() == '"x"\n"old"\n'
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


def test_what_csv_can_not_hold_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"column 'x' holds List\(Int64\)"):
        write_csv(pl.DataFrame({"x": [[1]]}), tmp_path / "t.csv")
    with pytest.raises(ConfigurationError, match="path must be in a folder that exists"):
        write_csv(pl.DataFrame({"x": [1]}), tmp_path / "none" / "t.csv")
