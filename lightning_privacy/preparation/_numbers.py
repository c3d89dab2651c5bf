"""Columns of numbers, dates and moments as plain numbers to learn from, and back.

Example:
    >>> import polars as pl
    >>> table = pl.LazyFrame({"day": ["2020-01-01", None, "2020-01-03"]}).with_columns(pl.col("day").str.to_date())
    >>> numbers("columns", table, "day").tolist()
    [18262.0, 18264.0]
    >>> as_value(18263.0, pl.Date())
    datetime.date(2020, 1, 2)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import require_columns

__all__ = [
    "as_number",
    "as_value",
    "bounds_of",
    "cells_between",
    "checked_bounds",
    "number",
    "numbers",
    "require_values",
]

_EPOCH = date(1970, 1, 1)
_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_CELLS = 2**16


def number(argument: str, name: str, kind: pl.DataType) -> pl.Expr:
    """The column as floating-point numbers: days of a date, seconds of a moment, since 1970; no number is missing.

    Args:
        argument: what the column was named by, for the message.
        name: the column.
        kind: its type.

    Raises:
        ConfigurationError: it is of another type.
    """
    column = pl.col(name)
    if kind == pl.Date:
        return column.cast(pl.Int32).cast(pl.Float64)
    if isinstance(kind, pl.Datetime):
        return column.dt.cast_time_unit("us").cast(pl.Int64).cast(pl.Float64) / 1e6
    if kind.is_numeric() or kind == pl.Null:
        values = column.cast(pl.Float64)
        return pl.when(values.is_finite()).then(values)
    raise ConfigurationError(
        f"{argument} names {name!r}, which holds {kind}, and only numbers, dates and moments will do: convert it before"
    )


def numbers(argument: str, frame: pl.LazyFrame, name: str) -> NDArray[np.float64]:
    """The numbers of a column that are there, in memory.

    Raises:
        ConfigurationError: the column is unknown, of another type, or has no value at all.
    """
    schema = frame.collect_schema()
    require_columns(argument, [name], schema)
    values = frame.select(number(argument, name, schema[name]).alias(name)).drop_nulls().collect(engine="streaming")
    if values.height == 0:
        raise _nothing_there(name)
    return values[name].to_numpy()


def require_values(argument: str, frame: pl.LazyFrame, names: Iterable[str]) -> None:
    """Refuse columns without a single value to learn from, all of them before anything is learned of one.

    Raises:
        ConfigurationError: as :func:`numbers`.
    """
    schema = frame.collect_schema()
    require_columns(argument, names, schema)
    there = [number(argument, name, schema[name]).count().alias(name) for name in names]
    for name, count in frame.select(there).collect(engine="streaming").row(0, named=True).items():
        if count == 0:
            raise _nothing_there(name)


def _nothing_there(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"every value of column {name!r} is missing or no number, so that there is nothing to learn from: fill it with "
        f"a constant, or leave the column out"
    )


def as_number(value: object, kind: pl.DataType | None = None) -> float:
    """A bound as a number: of a number itself; of a date, or one in ISO form, what :func:`number` makes of it.

    Raises:
        ConfigurationError: it is none of these.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ConfigurationError(
                f"a bound must be a number or a date such as '1990-01-31', got {value!r}"
            ) from error
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        seconds = (moment - _MOMENT).total_seconds()
        return math.floor(seconds / 86_400) if kind == pl.Date else seconds
    if isinstance(value, date):
        days = (value - _EPOCH).days
        return float(days if kind == pl.Date else days * 86_400)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigurationError(f"a bound must be a finite number or a date, got {value!r}")
    return float(value)


def as_value(value: float, kind: pl.DataType) -> Any:
    """A number as a value of a column of this type: whole where the column is of whole numbers."""
    if kind == pl.Date:
        return _EPOCH + timedelta(days=round(value))
    if isinstance(kind, pl.Datetime):
        moment = _MOMENT + timedelta(seconds=round(value))
        return moment if kind.time_zone else moment.replace(tzinfo=None)
    return round(value) if kind.is_integer() else float(value)


def checked_bounds(bounds: object) -> dict[str, tuple[Any, Any]]:
    """Bounds by column: pairs of which the first is below the second.

    Raises:
        ConfigurationError: they are something else.
    """
    if bounds is None:
        return {}
    if not isinstance(bounds, Mapping):
        raise ConfigurationError(f"bounds must map columns to [lowest, highest], got {bounds!r}")
    checked: dict[str, tuple[Any, Any]] = {}
    for name, pair in bounds.items():
        values = () if isinstance(pair, str) or pair is None else tuple(pair)
        if len(values) != 2:
            raise ConfigurationError(f"bounds of {name!r} must be [lowest, highest], got {pair!r}")
        if not as_number(values[0]) < as_number(values[1]):
            raise ConfigurationError(f"bounds of {name!r} must have the lower one first, got {pair!r}")
        checked[str(name)] = (values[0], values[1])
    return checked


def bounds_of(name: str, bounds: Mapping[str, tuple[Any, Any]], kind: pl.DataType | None) -> tuple[float, float]:
    """The bounds of a column as numbers.

    Raises:
        ConfigurationError: there are none, and with differential privacy on there must be.
    """
    if name not in bounds:
        raise ConfigurationError(
            f"column {name!r} needs public bounds, known without looking at the data, for what is learned of it under "
            f"differential privacy: bounds={{{name!r}: [lowest, highest]}}"
        )
    low, high = bounds[name]
    return as_number(low, kind), as_number(high, kind)


def cells_between(low: float, high: float, kind: pl.DataType) -> int:
    """Steps of the grid on which a quantile is sought: whole numbers and days where they are not too many."""
    width = high - low
    if (kind.is_integer() or kind == pl.Date) and width <= _MOST_CELLS and width.is_integer():
        return int(width)
    return _MOST_CELLS
