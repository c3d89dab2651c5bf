"""Bands, regions and buckets of time in place of exact ages, places and moments.

What is left of a person in a row may single them out: age, place and time together do for most. Coarser values are
shared by more people; :mod:`~lightning_privacy.preparation.anonymity` measures by how many. Bands, regions and buckets
are public constants of the config, so that each row changes by itself: free under differential privacy.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"age": [17, 18, 64, 130], "place": ["Ulm", "Bonn", "Oslo", None]})
    >>> table = Bands("age", edges=[18, 65]).run(table)
    >>> Regions("place", {"south": ["Ulm"], "west": ["Bonn"]}).run(table).rows()
    [('<18', 'south'), ('18-64', 'west'), ('18-64', 'other'), ('65+', None)]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import polars as pl

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation.step import Step

__all__ = ["Bands", "Prefix", "Regions", "TimeBuckets"]

_BUCKETS = {"day": "1d", "week": "1w", "month": "1mo", "quarter": "1q", "year": "1y", "decade": "10y"}


class Bands(Step):
    """Replaces numbers by the band they fall in: ``"<18"``, ``"18-64"``, ``"65+"``.

    The first and the last band are open, so that no value is outside. A missing one, or one that is not a number, is
    missing afterwards.

    Args:
        column: the column of numbers.
        edges: where bands begin, rising: each value is in the band of the last edge that is not above it.
        labels: names of the bands, one more than edges; None for names made of the edges.

    Raises:
        ConfigurationError: the edges don't rise, the labels don't match, or the column holds no numbers.
    """

    name: ClassVar[str] = "bands"
    by_columns: ClassVar[bool] = True

    def __init__(self, column: str, *, edges: Iterable[float], labels: Iterable[str] | None = None) -> None:
        super().__init__()
        (self._column,) = column_names("column", column, empty=False)
        self._edges = _rising(edges)
        self._labels = band_labels(self._edges) if labels is None else tuple(str(label) for label in labels)
        if len(self._labels) != len(self._edges) + 1 or len(set(self._labels)) != len(self._labels):
            raise ConfigurationError(
                f"labels must be {len(self._edges) + 1} different names for {len(self._edges)} edges, got "
                f"{list(self._labels)!r}"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """The bands, from the lowest."""
        return self._labels

    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        require_columns("column", [self._column], schema)
        if not schema[self._column].is_numeric():
            raise ConfigurationError(
                f"column {self._column!r} holds {schema[self._column]}, and bands are of numbers: convert it before"
            )
        number = pl.col(self._column).cast(pl.Float64)
        band: Any = pl.when(number.is_nan()).then(None)
        for edge, label in zip(self._edges, self._labels, strict=False):
            band = band.when(number < edge).then(pl.lit(label))
        return frame.with_columns(
            band.when(number.is_not_null()).then(pl.lit(self._labels[-1])).alias(self._column).cast(pl.String)
        )


def band_labels(edges: tuple[float, ...]) -> tuple[str, ...]:
    """Names of the bands that edges make; whole edges are taken for whole numbers, as ages are."""
    whole = all(float(edge).is_integer() for edge in edges)
    texts = [str(int(edge)) if whole else f"{edge:g}" for edge in edges]
    middle = []
    for low, high in pairwise(texts):
        if not whole:
            middle.append(f"{low} to <{high}")
        elif int(high) - 1 == int(low):
            middle.append(low)
        else:
            middle.append(f"{low}-{int(high) - 1}")
    return (f"<{texts[0]}", *middle, f"{texts[-1]}+")


def _rising(edges: object) -> tuple[float, ...]:
    values = tuple(edges) if isinstance(edges, Iterable) and not isinstance(edges, str) else ()
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    rising = all(low < high for low, high in pairwise(numbers))
    if not values or len(numbers) != len(values) or not all(map(math.isfinite, numbers)) or not rising:
        raise ConfigurationError(f"edges must be finite numbers that rise, such as [18, 30, 45, 65], got {edges!r}")
    return tuple(numbers)


class Regions(Step):
    """Replaces places by the region they are in, after a public list.

    Args:
        column: the column of text.
        regions: region to its places, compared without regard to case and outer white space.
        other: what a place of none of them becomes; None for missing.

    Raises:
        ConfigurationError: a place is in two regions, there are none, or the column holds no text.
    """

    name: ClassVar[str] = "regions"
    by_columns: ClassVar[bool] = True

    def __init__(self, column: str, regions: Mapping[str, Iterable[str]], *, other: str | None = "other") -> None:
        super().__init__()
        (self._column,) = column_names("column", column, empty=False)
        if other is not None and (not isinstance(other, str) or not other):
            raise ConfigurationError(f"other must be a text or None, got {other!r}")
        self._other = other
        self._region_of = _region_table(regions)

    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        place = _text(frame, self._column).str.strip_chars().str.to_lowercase()
        region = place.replace_strict(self._region_of, default=pl.lit(self._other), return_dtype=pl.String)
        # A missing place stays missing: it is not another place.
        return frame.with_columns(pl.when(place.is_not_null()).then(region).alias(self._column))


def _region_table(regions: object) -> dict[str, str]:
    if not isinstance(regions, Mapping) or not regions:
        raise ConfigurationError(f"regions must map each region to its places, got {regions!r}")
    table: dict[str, str] = {}
    for region, places in regions.items():
        for place in (places,) if isinstance(places, str) else places:
            key = str(place).strip().lower()
            if table.setdefault(key, str(region)) != str(region):
                raise ConfigurationError(f"regions has {place!r} in both {table[key]!r} and {region!r}: keep one")
    return table


class Prefix(Step):
    """Keeps the part of a code that says the area, such as the letters a British postcode begins with.

    Args:
        column: the column of text.
        pattern: a regular expression; what it matches first is kept, its first group if it has one. By default the
            letters at the beginning. What does not match becomes missing.

    Raises:
        ConfigurationError: the pattern is no regular expression, or the column holds no text.
    """

    name: ClassVar[str] = "prefix"
    by_columns: ClassVar[bool] = True

    def __init__(self, column: str, pattern: str = r"^\s*([\p{L}]+)") -> None:
        super().__init__()
        (self._column,) = column_names("column", column, empty=False)
        try:
            pl.Series(["a"]).str.extract(pattern)
            groups = pl.select(pl.lit("a").str.extract_groups(pattern)).dtypes[0]
        except (pl.exceptions.PolarsError, TypeError) as error:
            raise ConfigurationError(f"pattern must be a regular expression, got {pattern!r}: {error}") from error
        self._pattern = pattern
        self._group = 1 if getattr(groups, "fields", []) else 0

    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.with_columns(_text(frame, self._column).str.extract(self._pattern, self._group))


class TimeBuckets(Step):
    """Replaces dates and moments by the day on which their week, month, quarter, year or decade begins.

    Args:
        column: a column of dates or moments; a date stays a date.
        every: ``"day"``, ``"week"``, ``"month"``, ``"quarter"``, ``"year"`` or ``"decade"``.

    Raises:
        ConfigurationError: ``every`` is something else, or the column holds no dates.
    """

    name: ClassVar[str] = "time buckets"
    by_columns: ClassVar[bool] = True

    def __init__(self, column: str, *, every: str = "month") -> None:
        super().__init__()
        (self._column,) = column_names("column", column, empty=False)
        one_of(tuple(_BUCKETS), every=every)
        self._every = every

    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        require_columns("column", [self._column], schema)
        kind: Any = schema[self._column]
        if kind != pl.Date and not isinstance(kind, pl.Datetime):
            raise ConfigurationError(
                f"column {self._column!r} holds {kind}, and buckets are of dates: convert it before"
            )
        return frame.with_columns(pl.col(self._column).dt.truncate(_BUCKETS[self._every]))


def _text(frame: pl.LazyFrame, column: str) -> pl.Expr:
    schema = frame.collect_schema()
    require_columns("column", [column], schema)
    if schema[column] not in (pl.String, pl.Null) and not isinstance(schema[column], pl.Categorical | pl.Enum):
        raise ConfigurationError(f"column {column!r} holds {schema[column]} and not text")
    return pl.col(column).cast(pl.String)
