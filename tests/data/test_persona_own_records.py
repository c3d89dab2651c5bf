"""Which record a row is: the same hash for the same content, and for nothing else; kept through a preparation."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_privacy.data.persona.own_records import FIRST_ROW, OwnRecords, row_hashes
from lightning_privacy.data.persona.split import at_most
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import PIPELINE, ROW
from lightning_privacy.preparation.deduplicate_merge import RULES, merge
from lightning_privacy.preparation.step import Step

CELLS = st.one_of(st.none(), st.text(alphabet='0123-:,"\x00é ', max_size=4))


@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=30))
def test_rows_have_one_hash_if_and_only_if_they_hold_the_same(rows):
    table = pl.DataFrame(rows, ["a", "b", "c"], orient="row").cast(pl.String)
    hashes = row_hashes(table).to_list()
    assert {len(one) for one in hashes} == {16}
    for one, first in zip(rows, hashes, strict=True):
        for other, second in zip(rows, hashes, strict=True):
            assert (first == second) == (one == other)


def _hash_of(value, kind=None) -> bytes:
    return row_hashes(pl.DataFrame({"value": pl.Series([value], dtype=kind)}))[0]


@pytest.mark.parametrize(
    "alike",
    [
        [
            (40, pl.Int64),
            (40.0, pl.Float64),
            (40, pl.UInt8),
            (40.0, pl.Float32),
            (Decimal("40.00"), None),
            ("40", None),
        ],
        [(0.0, None), (-0.0, None), (0, None)],
        [(2.5, pl.Float64), (2.5, pl.Float32), (Decimal("2.50"), None)],
        [(None, pl.Int64), (None, pl.String), (None, pl.Null), (None, pl.List(pl.Int64))],
        [("a", pl.String), ("a", pl.Categorical), ("a", pl.Enum(["b", "a"]))],
        [(dt.datetime.fromisoformat("2024-01-02"), pl.Datetime(unit)) for unit in ("ms", "us", "ns")],
        [(dt.timedelta(3), pl.Duration(unit)) for unit in ("ms", "us", "ns")],
        [(True, None), ("true", None)],
    ],
    ids=["whole", "nought", "fraction", "missing", "category", "time", "duration", "truth"],
)
def test_the_type_of_a_column_is_no_part_of_what_a_record_holds(alike):
    assert len({_hash_of(*each) for each in alike}) == 1


def test_values_that_differ_have_different_hashes():
    values = [None, "", " ", "NULL", "-", 1, -1, 0.1, 10.0, 1e300, float("inf"), float("nan"), True, b"\x00", b""]
    # Bytes without any are written as no text.
    values = [*values[:-1], [1, 2], [1], [], {"a": 1}, dt.date(2024, 1, 2), dt.time(3), Decimal("0.10")]
    hashes = [_hash_of(value) for value in values]
    assert hashes[7] == hashes.pop()  # 0.1, as a decimal
    assert len(set(hashes)) == len(hashes)


def test_columns_of_a_pipeline_are_no_part_of_it():
    table = pl.DataFrame({"a": [1, 2]})
    assert row_hashes(table.with_columns(pl.lit(value=True).alias(f"{PIPELINE}mark"))).equals(row_hashes(table))


def test_the_hash_of_the_raw_row_is_kept_whatever_steps_make_of_it():
    table = pl.DataFrame({"who": ["a", "a", "b"], "age": [1, 2, 3]})
    own = OwnRecords(["who", "person"])
    marked = own(table)
    assert marked[ROW].equals(row_hashes(table))
    assert marked.columns == ["who", "age", ROW]
    assert not own.made("who")
    assert own.made("person")
    later = own(marked[1:].with_columns(age=0))
    assert later[ROW].to_list() == marked[ROW][1:].to_list()


def test_a_person_has_the_smallest_hash_of_all_records_that_ever_were_theirs():
    table = pl.DataFrame({"who": ["a", "b", "", "", None, "c"], "row": range(6)})
    own = OwnRecords(["who", "person"])
    hashes = own(table)[ROW].to_list()
    joined = own(own(table).with_columns(person=pl.Series([0, 0, 1, 2, 3, None])))
    assert joined[FIRST_ROW].to_list() == [min(hashes[:2])] * 2 + hashes[2:]
    for row in (0, 1):
        assert own(joined[row : row + 1])[FIRST_ROW].to_list() == [min(hashes[:2])]


def test_a_row_that_a_step_wrote_anew_is_hashed_by_what_is_left_of_the_raw_columns():
    table = pl.DataFrame({"who": ["a", "b"], "age": [1, 2]})
    own = OwnRecords(["who", "person"])
    marked = own(table)
    anew = own(table.select("age", person=pl.Series([7, 8])))
    assert anew[ROW].equals(row_hashes(table.select("age")))
    added = table.with_columns(pl.col("age") + 5)
    assert own(pl.concat([marked, added], how="diagonal"))[ROW].to_list() == [*marked[ROW], *row_hashes(added)]
    with pytest.raises(ConfigurationError, match="left out all columns of the raw table"):
        own(pl.DataFrame({"person": [7]}))


@pytest.mark.parametrize("rule", RULES)
def test_one_record_made_of_several_has_the_smallest_of_their_hashes(rule):
    table = pl.DataFrame({"person": [0, 1, 0], "age": [3, 4, 5], "public": [True, True, False]})
    marked = OwnRecords([])(table).with_columns(pl.col("public").alias(f"{PIPELINE}mark"))
    merged = merge(marked, "person", rule)
    hashes = marked[ROW].to_list()
    assert merged[ROW].to_list() == [min(hashes[0], hashes[2]), hashes[1]]
    assert merged[f"{PIPELINE}mark"].to_list() == [True, True]


def test_a_report_does_not_count_columns_of_a_pipeline():
    class Reverse(Step):
        name = "reverse"

        def _apply(self, frame):
            return frame.reverse()

    step = Reverse()
    step.run(OwnRecords([])(pl.DataFrame({"age": [1, 2]})))
    assert step.report().changed == {"age": 2}


def test_equal_records_are_as_good_as_each_other():
    table = pl.DataFrame({"person": ["a"] * 4, "age": [1, 1, 1, 2]})
    assert len(at_most(table, 2, person="person", seed=0)) == 2
    kept = {at_most(order, 1, person="person", seed=0)["age"][0] for order in (table, table.reverse())}
    assert len(kept) == 1
