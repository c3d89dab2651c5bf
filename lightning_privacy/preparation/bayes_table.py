"""A naive Bayes classifier made of nothing but counts: how often each value of a column meets each value of another.

It takes the columns x_1, ..., x_p of a row for independent given the value y that is sought, so that
``P(y | x) ~ P(y) prod_j P(x_j | y)``, with ``P(x_j | y) = (count(x_j, y) + a) / (count(y) + a V_j)`` for V_j values and
Lidstone's a. (Maron, "Automatic Indexing: An Experimental Inquiry", 1961.) Counts are all it needs, so that with noise
on the counts it is private; and with columns of many values, such as names and places, most counts are zero and are
not stored.

Example:
    >>> import numpy as np
    >>> table = BayesTable(num_classes=2, smoothing=1.0)
    >>> table.add(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), num_values=2)
    >>> table.predict([np.array([1, 0])]).round(2).tolist()
    [[0.25, 0.75], [0.75, 0.25]]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lightning_privacy._validate import positive, positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["BayesTable"]

_CHUNK_CELLS = 4_000_000


class BayesTable:
    """Counts of pairs, and the probabilities they give.

    Args:
        num_classes: number of values of what is sought.
        smoothing: a, what is added to each count, > 0.

    Raises:
        ConfigurationError: a number is out of range.
    """

    def __init__(self, *, num_classes: int, smoothing: float = 1.0) -> None:
        self._num_classes = positive_int(num_classes=num_classes)
        self._smoothing = positive(smoothing=smoothing)
        self._columns: list[tuple[sparse.csr_array, NDArray[np.float64]]] = []
        self._class_counts = np.zeros(self._num_classes)

    def add(self, values: NDArray[np.int64], classes: NDArray[np.int64], *, num_values: int) -> None:
        """Count a column against the classes, of rows that have both.

        Args:
            values: numbers of the column's values in [0, num_values), shape (N,).
            classes: numbers of the classes, shape (N,).
            num_values: how many values the column can have.
        """
        shape = (num_values, self._num_classes)
        counts = sparse.coo_array((np.ones(len(values)), (values, classes)), shape=shape)
        self.add_counts(counts.tocsr())

    def add_counts(self, counts: sparse.csr_array | NDArray[np.float64]) -> None:
        """Take the counts of a column's values in each class; negative ones, as noise makes them, are taken for 0.

        Args:
            counts: dense or sparse, shape (values, num_classes).

        Raises:
            ConfigurationError: the counts are of another number of classes.
        """
        if counts.ndim != 2 or counts.shape[1] != self._num_classes:
            raise ConfigurationError(f"counts must have shape (values, {self._num_classes}), got {tuple(counts.shape)}")
        table = sparse.csr_array(counts, dtype=np.float64)
        table.data = np.maximum(table.data, 0.0)
        table.eliminate_zeros()
        of_class = np.asarray(table.sum(axis=0)).reshape(-1)
        self._class_counts += of_class
        # log(count + a) = log a + log(1 + count / a): the second is 0 for most pairs, the rest is one term for a class
        common = np.log(self._smoothing) - np.log(of_class + self._smoothing * table.shape[0])
        table.data = np.log1p(table.data / self._smoothing)
        self._columns.append((table, common))

    def predict(self, columns: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Return the probabilities of the classes.

        Args:
            columns: for each column that was counted, in that order, the numbers of the values, shape (N,); -1 for one
                that is missing or was never there, which says nothing.

        Returns:
            Shape (N, num_classes), rows sum to 1.

        Raises:
            ConfigurationError: there are more or fewer columns than were counted.
        """
        scores = self._scores(columns)
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        return scores

    def best(self, columns: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """The most probable class of each row, a bounded number of rows in memory at a time.

        Args:
            columns: as in :meth:`predict`.
        """
        rows = len(columns[0]) if columns else 0
        chosen = np.zeros(rows, np.int64)
        step = max(1, _CHUNK_CELLS // self._num_classes)
        for start in range(0, rows, step):
            part = [column[start : start + step] for column in columns]
            chosen[start : start + step] = self._scores(part).argmax(axis=1)
        return chosen

    def _scores(self, columns: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        if len(columns) != len(self._columns) or not columns:
            raise ConfigurationError(f"columns must be the {len(self._columns)} that were counted, got {len(columns)}")
        # Each column that was counted has counted the classes, too.
        prior = np.log(self._class_counts / len(columns) + self._smoothing)
        scores = np.tile(prior, (len(columns[0]), 1))
        for values, (gains, common) in zip(columns, self._columns, strict=True):
            known = (values >= 0) & (values < gains.shape[0])
            scores[known] += common + gains[values[known]].toarray()
        return scores
