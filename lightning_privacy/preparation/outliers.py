"""Values that can't be right: outside limits that are declared, or learned from the middle of the column.

Limits are learned from quartiles or from the median, which half of the rows being wrong would not move far: Tukey's
fences, ``[q1 - f (q3 - q1), q3 + f (q3 - q1)]`` (Tukey, "Exploratory Data Analysis", 1977), or the median plus or minus
f times 1.4826 median absolute deviations, which is the standard deviation where values are normal (Hampel, "The
Influence Curve and its Role in Robust Estimation", 1974). Under differential privacy both quantiles are released
through the ledger, within public bounds; then each row is compared with public constants.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"age": [31, 35, 38, 40, 44, 410, None]})
    >>> DeclaredLimits({"age": [0, 120]}).run(table)["age"].to_list()
    [31, 35, 38, 40, 44, None, None]
    >>> step = RobustLimits(["age"])
    >>> step.fit(table.lazy(), Context())
    >>> step.limits["age"]
    (24.875, 53.875)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from typing_extensions import override

from lightning_privacy._validate import one_of, positive
from lightning_privacy.accounting import Release, SelectionRelease
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms import private_quantile
from lightning_privacy.preparation._categories import only_of
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation._numbers import (
    as_number,
    as_value,
    bounds_of,
    cells_between,
    checked_bounds,
    number,
    numbers,
    require_values,
)
from lightning_privacy.preparation.step import Context, Standing, Step

__all__ = ["DeclaredLimits", "RobustLimits"]

_ACTIONS = ("null", "clip", "drop", "flag")
_METHODS = ("iqr", "mad")
_FACTORS = {"iqr": 1.5, "mad": 3.0}
_NORMAL = 1.4826  # standard deviations of a normal distribution in a median absolute deviation
_QUANTILES = 2  # releases for one column


class _Limits(Step):
    """What declared and learned limits have in common."""

    def __init__(self, *, action: str) -> None:
        super().__init__()
        one_of(_ACTIONS, action=action)
        self._action = action

    def _limited(self, frame: pl.LazyFrame, limits: Mapping[str, tuple[float, float]]) -> pl.LazyFrame:
        schema = frame.collect_schema()
        require_columns("columns", limits, schema)
        outside = {name: self._outside(name, schema[name], pair) for name, pair in limits.items()}
        if self._action == "drop":
            return frame.filter(~pl.any_horizontal(*outside.values()))
        if self._action == "flag":
            return frame.with_columns(wrong.alias(f"{name}_outlier") for name, wrong in outside.items())
        replaced = []
        for name, wrong in outside.items():
            instead = self._nearest(name, schema[name], limits[name]) if self._action == "clip" else pl.lit(None)
            replaced.append(pl.when(wrong).then(instead).otherwise(pl.col(name)).cast(schema[name]).alias(name))
        return frame.with_columns(replaced)

    @staticmethod
    def _outside(name: str, kind: pl.DataType, limits: tuple[float, float]) -> pl.Expr:
        """Whether a value is there and outside; infinity is, and so is what is not a number."""
        low, high = limits
        inside = number("columns", name, kind).is_between(low, high)
        return pl.col(name).is_not_null() & ~inside.fill_null(value=False)

    @staticmethod
    def _nearest(name: str, kind: pl.DataType, limits: tuple[float, float]) -> pl.Expr:
        """The limit that is passed; what is not a number has none, and becomes missing."""
        low, high = limits
        if kind.is_integer() or kind == pl.Date:
            low, high = math.ceil(low), math.floor(high)
        below, above = (pl.lit(as_value(limit, kind)) for limit in (low, high))
        column = pl.col(name)
        if kind.is_float():
            return pl.when(column.is_nan()).then(None).when(column < low).then(below).otherwise(above)
        return pl.when(number("columns", name, kind) < low).then(below).otherwise(above)


class DeclaredLimits(_Limits):
    """Takes out what lies outside public limits, as an age of 410 does.

    Args:
        limits: column to [lowest, highest], both allowed: numbers, dates, or dates in ISO form.
        action: ``"null"`` makes it missing, to be filled later; ``"clip"`` sets it to the limit; ``"drop"`` takes the
            row out; ``"flag"`` adds a column ``<column>_outlier`` and changes nothing.

    Raises:
        ConfigurationError: limits are the wrong way round, or a column is unknown or holds no numbers.
    """

    name: ClassVar[str] = "declared limits"
    by_columns: ClassVar[bool] = True

    def __init__(self, limits: Mapping[str, Sequence[Any]], *, action: str = "null") -> None:
        super().__init__(action=action)
        self._limits = checked_bounds(limits)
        if not self._limits:
            raise ConfigurationError("limits must map at least one column to [lowest, highest]")

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        require_columns("limits", self._limits, schema)
        return self._limited(
            frame,
            {
                name: (as_number(low, schema[name]), as_number(high, schema[name]))
                for name, (low, high) in self._limits.items()
            },
        )


class RobustLimits(_Limits):
    """Takes out what lies far from the middle of its column.

    Args:
        columns: columns of numbers, dates or moments.
        method: ``"iqr"`` for Tukey's fences, ``"mad"`` for median absolute deviations.
        factor: f of the module's formulas; None for 1.5 with ``"iqr"`` and 3 with ``"mad"``.
        bounds: column to public [lowest, highest], known without looking at the data. Limits never go beyond them;
            under differential privacy every column needs them.
        epsilon: under differential privacy, what the limits of one column cost, half for each of two quantiles.
        action: as in :class:`DeclaredLimits`.

    Raises:
        ConfigurationError: an argument is out of range; at :meth:`fit`, a column has no values or no spread, or bounds
            or epsilon are needed and not there.
        PrivacyBudgetExceeded: at :meth:`fit`, the ledger can't pay; nothing was released.
    """

    name: ClassVar[str] = "robust limits"
    private: Standing = "released"
    learns: ClassVar[bool] = True

    def __init__(
        self,
        columns: str | Iterable[str],
        *,
        method: str = "iqr",
        factor: float | None = None,
        bounds: Mapping[str, Sequence[Any]] | None = None,
        epsilon: float | None = None,
        action: str = "null",
    ) -> None:
        super().__init__(action=action)
        self._columns = column_names("columns", columns, empty=False)
        one_of(_METHODS, method=method)
        self._method = method
        self._factor = _FACTORS[method] if factor is None else positive(factor=factor)
        self._bounds = checked_bounds(bounds)
        only_of("bounds", self._bounds, self._columns)
        self._epsilon = None if epsilon is None else positive(epsilon=epsilon)
        self._limits: dict[str, tuple[float, float]] = {}

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """The limits that were learned; of dates in days, of moments in seconds since 1970."""
        return dict(self._limits)

    @override
    def planned(self, schema: pl.Schema, context: Context) -> Sequence[tuple[Release, int]]:
        if not context.private:
            return ()
        return [(SelectionRelease(self._share()), _QUANTILES * len(self._columns))]

    def _share(self) -> float:
        if self._epsilon is None:
            raise ConfigurationError(
                f"step {self.name!r} learns quantiles, and under differential privacy needs epsilon, what they may "
                f"cost: epsilon=0.1, say; or take DeclaredLimits, which learn nothing"
            )
        return self._epsilon / _QUANTILES

    @override
    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        super().check(schema, context)
        if schema is not None:
            require_columns("columns", self._columns, schema)
        if context.private:
            self._share()
        for name in self._columns:
            kind = None if schema is None else schema[name]
            if kind is not None:
                number("columns", name, kind)
            if context.private:
                bounds_of(name, self._bounds, kind)
        if schema is None:
            return None
        # The columns afterwards don't depend on where the limits are.
        return self._limited(pl.LazyFrame(schema=schema), dict.fromkeys(self._columns, (0.0, 1.0))).collect_schema()

    @override
    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        schema = frame.collect_schema()
        # All that can be wrong is found before anything is charged.
        require_values("columns", frame, self._columns)
        self._limits = {name: self._learn(frame, name, schema[name], context) for name in self._columns}
        self._learned = {
            name: f"{_shown(low, schema[name])} to {_shown(high, schema[name])}"
            for name, (low, high) in self._limits.items()
        }

    def _learn(self, frame: pl.LazyFrame, name: str, kind: pl.DataType, context: Context) -> tuple[float, float]:
        values = numbers("columns", frame, name)
        low, high = bounds_of(name, self._bounds, kind) if name in self._bounds else (-math.inf, math.inf)
        if self._method == "iqr":
            first = self._quantile(values, 0.25, low, high, kind, context)
            third = self._quantile(values, 0.75, low, high, kind, context)
            # With noise the quartiles of few rows may come out the wrong way round.
            first, third = min(first, third), max(first, third)
            reach = self._factor * (third - first)
        else:
            first = third = self._quantile(values, 0.5, low, high, kind, context)
            farthest = max(high - first, first - low)
            reach = self._factor * _NORMAL * self._quantile(np.abs(values - first), 0.5, 0.0, farthest, kind, context)
        if reach <= 0:
            raise ConfigurationError(
                f"the middle half of column {name!r} is one value, so that limits around it would take out every "
                f"other: declare its limits with DeclaredLimits, or leave it out"
            )
        return max(low, first - reach), min(high, third + reach)

    def _quantile(
        self, values: NDArray[np.float64], q: float, low: float, high: float, kind: pl.DataType, context: Context
    ) -> float:
        if not context.private:
            return float(np.quantile(np.clip(values, low, high), q))
        return private_quantile(
            values,
            q,
            lower=low,
            upper=high,
            epsilon=self._share(),
            cells=cells_between(low, high, kind),
            ledger=context.ledger,
            noise=context.noise,
        )

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self._limited(frame, self._limits)


def _shown(value: float, kind: pl.DataType) -> str:
    if kind.is_temporal() and math.isfinite(value):
        return str(as_value(value, kind))
    return f"{value:.6g}"
