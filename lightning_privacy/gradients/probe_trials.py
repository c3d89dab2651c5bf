"""Batches for the independence probe, and what one example of each is replaced by.

What stands in for an example is made so that a batch keeps its shapes (the length it is padded to) and every value
stays in the range the data have: an index out of range would be an error of the probe's own.

Example:
    >>> import torch
    >>> pool = [(torch.full((2,), float(value)), value % 2) for value in range(6)]
    >>> first = trials(pool, 4)[0]
    >>> len(first.batch), first.batch[0][1], first.replacement[1]
    (4, 1, 0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_privacy.gradients.probe_examples import (
    LABELS,
    is_float,
    kinds,
    leaves,
    lengths_differ,
    map_leaves,
    reach,
    shape,
    size,
)

__all__ = ["Trial", "hard_trials", "large_trial", "same_batch", "trials"]

_OTHERS = 3
"""Examples of a batch beside the one that is replaced."""
_RELABELLED = 4
"""Trials with labels that the data don't have, at most."""
_HUGE = 1e4
"""How much larger than the largest value of the data a made one is."""


@dataclass(frozen=True)
class Trial:
    """A batch, and what one of its examples is replaced by.

    Args:
        batch: the examples; to all but one of them nothing may happen.
        replacement: takes the place of that one.
        place: where it is in the batch.
        made: whether there may be values that the data never have, on which a step may fail.
    """

    batch: tuple[Any, ...]
    replacement: Any
    place: int = 0
    made: bool = False

    @property
    def replaced(self) -> tuple[Any, ...]:
        """The batch with the other example."""
        return (*self.batch[: self.place], self.replacement, *self.batch[self.place + 1 :])


def _extreme(example: Any, pool: Sequence[Any], pick: Callable[[Tensor], Tensor], factor: float = 1.0) -> Any:
    """Return the example with all its floats at what is picked of the pool's values, such as the largest."""

    def level(leaf: Any, *others: Any) -> Any:
        if not is_float(leaf):
            return leaf
        values = torch.stack([pick(torch.as_tensor(other).double()) for other in others if prod(shape(other)) > 0])
        value = factor * float(pick(values))
        if isinstance(leaf, Tensor):
            return torch.full_like(leaf, value)
        return np.full_like(leaf, value) if isinstance(leaf, np.ndarray | np.generic) else type(leaf)(value)

    return map_leaves(level, example, *pool)


def _crossed(example: Any, other: Any) -> Any:
    """Return the other example where it has the same shapes; elsewhere this one, each leaf back to front."""

    def cross(leaf: Any, another: Any) -> Any:
        if shape(leaf) == shape(another):
            return another
        if not shape(leaf):
            return leaf
        return leaf.flip(0) if isinstance(leaf, Tensor) else np.flip(leaf, 0).copy()

    return map_leaves(cross, example, other)


def _replacements(first: Any, others: Sequence[Any], pool: Sequence[Any]) -> Iterator[Any]:
    """Yield what can stand in for ``first`` next to ``others``: real examples of other kinds first."""
    longest = reach([first, *others])
    real = [item for item in pool if item is not first and not any(item is other for other in others)]
    real.sort(key=lambda item: kinds(item) == kinds(first))
    fitting = [item for item in real if reach([item, *others]) == longest]
    made: list[Any] = []
    for pick in (torch.max, torch.min) if any(map(is_float, leaves(first))) else ():
        try:
            made.append(_extreme(first, pool, pick))
        except (ValueError, RuntimeError):
            continue  # built differently, or nothing to take the largest of: real ones must do
    crossed = []
    for item in real if len(fitting) < len(real) else ():
        try:
            crossed.append(_crossed(first, item))
        except ValueError:
            continue
    columns = zip_longest(fitting, crossed, made, fillvalue=_NONE)
    yield from (item for column in columns for item in column if item is not _NONE)


_NONE = object()


def _cycled(items: Sequence[Any]) -> list[Any]:
    return [items[number % len(items)] for number in range(_OTHERS)]


def _may_be_label(leaf: Any) -> bool:
    if isinstance(leaf, str | bytes) or prod(shape(leaf)) > LABELS:
        return False
    if not isinstance(leaf, Tensor | np.ndarray | np.generic | int | float):
        return False
    values = torch.as_tensor(leaf)
    return not values.is_complex() and bool((values == values.double().round()).all())


def _labelled_like(example: Any, other: Any) -> Any:
    """Return the example with the labels of the other one."""

    def label(leaf: Any, another: Any) -> Any:
        return another if _may_be_label(leaf) and _may_be_label(another) and shape(leaf) == shape(another) else leaf

    try:
        return map_leaves(label, example, other)
    except ValueError:
        return example


def _relabelled(example: Any, pool: Sequence[Any]) -> Iterator[Any]:
    """Yield the example with labels of which the pool has one value only at 0, or at 1, where they are not."""
    apart = [leaves(item) for item in pool]
    if any(len(own) != len(apart[0]) for own in apart):
        return
    for number, column in enumerate(zip(*apart, strict=True)):
        if not all(map(_may_be_label, column)) or len({shape(leaf) for leaf in column}) > 1:
            continue
        values = torch.stack([torch.as_tensor(leaf).double() for leaf in column])
        alone = (values == values[0]).all(0)
        for level in (1.0, 0.0):
            made = torch.where(alone, level, torch.as_tensor(leaves(example)[number]).double())
            if not bool((made == values[0])[alone].all()):
                yield _with_leaf(example, number, made)


def _with_leaf(example: Any, number: int, values: Tensor) -> Any:
    numbers = iter(range(len(leaves(example))))

    def put(leaf: Any) -> Any:
        if next(numbers) != number:
            return leaf
        if isinstance(leaf, Tensor):
            return values.to(leaf)
        if isinstance(leaf, np.ndarray | np.generic):
            made = values.numpy().astype(leaf.dtype)
            return made if isinstance(leaf, np.ndarray) else made[()]
        return type(leaf)(values.item())

    return map_leaves(put, example)


def hard_trials(pool: Sequence[Any]) -> list[Trial]:
    """Return trials with pairs of one label, labels that the pool does not have, and values out of all bounds.

    Args:
        pool: examples of the data set.
    """
    found = []
    for place, (first, others) in enumerate(_groups(pool), 1):
        real = next(iter(_replacements(first, others, pool)), first)
        own, other = _labelled_like(first, others[0]), _labelled_like(real, others[0])
        found.append(Trial((*others[:place], own, *others[place:]), other, place, made=True))
    first, others = _groups(pool)[0]
    made = list(_relabelled(first, pool))[:_RELABELLED]
    for factor in (float("nan"), _HUGE) if any(map(is_float, leaves(first))) else ():
        try:
            made.append(_extreme(first, pool, lambda values: values.abs().max(), factor))
        except (ValueError, RuntimeError, OverflowError):
            continue  # built differently, nothing to take the largest of, or too large for its type
    return [*found, *(Trial((first, *others), item, made=True) for item in made)]


def large_trial(trial: Trial, pool: Sequence[Any], count: int) -> Trial:
    """Return a trial with the same replacement in a larger batch, on which a step may fail.

    Args:
        trial: the trial.
        pool: examples of the data set.
        count: how many examples; no fewer than there are.
    """
    others = [item for place, item in enumerate(trial.batch) if place != trial.place]
    if not lengths_differ(pool):  # or the batch would be padded to another length, which is another question
        known = [*trial.batch, trial.replacement]
        others = [item for item in pool if not any(item is one for one in known)] or others
    added = [others[number % len(others)] for number in range(count - len(trial.batch))]
    return Trial((*trial.batch, *added), trial.replacement, trial.place, made=True)


def _groups(pool: Sequence[Any]) -> list[tuple[Any, list[Any]]]:
    """Return which example to replace among which others, twice: what is special about some may hide a coupling."""
    ordered = sorted(pool, key=size, reverse=True)
    if len(ordered) == 1:
        return [(ordered[0], _cycled(ordered))]
    first = (ordered[-1], _cycled(ordered[:-1]))
    if lengths_differ(pool):
        # The longest stays, so that whatever replaces another leaves the length of the batch as it is.
        middle = ordered[-2] if len(ordered) > 2 else ordered[-1]
        return [first, (middle, _cycled([item for item in ordered if item is not middle]))]
    return [first, (ordered[0], _cycled(ordered[:0:-1]))]


def trials(pool: Sequence[Any], count: int) -> list[Trial]:
    """Return ``count`` trials, again from the first where there are fewer.

    Args:
        pool: examples of the data set.
        count: how many.
    """
    columns = []
    # The second group has the one that is replaced at the end: a step may look at some places only.
    for place, (first, others) in zip((0, _OTHERS), _groups(pool), strict=False):
        batch = (*others[:place], first, *others[place:])
        made = [Trial(batch, other, place) for other in _replacements(first, others, pool)]
        columns.append(made or [Trial(batch, first, place)])
    found = [trial for column in zip_longest(*columns) for trial in column if trial is not None]
    return [found[number % len(found)] for number in range(count)]


def same_batch(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Return whether two batches are of the very same examples.

    Args:
        first: a batch.
        second: another.
    """
    return len(first) == len(second) and all(one is two for one, two in zip(first, second, strict=True))
