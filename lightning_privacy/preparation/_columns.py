"""Names of columns that a step was given, checked against the table."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import polars as pl

from lightning_privacy.errors import ConfigurationError

__all__ = ["PIPELINE", "ROW", "column_names", "known_person", "require_columns", "text_columns"]

#: What names of columns begin with that a pipeline carries along. Steps take such a column only by name. Where records
#: become one, a truth value is true for the one if it was for any, and of other values the one has the smallest.
PIPELINE = "\x00"
#: The column in which a pipeline keeps which record a row is: a hash of what the record held in the raw table.
ROW = f"{PIPELINE}row"

_SHOWN = 20


def column_names(argument: str, value: object, *, empty: bool = True) -> tuple[str, ...]:
    """Return names of columns as a tuple; one name alone stands for a tuple of one.

    Args:
        argument: what the names were passed as, for the message.
        value: a name, several, or None for none.
        empty: whether none is allowed.

    Raises:
        ConfigurationError: something is not a name, is there twice, or none is there and one is needed.
    """
    names = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable):
        raise ConfigurationError(f"{argument} must be names of columns, got {value!r}")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{argument} must be names of columns, got {name!r} among them")
        if names.count(name) > 1:
            raise ConfigurationError(f"{argument} names column {name!r} twice: remove one of them")
    if not names and not empty:
        raise ConfigurationError(f"{argument} must name at least one column")
    return names


def require_columns(argument: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that the table does not have.

    Args:
        argument: what the names were passed as, for the message.
        names: the names.
        known: the table's columns.

    Raises:
        ConfigurationError: a column is unknown; the message has the nearest name, or the names there are.
    """
    columns = list(known)
    for name in names:
        if name in columns:
            continue
        near = get_close_matches(name, columns, n=1)
        listed = ", ".join(map(repr, columns[:_SHOWN]))
        listed += f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
        hint = f"did you mean {near[0]!r}?" if near else f"its columns are {listed}"
        raise ConfigurationError(f"{argument} names column {name!r}, which the table does not have; {hint}")


def text_columns(schema: pl.Schema) -> tuple[str, ...]:
    """The columns that hold text."""
    return tuple(name for name, kind in schema.items() if kind == pl.String)


def known_person(schema: pl.Schema, key: str) -> pl.Expr:
    """A column that says who a row is about, null where it does not: a missing value, NaN, or blank text.

    Args:
        schema: Of the table, which has the column.
        key: Its name.
    """
    kind, value = schema[key], pl.col(key)
    if kind.is_float():
        return value.fill_nan(None)
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return pl.when(value.cast(pl.String).str.strip_chars() != "").then(value)
    return value
