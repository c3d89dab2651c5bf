"""A stratified split that is the same on every machine.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.data.splitting import stratified_split
    >>> labels = np.array([0] * 8 + [1] * 4)
    >>> first, rest = stratified_split(labels, size=3, seed=0)
    >>> sorted(labels[first].tolist()), len(rest)
    ([0, 0, 1], 9)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_privacy.errors import ConfigurationError

__all__ = ["stratified_split"]


def stratified_split(
    labels: npt.NDArray[np.int64], *, size: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split the positions of ``labels`` in two, each class in proportion.

    Args:
        labels: Class of each example, shape ``(num_examples,)``.
        size: Examples in the first part. Classes get their share rounded down; the largest remainders get one
            more until the size is reached.
        seed: Of the permutation within the classes.

    Returns:
        Positions of the first and of the second part, each in increasing order, as int64.

    Raises:
        ConfigurationError: The size is negative or above the number of examples.
    """
    if not 0 <= size <= len(labels):
        raise ConfigurationError(f"size must be between 0 and the {len(labels)} examples, got {size}")
    generator = np.random.Generator(np.random.PCG64(seed))
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * size / max(len(labels), 1)
    taken = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(taken - shares, kind="stable")
    taken[by_remainder[: size - int(taken.sum())]] += 1
    first = np.zeros(len(labels), dtype=bool)
    for label, count in zip(classes, taken, strict=True):
        first[generator.permutation(np.flatnonzero(labels == label))[:count]] = True
    return np.flatnonzero(first), np.flatnonzero(~first)
