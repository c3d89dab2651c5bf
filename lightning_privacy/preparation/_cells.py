"""Cells of text as values of a declared kind, each by itself: what one is read as has nothing to do with the others.

Example:
    >>> import polars as pl
    >>> read_cells(pl.Series(["36", "36.0", "forty", ""]), "whole number").to_list()
    [36, 36, None, None]
"""

from __future__ import annotations

import polars as pl

__all__ = ["CELL_KINDS", "as_numbers", "read_cells"]

#: What a cell can be read as.
CELL_KINDS = ("text", "number", "whole number", "boolean")

_TRUE, _FALSE = ("true", "1"), ("false", "0")
# Whole numbers up to here are floating-point numbers.
_LARGEST_WHOLE = 2**53


def read_cells(text: pl.Series, kind: str) -> pl.Series:
    """Return the cells as values of a kind, null where one is none; the type is the same whatever is in them.

    Args:
        text: a column of text.
        kind: one of :data:`CELL_KINDS`. Numbers are finite ones; a truth value is "true", "false", 1 or 0.
    """
    if kind == "text":
        return text
    stripped = text.str.strip_chars()
    if kind == "boolean":
        lower = stripped.str.to_lowercase()
        known = pl.DataFrame({"true": lower.is_in(_TRUE), "false": lower.is_in(_FALSE)})
        value = pl.when("true").then(statement=True).when("false").then(statement=False)
        return known.select(value.alias(text.name).cast(pl.Boolean)).to_series()
    frame = pl.DataFrame({"number": as_numbers(stripped), "whole": stripped.cast(pl.Int64, strict=False)})
    number = pl.col("number")
    if kind == "number":
        return frame.select(pl.when(number.is_finite()).then(number).alias(text.name)).to_series()
    exact = (number == number.floor()) & number.is_between(-_LARGEST_WHOLE, _LARGEST_WHOLE)
    whole = pl.coalesce("whole", pl.when(exact).then(number).cast(pl.Int64, strict=False))
    return frame.select(whole.alias(text.name)).to_series()


def as_numbers(column: pl.Series) -> pl.Series:
    """Return a column of any type as floating-point numbers, null where a cell is none.

    A cell that is written as a number is that number, whether the column is one of numbers or of text.

    Args:
        column: the cells.
    """
    if column.dtype.is_numeric():
        return column.cast(pl.Float64)
    return column.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
