"""One column as whole numbers from 0 for a model of counts: by a list of its values, or by the bins of its numbers.

Example:
    >>> import polars as pl
    >>> code = ColumnCode.of_bins("age", pl.Int64(), edges=[18, 65], centres=[9, 40, 75])
    >>> pl.DataFrame({"age": [17, 18, 130, None]}).select(code.expression())["age"].to_list()
    [0, 1, 2, -1]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._categories import coded
from lightning_privacy.preparation._numbers import as_value, number, numbers
from lightning_privacy.preparation.bayes_table import BayesTable

__all__ = ["ColumnCode", "binned", "listed"]

_CHUNK = 100_000


@dataclass(frozen=True)
class ColumnCode:
    """How a column becomes whole numbers, and back: made by :meth:`of_categories`, :meth:`of_bins` or :meth:`between`.

    Args:
        name: the column.
        kind: its type.
        categories: its values; () for numbers in bins.
        edges: where bins begin, but for the first; () for categories.
        centres: what stands for each bin; () for categories.
    """

    name: str
    kind: pl.DataType
    categories: tuple[Any, ...] = ()
    edges: tuple[float, ...] = ()
    centres: tuple[float, ...] = ()

    @classmethod
    def of_categories(cls, name: str, kind: pl.DataType, categories: Sequence[Any]) -> ColumnCode:
        """By a list of values; others count as missing."""
        coded(name, kind, categories)
        return cls(name, kind, categories=tuple(categories))

    @classmethod
    def of_bins(cls, name: str, kind: pl.DataType, edges: Sequence[float], centres: Sequence[float]) -> ColumnCode:
        """By rising edges between bins, one fewer than bins; the first and the last bin are open."""
        number("columns", name, kind)
        if len(edges) + 1 != len(centres):
            raise ConfigurationError(
                f"{len(centres)} bins need {len(centres) - 1} edges between them, got {len(edges)}"
            )
        return cls(name, kind, edges=tuple(map(float, edges)), centres=tuple(map(float, centres)))

    @classmethod
    def between(cls, name: str, kind: pl.DataType, low: float, high: float, bins: int) -> ColumnCode:
        """By bins of one width between public bounds."""
        edges = np.linspace(low, high, bins + 1)
        return cls.of_bins(name, kind, edges[1:-1].tolist(), ((edges[1:] + edges[:-1]) / 2).tolist())

    @property
    def is_number(self) -> bool:
        """Whether it is numbers in bins."""
        return bool(self.centres)

    @property
    def size(self) -> int:
        """How many whole numbers there are."""
        return len(self.centres) or len(self.categories)

    def expression(self) -> pl.Expr:
        """0, 1, ... for the values of the column; -1 for one that is missing."""
        if not self.is_number:
            return (coded(self.name, self.kind, self.categories).cast(pl.Int64) - 1).alias(self.name)
        value = number("columns", self.name, self.kind)
        above = [(value >= edge).cast(pl.Int64) for edge in self.edges]
        place = pl.sum_horizontal(above) if above else pl.lit(0, dtype=pl.Int64)
        return pl.when(value.is_not_null()).then(place).otherwise(-1).alias(self.name)

    def show(self, place: int) -> Any:
        """A value of this number: the category, or what stands for the bin."""
        return as_value(self.centres[place], self.kind) if self.is_number else self.categories[place]

    def values(self, model: BayesTable, columns: Sequence[NDArray[np.int64]]) -> Iterator[Any]:
        """What a model predicts for each row: the most probable category, or the mean over the bins."""
        if not self.is_number:
            for place in model.best(columns).tolist():
                yield self.categories[place]
            return
        centres = np.array(self.centres)
        for start in range(0, len(columns[0]), _CHUNK):
            shares = model.predict([column[start : start + _CHUNK] for column in columns])
            for value in (shares @ centres).tolist():
                yield as_value(value, self.kind)


def binned(frame: pl.LazyFrame, name: str, kind: pl.DataType, bins: int) -> ColumnCode:
    """Bins of about equally many rows, learned from them, each with its mean; a bin for each value where these are few.

    Raises:
        ConfigurationError: the column has no values.
    """
    values = numbers("columns", frame, name)
    distinct = np.unique(values)
    if len(distinct) <= bins:
        edges = (distinct[1:] + distinct[:-1]) / 2
        return ColumnCode.of_bins(name, kind, edges.tolist(), distinct.tolist())
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    edges = edges[edges > distinct[0]]
    place = np.searchsorted(edges, values, side="right")
    means = np.bincount(place, weights=values, minlength=len(edges) + 1) / np.bincount(place, minlength=len(edges) + 1)
    return ColumnCode.of_bins(name, kind, edges.tolist(), means.tolist())


def listed(frame: pl.LazyFrame, name: str, kind: pl.DataType) -> ColumnCode:
    """All values that are in the rows, learned from them.

    Raises:
        ConfigurationError: the column has no values.
    """
    values = frame.select(pl.col(name)).drop_nulls().unique().sort(name).collect(engine="streaming")[name].to_list()
    if not values:
        raise ConfigurationError(
            f"every value of column {name!r} is missing, so that there is nothing to learn from: fill it with a "
            f"constant, or leave the column out"
        )
    return ColumnCode.of_categories(name, kind, values)
