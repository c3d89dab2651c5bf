"""Takes out, replaces or marks labels that are probably wrong.

They are found by confident learning, see :mod:`~lightning_privacy.preparation.confident_learning`. Whether a row's
label is right is decided by looking at all the others. Under differential privacy the step is refused without
``caveat=True``.

Example:
    >>> import polars as pl
    >>> size = [x / 50 for x in range(-100, 100)]
    >>> label = ["large" if x > 0 else "small" for x in size]
    >>> label[20] = "large"
    >>> table = pl.DataFrame({"size": size, "label": label})
    >>> step = LabelErrors(features=["size"], label="label", action="relabel")
    >>> step.fit(table.lazy(), Context())
    >>> step.run(table)["label"][20]
    'small'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from typing_extensions import override

from lightning_privacy._validate import non_negative_int, one_of, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation.confident_learning import label_errors, out_of_sample_probabilities
from lightning_privacy.preparation.step import Context, Standing, Step

__all__ = ["LabelErrors", "feature_matrix"]

_ACTIONS = ("null", "drop", "relabel", "flag")


class LabelErrors(Step):
    """Finds labels that are probably wrong, and takes them out, replaces or marks them.

    A row is known again by its features and label, whatever its place; rows that were not there at :meth:`fit` are left
    as they are, and so are rows without a label.

    Args:
        features: columns of numbers, of lists of numbers of one length, or of positions in ``stacks``; None for the
            features of the roles.
        label: the column of labels; None for that of the roles.
        stacks: column of positions to what is there, such as images: an array, shape (positions, ...).
        action: ``"null"`` makes the label missing; ``"drop"`` takes the row out; ``"relabel"`` puts the most probable
            class; ``"flag"`` adds a column ``<label>_error`` and changes nothing.
        folds: parts of the cross-validation.
        model: an estimator of scikit-learn with ``predict_proba``; None for a logistic regression.
        seed: of the parts.
        caveat: run under differential privacy all the same, with a caveat in the ledger.

    Raises:
        ConfigurationError: an argument is out of range; at :meth:`fit`, a feature is missing or no number, or there are
            fewer than two classes.
    """

    name: ClassVar[str] = "label errors"
    private: Standing = "compares"
    learns: ClassVar[bool] = True

    def __init__(
        self,
        *,
        features: Iterable[str] | None = None,
        label: str | None = None,
        stacks: Mapping[str, NDArray[Any]] | None = None,
        action: str = "null",
        folds: int = 5,
        model: Any = None,
        seed: int = 0,
        caveat: bool = False,
    ) -> None:
        super().__init__(caveat=caveat)
        self._features = column_names("features", features)
        if label is not None and (not isinstance(label, str) or not label):
            raise ConfigurationError(f"label must be the name of a column or None, got {label!r}")
        self._label = label
        self._stacks = dict(stacks or {})
        one_of(_ACTIONS, action=action)
        self._action = action
        self._folds, self._seed = positive_int(folds=folds), non_negative_int(seed=seed)
        if model is not None and not hasattr(model, "predict_proba"):
            raise ConfigurationError(f"model must be an estimator with predict_proba, got {model!r}")
        self._model = model
        self._column = ""
        self._used: tuple[str, ...] = ()
        self._wrong = pl.Series(dtype=pl.UInt64)
        self._suggested = pl.Series()

    @override
    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        super().check(schema, context)
        label, features = self._columns_of(context)
        if self._folds < 2:
            raise ConfigurationError(f"folds must be at least 2, got {self._folds}: each row's model has not seen it")
        if schema is None:
            return None
        require_columns("label", [label], schema)
        require_columns("features", features, schema)
        for name in features:
            _check_feature(name, schema[name], self._stacks)
        return pl.Schema({**schema, f"{label}_error": pl.Boolean()}) if self._action == "flag" else schema

    def _columns_of(self, context: Context) -> tuple[str, tuple[str, ...]]:
        """The label and the features."""
        label = self._label if self._label is not None else context.roles.label
        if label is None:
            raise ConfigurationError("label errors has no label: give label, or a column the role label")
        features = self._features or context.roles.features
        if not features or label in features:
            raise ConfigurationError("label errors needs features other than the label: give features, or the role")
        return label, features

    @override
    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        label, features = self._columns_of(context)
        self._column, self._used = label, (*features, label)
        table = frame.select(self._used).filter(pl.col(label).is_not_null()).collect(engine="streaming")
        classes = table[label].unique().sort()
        if len(classes) < 2:
            raise ConfigurationError(
                f"column {label!r} has {len(classes)} class{'es' if not len(classes) else ''}: label errors are found "
                f"between at least two"
            )
        numbers = table[label].replace_strict(classes, np.arange(len(classes)), return_dtype=pl.Int64).to_numpy()
        probabilities = out_of_sample_probabilities(
            feature_matrix(table, features, self._stacks),
            numbers,
            folds=self._folds,
            model=self._model,
            seed=self._seed,
        )
        wrong = label_errors(numbers, probabilities)
        found = table.select(self._row()).to_series().filter(pl.Series(wrong))
        best = classes.gather(probabilities.argmax(axis=1)[wrong])
        first = found.is_first_distinct()  # equal rows have one verdict
        self._wrong, self._suggested = found.filter(first), best.filter(first)
        self._learned = {"rows": table.height, "classes": len(classes), "errors": int(wrong.sum())}

    def _row(self) -> pl.Expr:
        return pl.struct(self._used).hash(0)

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        require_columns("columns", self._used, frame.collect_schema())
        wrong = self._row().is_in(self._wrong.implode()) & pl.col(self._column).is_not_null()
        if self._action == "drop":
            return frame.filter(~wrong)
        if self._action == "flag":
            return frame.with_columns(wrong.alias(f"{self._column}_error"))
        label = pl.col(self._column)
        if self._action == "null":
            return frame.with_columns(pl.when(~wrong).then(label).alias(self._column))
        kind = self._suggested.dtype
        instead = self._row().replace_strict(self._wrong, self._suggested, default=None, return_dtype=kind)
        return frame.with_columns(pl.when(wrong).then(instead).otherwise(label).alias(self._column))


def feature_matrix(
    table: pl.DataFrame, features: Iterable[str], stacks: Mapping[str, NDArray[Any]] | None = None
) -> NDArray[np.float64]:
    """The features of a table as numbers.

    Args:
        table: the rows.
        features: columns of numbers or yes and no, of lists of numbers of one length, or of positions in ``stacks``.
        stacks: as in :class:`LabelErrors`.

    Returns:
        Shape (rows, numbers of all features).

    Raises:
        ConfigurationError: a feature is missing somewhere, or is something else.
    """
    parts = []
    for name in features:
        column = table[name]
        _check_feature(name, column.dtype, stacks)
        if column.null_count():
            raise ConfigurationError(f"feature {name!r} is missing in {column.null_count()} rows: fill it before")
        if stacks and name in stacks:
            parts.append(_from_stack(name, column, np.asarray(stacks[name])))
        elif column.dtype.is_numeric() or column.dtype == pl.Boolean:
            parts.append(column.cast(pl.Float64).to_numpy()[:, None])
        else:
            lengths = column.list.len() if isinstance(column.dtype, pl.List) else column.arr.len()
            if lengths.n_unique() > 1:
                raise ConfigurationError(f"feature {name!r} has lists of different lengths, and a model needs one")
            parts.append(column.explode().cast(pl.Float64).to_numpy().reshape(len(column), -1))
    return np.concatenate(parts, axis=1)


def _check_feature(name: str, kind: pl.DataType, stacks: Mapping[str, NDArray[Any]] | None) -> None:
    """Refuse what no model takes; positions in a stack are looked at with the stack."""
    inner: Any = kind.inner if isinstance(kind, pl.List | pl.Array) else kind
    if name not in (stacks or {}) and not inner.is_numeric() and kind != pl.Boolean:
        raise ConfigurationError(f"feature {name!r} holds {kind}, and a model needs numbers: encode it before")


def _from_stack(name: str, positions: pl.Series, stack: NDArray[Any]) -> NDArray[np.float64]:
    places = positions.to_numpy()
    if not positions.dtype.is_integer() or (len(places) and not 0 <= places.min() <= places.max() < len(stack)):
        raise ConfigurationError(f"feature {name!r} must be positions in its stack, whole numbers in [0, {len(stack)})")
    numbers: NDArray[np.float64] = stack.reshape(len(stack), -1)[places].astype(np.float64)
    return numbers
