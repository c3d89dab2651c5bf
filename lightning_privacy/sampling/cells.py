"""What is balanced: the class of each example, its group, or both together.

Example:
    >>> found = find_cells(["cat", "cat", "dog"], groups=[0, 1, 0], balance="class*group")
    >>> found.names, found.counts.tolist()
    ([('cat', 0), ('cat', 1), ('dog', 0)], [1, 1, 1])
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.labels import combine, factorize, label_array

__all__ = ["Cells", "find_cells"]

_BALANCES = ("class", "group", "class*group")


@dataclass(frozen=True)
class Cells:
    """A partition of the examples.

    Attributes:
        of_example: Which cell each example is in, int64 of shape ``(N,)``.
        names: What the cells are called: class, group, or the pair of both.
        counts: Examples of each cell, all at least 1, int64 of shape ``(C,)``.
    """

    of_example: NDArray[np.int64]
    names: list[Hashable]
    counts: NDArray[np.int64]


def find_cells(labels: object, *, groups: object = None, balance: str = "class") -> Cells:
    """Put each example into its cell. Only cells that have an example exist.

    Args:
        labels: Class of each example; None where ``balance`` is ``"group"``.
        groups: Group of each example, shape ``(N,)``; with shape ``(N, K)`` a group is a combination of K values.
        balance: ``"class"``, ``"group"`` or ``"class*group"``.

    Raises:
        ConfigurationError: ``balance`` is none of these, what it needs is missing, what it does not use was given,
            the lengths differ, or a value is missing.
    """
    one_of(_BALANCES, balance=balance)
    if (groups is None) != (balance == "class"):
        raise ConfigurationError(
            f"groups must be given with balance={balance!r}"
            if groups is None
            else "groups are given, but balance='class' does not use them: set balance to 'group' or 'class*group', or "
            "leave them out"
        )
    if labels is None and balance != "group":
        raise ConfigurationError(f"labels must be given with balance={balance!r}, got None")
    classes = None if labels is None else label_array(labels)
    grouping = None if groups is None else label_array(groups, name="groups")
    if classes is not None and grouping is not None and len(classes) != len(grouping):
        raise ConfigurationError(
            f"labels and groups must be of one length, got {len(classes)} labels and {len(grouping)} groups"
        )
    factors = []
    if classes is not None and balance != "group":
        factors.append(factorize(_classes(classes)))
    if grouping is not None:
        factors.append(factorize(grouping))
    codes, names = factors[0] if len(factors) == 1 else combine(*zip(*factors, strict=True))
    return Cells(codes, names, np.bincount(codes, minlength=len(names)))


def _classes(labels: NDArray[np.generic]) -> NDArray[np.generic]:
    if labels.ndim != 1:
        raise ConfigurationError(
            f"labels must be one class per example, got shape {labels.shape}: for several classes per example use "
            "weighting='repeat_factor', or weights= of your own"
        )
    return labels
