"""Examples of a data set, as the independence probe takes them apart and chooses among them.

An example is whatever the data set returns: tensors, arrays and numbers in tuples, dictionaries and data classes.

Example:
    >>> import torch
    >>> pool = [(torch.zeros(2), 0), (torch.ones(2), 0), (torch.zeros(3), 1)]
    >>> size(pool[2]), lengths_differ(pool), [label for _, label in by_variety(pool, 2)]
    (4, True, [0, 1])
    >>> map_leaves(lambda leaf: leaf + 1, pool[0])
    (tensor([1., 1.]), 1)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "LABELS",
    "by_variety",
    "detached",
    "is_float",
    "kinds",
    "leaves",
    "lengths_differ",
    "map_leaves",
    "reach",
    "shape",
    "size",
]

LABELS = 16
"""Whole numbers that are taken for labels; more of them are taken for data."""


class _MismatchError(ValueError):
    """Two examples are built differently."""


def map_leaves(function: Callable[..., Any], example: Any, *others: Any) -> Any:
    """Return ``example`` with each leaf replaced by ``function(leaf, leaf of the first other, ...)``.

    Args:
        function: what to do with a leaf.
        example: nested dictionaries, lists, tuples and data classes.
        *others: built the same way.

    Raises:
        ValueError: one of them is not.
    """
    if any(type(other) is not type(example) for other in others):
        raise _MismatchError(f"{type(example).__name__} against {[type(other).__name__ for other in others]}")
    if isinstance(example, dict):
        if any(other.keys() != example.keys() for other in others):
            raise _MismatchError("other keys")
        changed = {key: map_leaves(function, example[key], *(other[key] for other in others)) for key in example}
        return changed if type(example) is dict else _same_mapping(example, changed)
    if isinstance(example, list | tuple):
        if any(len(other) != len(example) for other in others):
            raise _MismatchError("other lengths")
        items = [map_leaves(function, *column) for column in zip(example, *others, strict=True)]
        return type(example)(*items) if hasattr(example, "_fields") else type(example)(items)
    if dataclasses.is_dataclass(example) and not isinstance(example, type):
        names = [field.name for field in dataclasses.fields(example) if field.init]
        return dataclasses.replace(
            example,
            **{name: map_leaves(function, *(getattr(item, name) for item in (example, *others))) for name in names},
        )
    return function(example, *others)


def detached(example: Any) -> Any:
    """Return the example with tensors of its own where they are parts of a larger one, such as the whole data set.

    A copy of such a part would be one of the whole.

    Args:
        example: what a data set returns.
    """

    def own(leaf: Any) -> Any:
        if type(leaf) is Tensor and leaf.layout is torch.strided and leaf.untyped_storage().nbytes() > leaf.nbytes:
            return leaf.clone()
        return leaf

    return map_leaves(own, example)


def _same_mapping(example: dict[Any, Any], changed: dict[Any, Any]) -> Any:
    return type(example)(changed)


def leaves(example: Any) -> list[Any]:
    """Return what an example consists of, in the order of :func:`map_leaves`."""
    found: list[Any] = []
    map_leaves(found.append, example)
    return found


def shape(leaf: Any) -> tuple[int, ...]:
    """Return the shape of a tensor or an array; that of anything else is ``()``."""
    return tuple(leaf.shape) if isinstance(leaf, Tensor | np.ndarray) else ()


def size(example: Any) -> int:
    """Return how many numbers an example has."""
    return sum(prod(shape(leaf)) for leaf in leaves(example))


def is_float(leaf: Any) -> bool:
    """Return whether a leaf holds floating-point numbers."""
    if isinstance(leaf, Tensor):
        return leaf.is_floating_point()
    if isinstance(leaf, np.ndarray | np.generic):
        return bool(np.issubdtype(leaf.dtype, np.floating))
    return isinstance(leaf, float)


def kinds(example: Any) -> tuple[object, ...]:
    """Return what sets examples of one class apart from others: their labels, in a word."""
    found: list[object] = []
    for leaf in leaves(example):
        if isinstance(leaf, int | str) and not isinstance(leaf, np.generic):
            found.append(leaf)
        elif prod(shape(leaf)) > LABELS or is_float(leaf):
            continue
        elif isinstance(leaf, Tensor | np.ndarray | np.generic):
            found.append(tuple(torch.as_tensor(leaf).flatten().tolist()))
    return tuple(found)


def by_variety(examples: Sequence[Any], count: int) -> list[Any]:
    """Return ``count`` of the examples, different classes and sizes first, but for a pair or two of one kind.

    Args:
        examples: to choose from.
        count: how many at most.
    """
    new: dict[object, Any] = {}
    again: list[tuple[object, Any]] = []
    for example in examples:
        kind = kinds(example), size(example)
        if kind in new:
            again.append((kind, example))
        else:
            new[kind] = example
    kept = dict(list(new.items())[: count - min(count // 4, len(again))])
    # What a loss makes of two examples of one class is seen only where there are two.
    again.sort(key=lambda item: item[0] not in kept)
    rest = [example for kind, example in new.items() if kind not in kept]
    pairs = [example for _, example in again]
    return [*kept.values(), *pairs, *rest][:count]


def reach(examples: Sequence[Any]) -> list[tuple[int, ...]]:
    """Return the largest shape of each leaf: what a batch of the examples would be padded to."""
    shapes = [[shape(leaf) for leaf in leaves(example)] for example in examples]
    return [tuple(map(max, zip_longest(*column, fillvalue=0))) for column in zip(*shapes, strict=False)]


def lengths_differ(pool: Sequence[Any]) -> bool:
    """Return whether the examples have leaves of different shapes, such as texts of different lengths."""
    return any([shape(leaf) for leaf in leaves(example)] != reach(pool) for example in pool)
