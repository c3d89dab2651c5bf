"""Columns of categories as whole numbers, by a list of all values there can be.

Example:
    >>> import polars as pl
    >>> category_codes(pl.LazyFrame({"sex": ["f", None, "m", "x"]}), "sex", ["f", "m"]).tolist()
    [1, 0, 2, 0]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lightning_privacy.errors import ConfigurationError

__all__ = ["category_codes", "checked_categories", "coded", "only_of", "require_categories"]


def checked_categories(categories: object) -> dict[str, tuple[Any, ...]]:
    """Lists of values by column, at least one each and none twice.

    Raises:
        ConfigurationError: they are something else.
    """
    if categories is None:
        return {}
    if not isinstance(categories, Mapping):
        raise ConfigurationError(f"categories must map columns to all their values, got {categories!r}")
    checked: dict[str, tuple[Any, ...]] = {}
    for name, values in categories.items():
        listed = () if isinstance(values, str) or not isinstance(values, Iterable) else tuple(values)
        if not listed or len(set(listed)) < len(listed) or None in listed:
            raise ConfigurationError(f"categories of {name!r} must be different values, at least one, got {values!r}")
        checked[str(name)] = listed
    return checked


def only_of(argument: str, given: Iterable[str], columns: Iterable[str]) -> None:
    """Refuse settings of columns that the step does not use: most often a slip of the pen.

    Raises:
        ConfigurationError: there is one.
    """
    used = list(columns)
    for name in given:
        if name not in used:
            raise ConfigurationError(
                f"{argument} has {name!r}, which is not among the columns of this step: {', '.join(map(repr, used))}"
            )


def require_categories(name: str, categories: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    """The categories of a column.

    Raises:
        ConfigurationError: there are none, and with differential privacy on there must be.
    """
    if name not in categories:
        raise ConfigurationError(
            f"column {name!r} needs public categories, known without looking at the data, for what is learned of it "
            f"under differential privacy: categories={{{name!r}: [all values there can be]}}"
        )
    return categories[name]


def coded(name: str, kind: pl.DataType, values: Sequence[Any]) -> pl.Expr:
    """1, 2, ... for the categories of a column, in the order of the list; 0 for what is missing or another value.

    Raises:
        ConfigurationError: the column can't hold the categories.
    """
    if kind == pl.Null:
        return pl.lit(0, dtype=pl.UInt32)
    plain = pl.String() if isinstance(kind, pl.Categorical | pl.Enum) else kind
    try:
        old = pl.Series(list(values), dtype=plain, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise ConfigurationError(f"categories of {name!r} are not of its type {kind}: {list(values)[:5]!r}") from error
    new = pl.Series(np.arange(1, len(values) + 1), dtype=pl.UInt32)
    return pl.col(name).cast(plain).replace_strict(old, new, default=0, return_dtype=pl.UInt32)


def category_codes(frame: pl.LazyFrame, name: str, values: Sequence[Any]) -> NDArray[np.int64]:
    """The codes of :func:`coded`, in memory."""
    column = frame.select(coded(name, frame.collect_schema()[name], values).alias("code")).collect(engine="streaming")
    return column["code"].to_numpy().astype(np.int64)
