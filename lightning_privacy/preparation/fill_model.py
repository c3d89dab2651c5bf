"""Values predicted from the other columns of the row: from the first name the gender, from the postcode the place.

The model is naive Bayes on counts, see :mod:`~lightning_privacy.preparation.bayes_table`. One table of counts for each
predictor is all that is learned; under differential privacy each is a noisy histogram of public categories. Predictions
are then made of released counts and of the row itself.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"name": ["ada", "bob"] * 20 + ["ada"], "sex": ["f", "m"] * 20 + [None]})
    >>> step = FillFromModel("sex", ["name"])
    >>> step.fit(table.lazy(), Context())
    >>> step.run(table)["sex"][-1]
    'f'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse
from typing_extensions import override

from lightning_privacy._validate import positive, positive_int
from lightning_privacy.accounting import LaplaceRelease, Release
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms import private_histogram
from lightning_privacy.preparation._categories import checked_categories, only_of, require_categories
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation._numbers import bounds_of, checked_bounds, number, require_values
from lightning_privacy.preparation.bayes_table import BayesTable
from lightning_privacy.preparation.column_code import ColumnCode, binned, listed
from lightning_privacy.preparation.step import Context, Standing, Step

__all__ = ["FillFromModel"]

_MOST_CELLS = 2_000_000  # of a noisy histogram, each of which is drawn


class FillFromModel(Step):
    """Fills a column with what naive Bayes predicts from other columns of the row.

    Numbers, dates and moments are put in bins; what is filled is then the mean of the bins' centres, each with its
    probability. A row in which all predictors are missing gets what is most frequent.

    Args:
        column: the column to fill.
        predictors: the columns to predict it from.
        categories: column to all values there can be, known without looking at the data; under differential privacy
            every column of text, and of numbers without bounds, needs them.
        bounds: column to public [lowest, highest], for numbers, dates and moments that are no categories. Without, bins
            hold equally many rows.
        bins: into how many bins numbers are put.
        epsilon: under differential privacy, what all counts together cost, an equal part for each predictor.
        smoothing: what is added to each count.

    Raises:
        ConfigurationError: an argument is out of range; at :meth:`fit`, the column has no values, or only one, or
            categories, bounds or epsilon are needed and not there.
        PrivacyBudgetExceeded: at :meth:`fit`, the ledger can't pay; nothing was released.
    """

    name: ClassVar[str] = "fill from model"
    private: Standing = "released"
    learns: ClassVar[bool] = True

    def __init__(
        self,
        column: str,
        predictors: Iterable[str],
        *,
        categories: Mapping[str, Iterable[Any]] | None = None,
        bounds: Mapping[str, Sequence[Any]] | None = None,
        bins: int = 20,
        epsilon: float | None = None,
        smoothing: float = 1.0,
    ) -> None:
        super().__init__()
        (self._column,) = column_names("column", column, empty=False)
        self._predictors = column_names("predictors", predictors, empty=False)
        if self._column in self._predictors:
            raise ConfigurationError(f"predictors has {column!r}, the column to fill: take it out")
        self._categories, self._bounds = checked_categories(categories), checked_bounds(bounds)
        used = (self._column, *self._predictors)
        only_of("categories", self._categories, used)
        only_of("bounds", self._bounds, used)
        self._bins, self._smoothing = positive_int(bins=bins), positive(smoothing=smoothing)
        self._epsilon = None if epsilon is None else positive(epsilon=epsilon)
        self._target: ColumnCode | None = None
        self._codes: list[ColumnCode] = []
        self._model: BayesTable | None = None

    @override
    def planned(self, schema: pl.Schema, context: Context) -> Sequence[tuple[Release, int]]:
        return [(LaplaceRelease(self._share()), len(self._predictors))] if context.private else ()

    def _share(self) -> float:
        if self._epsilon is None:
            raise ConfigurationError(
                f"step {self.name!r} learns counts, and under differential privacy needs epsilon, what they may cost "
                f"together: epsilon=1.0, say; or take FillConstant, which learns nothing"
            )
        return self._epsilon / len(self._predictors)

    @override
    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        super().check(schema, context)
        if schema is not None:
            require_columns("column", [self._column], schema)
            require_columns("predictors", self._predictors, schema)
        if context.private:
            self._share()
            for name in (self._column, *self._predictors):
                if (
                    schema is None and name not in self._bounds
                ):  # whether it is of numbers, and needs those, isn't known
                    require_categories(name, self._categories)
        if schema is not None:
            target = self._declared_code(self._column, schema[self._column], context)
            codes = [self._declared_code(name, schema[name], context) for name in self._predictors]
            self._check_sizes(target, codes, context)
        return schema

    @override
    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        schema = frame.collect_schema()
        target = self._code(frame, self._column, schema[self._column], context)
        codes = [self._code(frame, name, schema[name], context) for name in self._predictors]
        self._check_rows(frame, target, codes, context)
        model = BayesTable(num_classes=target.size, smoothing=self._smoothing)
        for code in codes:
            model.add_counts(self._counts(frame, code, target, context))
        self._target, self._codes, self._model = target, codes, model
        self._learned = {
            "values": target.size,
            "counts": ", ".join(f"{code.name} x {self._column}: {code.size * target.size:,}" for code in codes),
        }

    def _code(self, frame: pl.LazyFrame, name: str, kind: pl.DataType, context: Context) -> ColumnCode:
        """How the column becomes whole numbers; learned from the rows only where nothing is private."""
        declared = self._declared_code(name, kind, context)
        if declared is not None:
            return declared
        ordered = kind.is_numeric() or kind.is_temporal()
        return binned(frame, name, kind, self._bins) if ordered else listed(frame, name, kind)

    def _declared_code(self, name: str, kind: pl.DataType, context: Context) -> ColumnCode | None:
        """How the column becomes whole numbers by what was declared; None where that is to be learned."""
        if name in self._categories:
            return ColumnCode.of_categories(name, kind, self._categories[name])
        if name in self._bounds:
            low, high = bounds_of(name, self._bounds, kind)
            return ColumnCode.between(name, kind, low, high, self._bins)
        ordered = kind.is_numeric() or kind.is_temporal()
        if context.private:
            if ordered:
                bounds_of(name, self._bounds, kind)
            require_categories(name, self._categories)
        if ordered:
            number("columns", name, kind)
        return None

    def _check_rows(self, frame: pl.LazyFrame, target: ColumnCode, codes: list[ColumnCode], context: Context) -> None:
        """Find what can be wrong before anything is charged."""
        if target.is_number:
            require_values("column", frame, [self._column])
        there = frame.select((target.expression() >= 0).sum()).collect(engine="streaming").item()
        if not there:
            raise ConfigurationError(
                f"every value of column {self._column!r} is missing or none of its categories, so that there is "
                f"nothing to learn from: fill it with a constant, or leave the column out"
            )
        self._check_sizes(target, codes, context)

    def _check_sizes(self, target: ColumnCode | None, codes: Sequence[ColumnCode | None], context: Context) -> None:
        if target is None:
            return
        if target.size < 2:
            raise ConfigurationError(
                f"column {self._column!r} has one value only, {target.show(0)!r}: fill it with that constant"
            )
        for code in codes if context.private else ():
            if code is not None and code.size * target.size > _MOST_CELLS:
                raise ConfigurationError(
                    f"{code.name!r} and {self._column!r} have {code.size} x {target.size} pairs of values, and noise "
                    f"is drawn for each: take fewer categories or bins, {_MOST_CELLS:,} pairs at most"
                )

    def _counts(
        self, frame: pl.LazyFrame, code: ColumnCode, target: ColumnCode, context: Context
    ) -> sparse.csr_array | NDArray[np.float64]:
        """How often each value of a predictor meets each value of the column, rows that lack one left out."""
        x, y = code.expression().alias("x"), target.expression().alias("y")
        pairs = frame.select(x, y).filter((pl.col("x") >= 0) & (pl.col("y") >= 0))
        if context.private:
            cells = pairs.select(pl.col("x") * target.size + pl.col("y")).collect(engine="streaming")
            noisy = private_histogram(
                cells["x"].to_numpy().astype(np.int64),
                num_classes=code.size * target.size,
                epsilon=self._share(),
                ledger=context.ledger,
                noise=context.noise,
            )
            return noisy.reshape(code.size, target.size).astype(np.float64)
        counted = pairs.group_by("x", "y").agg(pl.len().alias("n")).collect(engine="streaming")
        places = counted["x"].to_numpy(), counted["y"].to_numpy()
        shape = (code.size, target.size)
        return sparse.coo_array((counted["n"].to_numpy().astype(np.float64), places), shape=shape).tocsr()

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        if self._target is None:
            raise ConfigurationError(f"step {self.name!r} must be fitted before it is applied: call fit first")
        schema = frame.collect_schema()
        require_columns("columns", (self._column, *self._predictors), schema)
        kind = self._target.kind
        missing = pl.col(self._column).is_null()
        if kind.is_float():
            missing = missing | pl.col(self._column).is_nan()
        codes = [code.expression().alias(f"{place}") for place, code in enumerate(self._codes)]
        predicted = pl.struct(missing.alias("missing"), *codes).map_batches(
            self._predict, return_dtype=kind, is_elementwise=True
        )
        return frame.with_columns(pl.when(missing).then(predicted).otherwise(pl.col(self._column)).alias(self._column))

    def _predict(self, rows: pl.Series) -> pl.Series:
        if self._target is None or self._model is None:
            raise ConfigurationError(f"step {self.name!r} must be fitted before it is applied: call fit first")
        fields = rows.struct.unnest()
        wanted = fields["missing"].to_numpy().nonzero()[0]
        columns = [fields[f"{place}"].to_numpy()[wanted].astype(np.int64) for place in range(len(self._codes))]
        values: list[Any] = [None] * len(rows)
        for row, value in zip(wanted.tolist(), self._target.values(self._model, columns), strict=True):
            values[row] = value
        return pl.Series(rows.name, values, dtype=self._target.kind)
