"""Which labels are probably wrong, by confident learning: pure functions of arrays.

A model that has not seen a row says how probable each class is. Where it is at least as sure of another class as it is
on average of rows that have that class, the label is suspicious; the counts of such rows estimate how often each class
is mistaken for each other one, and that many of the labels with the largest margin against them are taken for errors
(Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021, section 3, with
pruning by noise rate). The probabilities are out of sample, by cross-validation.

Example:
    >>> import numpy as np
    >>> features = np.linspace(-3, 3, 200)[:, None]
    >>> labels = (features[:, 0] > 0).astype(int)
    >>> labels[[20, 180]] ^= 1
    >>> wrong = label_errors(labels, out_of_sample_probabilities(features, labels, folds=5))
    >>> bool(wrong[20] and wrong[180]), int(wrong.sum()) < 12
    (True, True)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["label_errors", "out_of_sample_probabilities"]

# A class whose rows are all equally probable has their mean for a threshold, give or take rounding.
_ROUNDING = 1e-6


def label_errors(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of each label whether it is probably wrong.

    Args:
        labels: whole numbers in [0, C), shape (N,).
        probabilities: of each class, from a model that has not seen the row, shape (N, C).

    Returns:
        Shape (N,).

    Raises:
        ConfigurationError: the shapes don't match, a label is out of range, a class has no label, there is one class
            only, or a probability is not in [0, 1].
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or labels.shape != (len(probabilities),):
        raise ConfigurationError(
            f"probabilities must have shape (N, classes) for N labels, got {probabilities.shape} for {labels.shape}"
        )
    classes = probabilities.shape[1]
    if not np.issubdtype(labels.dtype, np.integer) or (len(labels) and not 0 <= labels.min() <= labels.max() < classes):
        raise ConfigurationError(
            f"labels must be whole numbers in [0, {classes}), one for each column of probabilities"
        )
    if classes < 2 or len(np.unique(labels)) < classes:
        raise ConfigurationError(
            f"labels must have rows of each of at least two classes, got {len(np.unique(labels))} of {classes}: with "
            f"one class no label can be mistaken for another, and a class without rows has no average to compare with"
        )
    if not np.isfinite(probabilities).all() or probabilities.min() < 0 or probabilities.max() > 1 + 1e-6:
        raise ConfigurationError("probabilities must be finite and in [0, 1]")
    mistaken = _mistaken(labels, probabilities)
    wrong = np.zeros(len(labels), dtype=np.bool_)
    for given in range(classes):
        rows = np.flatnonzero(labels == given)
        margins = probabilities[rows] - probabilities[rows, given, None]
        for true in np.flatnonzero(mistaken[given]):
            wrong[rows[np.argsort(-margins[:, true], kind="stable")[: mistaken[given, true]]]] = True
        if wrong[rows].all():  # a class must not vanish
            wrong[rows[probabilities[rows, given].argmax()]] = False
    found: NDArray[np.bool_] = wrong & (probabilities.argmax(axis=1) != labels)
    return found


def _mistaken(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many labels of each class (rows) are estimated to be of each other class (columns), zeros on the diagonal."""
    classes = probabilities.shape[1]
    sizes = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=classes)
    sure = probabilities >= sums / sizes - _ROUNDING
    best = np.where(sure, probabilities, -1.0).argmax(axis=1)
    counted = sure.any(axis=1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[counted], best[counted]), 1)
    # At least one row of each class is as sure of it as they are on average, so that no sum is zero.
    whole, rest = np.divmod(joint * sizes[:, None], joint.sum(axis=1)[:, None])
    # The largest remainders are rounded up, so that each class has as many rows as before.
    order = np.argsort(-rest, axis=1, kind="stable")
    up = np.arange(classes) < (sizes - whole.sum(axis=1))[:, None]
    np.put_along_axis(whole, order, np.take_along_axis(whole, order, axis=1) + up, axis=1)
    np.fill_diagonal(whole, 0)
    return whole


def out_of_sample_probabilities(
    features: NDArray[np.float64], labels: NDArray[np.int64], *, folds: int = 5, model: Any = None, seed: int = 0
) -> NDArray[np.float64]:
    """Probabilities of the classes for each row, by a model that was trained on the other folds.

    Args:
        features: finite numbers, shape (N, D).
        labels: whole numbers from 0, shape (N,).
        folds: number of parts; each row is in one, and the model for it is trained on the others.
        model: an estimator of scikit-learn with ``predict_proba``; None for a logistic regression on standardised
            features.
        seed: of the parts.

    Returns:
        Shape (N, classes).

    Raises:
        ConfigurationError: an argument is out of range, the shapes don't match, or a class has fewer rows than folds.
    """
    folds = positive_int(folds=folds)
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != (len(features),) or len(labels) == 0 or features.shape[1] == 0:
        raise ConfigurationError(
            f"features must have shape (N, D) for N labels, got {features.shape} for {labels.shape}"
        )
    if not np.isfinite(features).all():
        raise ConfigurationError("features must be finite numbers: fill missing values before looking for label errors")
    counts = np.bincount(labels)
    if folds < 2 or len(counts) < 2 or counts.min() < folds:
        raise ConfigurationError(
            f"folds must be at least 2 and at most the rows of the smallest of at least two classes, got {folds} folds "
            f"for {len(counts)} classes of {int(counts.min())} rows or more"
        )
    estimator = _default_model() if model is None else model
    probabilities = np.zeros((len(labels), len(counts)))
    parts = StratifiedKFold(folds, shuffle=True, random_state=non_negative_int(seed=seed))
    for train, held_out in parts.split(features, labels):
        fitted = clone(estimator).fit(features[train], labels[train])
        probabilities[held_out] = fitted.predict_proba(features[held_out])
    return probabilities


def _default_model() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
