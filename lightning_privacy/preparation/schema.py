"""What a table must look like: columns, types, ranges, allowed values, so that a wrong file is noticed at the door.

pandera checks more, and polars frames among them, but as one more dependency of every user of tables, with its own
classes for what six arguments say here; who needs more of it can check the frame with it before.

Example:
    >>> import polars as pl
    >>> schema = TableSchema({"age": Column("number", lowest=0, highest=120), "sex": Column(values=["f", "m"])})
    >>> schema.check(pl.DataFrame({"age": [36, 200], "sex": ["f", "m"]}))
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.ConfigurationError: column 'age' has 1 value above 120, the first in row 2
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._cells import CELL_KINDS, read_cells
from lightning_privacy.preparation._columns import require_columns

__all__ = ["Column", "TableSchema", "check_filled"]

_KINDS: dict[str, tuple[Any, ...]] = {
    "boolean": (pl.Boolean,),
    "date": (pl.Date, pl.Datetime),
    "text": (pl.String, pl.Categorical, pl.Enum),
}
_NUMBERS = ("number", "whole number")


@dataclass(frozen=True)
class Column:
    """What one column must be.

    Args:
        kind: ``"text"``, ``"number"``, ``"whole number"``, ``"date"``, ``"boolean"`` or None for any.
        lowest: the least value; numbers and dates.
        highest: the largest value.
        values: the only values there may be.
        longest: the most characters of a cell.
        missing: whether cells may be missing.
        unique: whether no two rows may have the same value.
        required: whether the table must have the column.

    Raises:
        ConfigurationError: the kind is unknown.
    """

    kind: str | None = None
    lowest: Any = None
    highest: Any = None
    values: Iterable[Any] | None = None
    longest: int | None = None
    missing: bool = True
    unique: bool = False
    required: bool = True

    def __post_init__(self) -> None:
        one_of((None, *_NUMBERS, *_KINDS), kind=self.kind)
        if self.values is not None:
            object.__setattr__(self, "values", tuple(self.values))


class TableSchema:
    """What a table must be; :meth:`check` names what is not so by column, number and first row, never by its value.

    Cells of a CSV file are read as the kinds that it declares, each by itself: the type of a column then has nothing to
    do with what is in it.

    Args:
        columns: name to what the column must be.
        others: whether the table may have further columns.

    Raises:
        ConfigurationError: something else than a :class:`Column` is among them.
    """

    def __init__(self, columns: Mapping[str, Column], *, others: bool = True) -> None:
        self._columns = dict(columns)
        for name, column in self._columns.items():
            if not isinstance(column, Column):
                raise ConfigurationError(f"columns must map names to Column(…), got {column!r} for {name!r}")
        self._others = bool(others)

    @property
    def kinds(self) -> dict[str, str]:
        """Column to the kind that its cells are read as from text; dates are left to ``NormaliseDates``."""
        return {name: kind for name, column in self._columns.items() if (kind := column.kind) in CELL_KINDS and kind}

    def read(self, text: pl.Series) -> pl.Series:
        """Return a column of text as values of the kind that is declared for it; a blank cell is a missing value.

        Args:
            text: a column that is among :attr:`kinds`.

        Raises:
            ConfigurationError: a cell is not of that kind.
        """
        kind = self.kinds[text.name]
        values = read_cells(text, kind)
        wrong = values.is_null() & (text.str.strip_chars() != "")
        _refuse(text, wrong, f"that is no {kind}", f"that are no {kind}s")
        return values

    def __repr__(self) -> str:
        return f"TableSchema({self._columns!r}, others={self._others})"

    def check(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the table if it is as it must be.

        Args:
            table: the rows, of any number but none.

        Raises:
            ConfigurationError: it is empty, or something is not as it must be; the message names the first such thing.
        """
        check_filled(table)
        require_columns(
            "the schema", [name for name, column in self._columns.items() if column.required], table.columns
        )
        unknown = [name for name in table.columns if name not in self._columns]
        if unknown and not self._others:
            raise ConfigurationError(f"the table has column {unknown[0]!r}, which the schema does not name")
        for name, column in self._columns.items():
            if name in table.columns:
                _check_column(table[name], column)
        return table


def check_filled(table: pl.DataFrame) -> None:
    """Refuse a table without rows, without columns, or without a single value.

    Args:
        table: the table.

    Raises:
        ConfigurationError: it is one of these; the message says which.
    """
    if not table.columns:
        raise ConfigurationError("the table has no columns")
    if table.height == 0:
        raise ConfigurationError(f"the table has no rows, only the columns {', '.join(map(repr, table.columns))}")
    if all(table[name].null_count() == table.height for name in table.columns):
        raise ConfigurationError(f"every value of the table's {table.height} rows is missing: nothing to prepare")


def _check_column(values: pl.Series, column: Column) -> None:
    kind = values.dtype
    allowed = kind == pl.Null or column.kind is None
    if column.kind in _NUMBERS:
        allowed = allowed or (kind.is_numeric() if column.kind == "number" else kind.is_integer())
    elif column.kind is not None:
        allowed = allowed or any(kind == one for one in _KINDS[column.kind])
    if not allowed:
        raise ConfigurationError(f"column {values.name!r} must hold {column.kind}s, got {kind}")
    if not column.missing:
        _refuse(values, values.is_null(), "missing")
    if column.lowest is not None:
        _refuse(values, values < column.lowest, f"below {column.lowest}")
    if column.highest is not None:
        _refuse(values, values > column.highest, f"above {column.highest}")
    if column.values is not None:
        listed = ", ".join(map(repr, column.values))
        _refuse(values, ~values.is_in(list(column.values)), f"that is none of {listed}", f"that are none of {listed}")
    if column.longest is not None:
        _refuse(values, values.cast(pl.String).str.len_chars() > column.longest, f"of over {column.longest} characters")
    if column.unique:
        again = ~values.is_first_distinct() & values.is_not_null()
        _refuse(values, again, "that is there before", "that are there before")


def _refuse(values: pl.Series, wrong: pl.Series, one: str, several: str | None = None) -> None:
    rows = wrong.fill_null(value=False).arg_true()
    if len(rows):
        what = f"1 value {one}" if len(rows) == 1 else f"{len(rows):,} values {several or one}"
        raise ConfigurationError(f"column {values.name!r} has {what}, the first in row {int(rows[0]) + 1}")
