"""What a table must be: each thing that is not so has a message with column, number and row, and no value."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation.schema import Column, TableSchema, check_filled

TABLE = pl.DataFrame(
    {"name": ["Ada", "Carl", "Carl"], "age": [36, 200, None], "born": [date(1815, 12, 10)] * 3, "adult": [True] * 3}
)


def test_a_table_as_it_must_be_comes_back():
    schema = TableSchema(
        {
            "name": Column("text", longest=10, missing=False),
            "age": Column("whole number", lowest=0, highest=200),
            "born": Column("date", lowest=date(1800, 1, 1)),
            "adult": Column("boolean", values=[True, False]),
            "place": Column("text", required=False),
        },
        others=False,
    )
    assert schema.check(TABLE) is TABLE


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("age", Column("text"), "column 'age' must hold texts, got Int64"),
        ("name", Column("number"), "column 'name' must hold numbers, got String"),
        ("age", Column(highest=120), "column 'age' has 1 value above 120, the first in row 2$"),
        ("age", Column(lowest=40), "column 'age' has 1 value below 40, the first in row 1$"),
        ("age", Column(missing=False), "column 'age' has 1 value missing, the first in row 3"),
        ("name", Column(values=["Ada"]), "column 'name' has 2 values that are none of 'Ada', the first in row 2"),
        ("name", Column(longest=3), "column 'name' has 2 values of over 3 characters, the first in row 2"),
        ("name", Column(unique=True), "column 'name' has 1 value that is there before, the first in row 3"),
        ("nmae", Column(), "the schema names column 'nmae', .* did you mean 'name'"),
    ],
    ids=["text", "number", "above", "below", "missing", "values", "long", "unique", "unknown"],
)
def test_what_is_not_so_is_named(name, column, message):
    with pytest.raises(ConfigurationError, match=message):
        TableSchema({name: column}).check(TABLE)


def test_columns_that_are_not_named_can_be_refused():
    with pytest.raises(ConfigurationError, match="the table has column 'age', which the schema does not name"):
        TableSchema({"name": Column()}, others=False).check(TABLE)


def test_a_cell_is_never_shown():
    with pytest.raises(ConfigurationError) as caught:
        TableSchema({"name": Column(values=["nobody"])}).check(TABLE)
    assert "Carl" not in str(caught.value)


def test_bad_schemas_are_named():
    with pytest.raises(ConfigurationError, match="kind must be one of"):
        Column("string")
    with pytest.raises(ConfigurationError, match="columns must map names to Column"):
        TableSchema({"name": "text"})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pl.DataFrame(), "no columns"),
        (TABLE.clear(), "no rows, only the columns 'name', 'age', 'born', 'adult'"),
        (pl.DataFrame({"a": [None] * 4}), "every value of the table's 4 rows is missing"),
    ],
    ids=["columns", "rows", "values"],
)
def test_an_empty_table_is_refused(table, message):
    with pytest.raises(ConfigurationError, match=message):
        check_filled(table)
    with pytest.raises(ConfigurationError, match=message):
        TableSchema({}).check(table)
