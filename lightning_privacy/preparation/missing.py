"""Values where there were none: constants, medians, means and modes of their column, and a mark that they were missing.

A constant and a mark look at nothing else. A median, mean or mode is learned from the rows that have the value; under
differential privacy it is released through the ledger, within public bounds or of public categories. What people are
like whose value is missing is not known from those who have one: :class:`MissingIndicator` before the filling keeps for
the model that it was.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"age": [20, None, 41], "place": ["Ulm", "Ulm", None], "note": [None, "x", None]})
    >>> steps = [MissingIndicator(["age"]), FillMedian("age"), FillMode("place"), FillConstant({"note": "-"})]
    >>> for step in steps:
    ...     step.fit(table.lazy(), Context())
    ...     table = step.run(table)
    >>> table.row(1)
    (30, 'Ulm', 'x', True)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
from typing_extensions import override

from lightning_privacy._validate import positive
from lightning_privacy.accounting import LaplaceRelease, Release, SelectionRelease
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms import private_mean, private_mode, private_quantile
from lightning_privacy.preparation._categories import (
    category_codes,
    checked_categories,
    coded,
    only_of,
    require_categories,
)
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation._numbers import (
    as_value,
    bounds_of,
    cells_between,
    checked_bounds,
    number,
    numbers,
    require_values,
)
from lightning_privacy.preparation.step import Context, Standing, Step

__all__ = ["FillConstant", "FillMean", "FillMedian", "FillMode", "MissingIndicator"]


class MissingIndicator(Step):
    """Adds a column ``<column>_missing`` that says where a value was missing.

    Args:
        columns: the columns.
        suffix: what is added to their names.

    Raises:
        ConfigurationError: a column is unknown, or the new one is there already.
    """

    name: ClassVar[str] = "missing indicator"
    by_columns: ClassVar[bool] = True

    def __init__(self, columns: str | Iterable[str], *, suffix: str = "_missing") -> None:
        super().__init__()
        self._columns = column_names("columns", columns, empty=False)
        if not isinstance(suffix, str) or not suffix:
            raise ConfigurationError(f"suffix must be a text that is not empty, got {suffix!r}")
        self._suffix = suffix

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        require_columns("columns", self._columns, schema)
        for name in self._columns:
            if name + self._suffix in schema:
                raise ConfigurationError(f"the table has a column {name + self._suffix!r} already: take another suffix")
        return frame.with_columns(_is_missing(name, schema[name]).alias(name + self._suffix) for name in self._columns)


class FillConstant(Step):
    """Puts a public constant where a value is missing.

    Args:
        values: column to what is put there.

    Raises:
        ConfigurationError: there is none, a column is unknown, or it can't hold the value.
    """

    name: ClassVar[str] = "fill constant"
    by_columns: ClassVar[bool] = True

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        if not isinstance(values, Mapping) or not values or any(value is None for value in values.values()):
            raise ConfigurationError(f"values must map columns to what is put where they are missing, got {values!r}")
        self._values = dict(values)

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return _filled(frame, self._values, "values")


class _FillLearned(Step):
    """Filling with something learned: subclasses name one release for each column, and learn one value."""

    private: Standing = "released"
    learns: ClassVar[bool] = True

    def __init__(self, columns: str | Iterable[str], *, epsilon: float | None) -> None:
        super().__init__()
        self._columns = column_names("columns", columns, empty=False)
        self._epsilon = None if epsilon is None else positive(epsilon=epsilon)
        self._values: dict[str, Any] = {}

    @override
    def planned(self, schema: pl.Schema, context: Context) -> Sequence[tuple[Release, int]]:
        return [(self._release(self._cost()), len(self._columns))] if context.private else ()

    def _cost(self) -> float:
        if self._epsilon is None:
            raise ConfigurationError(
                f"step {self.name!r} learns from the rows, and under differential privacy needs epsilon, what one "
                f"column may cost: epsilon=0.1, say; or take FillConstant, which learns nothing"
            )
        return self._epsilon

    @override
    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        super().check(schema, context)
        if schema is not None:
            require_columns("columns", self._columns, schema)
        if context.private:
            self._cost()
        for name in self._columns:
            self._check_column(name, None if schema is None else schema[name], context)
        return schema

    @override
    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        schema = frame.collect_schema()
        # All that can be wrong is found before anything is charged.
        self._check_values(frame, schema)
        self._values = {name: self._learn(frame, name, schema[name], context) for name in self._columns}
        self._learned = {name: str(value) for name, value in self._values.items()}

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return _filled(frame, self._values, "columns")

    @abstractmethod
    def _release(self, epsilon: float) -> Release:
        """What one column is charged as."""

    @abstractmethod
    def _check_column(self, name: str, kind: pl.DataType | None, context: Context) -> None:
        """Raise what can be wrong with a column, whatever its rows; the type is None where it isn't known yet."""

    @abstractmethod
    def _check_values(self, frame: pl.LazyFrame, schema: pl.Schema) -> None:
        """Raise what can be wrong with the rows."""

    @abstractmethod
    def _learn(self, frame: pl.LazyFrame, name: str, kind: pl.DataType, context: Context) -> Any:
        """The value to fill one column with."""


class _FillNumber(_FillLearned):
    """Filling of columns of numbers, dates or moments."""

    def __init__(
        self,
        columns: str | Iterable[str],
        *,
        bounds: Mapping[str, Sequence[Any]] | None = None,
        epsilon: float | None = None,
    ) -> None:
        super().__init__(columns, epsilon=epsilon)
        self._bounds = checked_bounds(bounds)
        only_of("bounds", self._bounds, self._columns)

    @override
    def _check_column(self, name: str, kind: pl.DataType | None, context: Context) -> None:
        if kind is not None:
            number("columns", name, kind)
        if context.private:
            bounds_of(name, self._bounds, kind)

    @override
    def _check_values(self, frame: pl.LazyFrame, schema: pl.Schema) -> None:
        require_values("columns", frame, self._columns)


class FillMedian(_FillNumber):
    """Fills with the median of the column; whole where the column is of whole numbers.

    Args:
        columns: columns of numbers, dates or moments.
        bounds: under differential privacy, column to public [lowest, highest], known without looking at the data.
        epsilon: under differential privacy, what the median of one column costs.

    Raises:
        ConfigurationError: an argument is out of range; at :meth:`fit`, a column has no values, or bounds or epsilon
            are needed and not there.
        PrivacyBudgetExceeded: at :meth:`fit`, the ledger can't pay.
    """

    name: ClassVar[str] = "fill median"

    @override
    def _release(self, epsilon: float) -> Release:
        return SelectionRelease(epsilon)

    @override
    def _learn(self, frame: pl.LazyFrame, name: str, kind: pl.DataType, context: Context) -> Any:
        values = numbers("columns", frame, name)
        if not context.private:
            return as_value(float(np.median(values)), kind)
        low, high = bounds_of(name, self._bounds, kind)
        median = private_quantile(
            values,
            0.5,
            lower=low,
            upper=high,
            epsilon=self._cost(),
            cells=cells_between(low, high, kind),
            ledger=context.ledger,
            noise=context.noise,
        )
        return as_value(median, kind)


class FillMean(_FillNumber):
    """Fills with the mean of the column; arguments and errors as of :class:`FillMedian`."""

    name: ClassVar[str] = "fill mean"

    @override
    def _release(self, epsilon: float) -> Release:
        return LaplaceRelease(epsilon)

    @override
    def _learn(self, frame: pl.LazyFrame, name: str, kind: pl.DataType, context: Context) -> Any:
        values = numbers("columns", frame, name)
        if not context.private:
            return as_value(float(values.mean()), kind)
        low, high = bounds_of(name, self._bounds, kind)
        mean = private_mean(
            values, lower=low, upper=high, epsilon=self._cost(), ledger=context.ledger, noise=context.noise
        )
        return as_value(mean, kind)


class FillMode(_FillLearned):
    """Fills with the most frequent value of the column.

    Args:
        columns: columns of text, whole numbers or yes and no.
        categories: column to all values there can be, known without looking at the data; under differential privacy
            every column needs them. Other values don't count.
        epsilon: under differential privacy, what the mode of one column costs.

    Raises:
        ConfigurationError: an argument is out of range; at :meth:`fit`, a column has no values, or categories or
            epsilon are needed and not there.
        PrivacyBudgetExceeded: at :meth:`fit`, the ledger can't pay.
    """

    name: ClassVar[str] = "fill mode"

    def __init__(
        self,
        columns: str | Iterable[str],
        *,
        categories: Mapping[str, Iterable[Any]] | None = None,
        epsilon: float | None = None,
    ) -> None:
        super().__init__(columns, epsilon=epsilon)
        self._categories = checked_categories(categories)
        only_of("categories", self._categories, self._columns)

    @override
    def _release(self, epsilon: float) -> Release:
        return SelectionRelease(epsilon)

    @override
    def _check_column(self, name: str, kind: pl.DataType | None, context: Context) -> None:
        if context.private:
            require_categories(name, self._categories)
        if kind is not None:
            self._allowed(name, kind)

    @override
    def _check_values(self, frame: pl.LazyFrame, schema: pl.Schema) -> None:
        there = [self._allowed(name, schema[name]).sum().alias(name) for name in self._columns]
        for name, count in frame.select(there).collect(engine="streaming").row(0, named=True).items():
            if not count:
                among = " or none of its categories" if name in self._categories else ""
                raise ConfigurationError(
                    f"every value of column {name!r} is missing{among}, so that there is nothing to learn from: fill "
                    f"it with a constant, or leave the column out"
                )

    def _allowed(self, name: str, kind: pl.DataType) -> pl.Expr:
        if name in self._categories:
            return coded(name, kind, self._categories[name]) > 0
        return pl.col(name).is_not_null()

    @override
    def _learn(self, frame: pl.LazyFrame, name: str, kind: pl.DataType, context: Context) -> Any:
        if context.private:
            values = require_categories(name, self._categories)
            codes = category_codes(frame, name, values)
            chosen = private_mode(
                codes[codes > 0] - 1,
                num_classes=len(values),
                epsilon=self._cost(),
                ledger=context.ledger,
                noise=context.noise,
            )
            return values[chosen]
        counts = frame.filter(self._allowed(name, kind)).group_by(name).agg(pl.len().alias("\x00rows"))
        # Among several the smallest, so that the order of rows does not matter.
        return counts.sort(["\x00rows", name], descending=[True, False]).head(1).collect(engine="streaming")[name][0]


def _is_missing(name: str, kind: pl.DataType) -> pl.Expr:
    return pl.col(name).is_null() | pl.col(name).is_nan() if kind.is_float() else pl.col(name).is_null()


def _filled(frame: pl.LazyFrame, values: Mapping[str, Any], argument: str) -> pl.LazyFrame:
    schema = frame.collect_schema()
    require_columns(argument, values, schema)
    filled = []
    for name, value in values.items():
        try:
            kind = schema[name]
            constant = pl.Series([value], dtype=None if kind == pl.Null else kind, strict=True)
        except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
            raise ConfigurationError(f"column {name!r} holds {schema[name]}, and can't hold {value!r}") from error
        instead = pl.lit(constant[0], dtype=constant.dtype)
        filled.append(pl.when(_is_missing(name, kind)).then(instead).otherwise(pl.col(name)).alias(name))
    return frame.with_columns(filled)
