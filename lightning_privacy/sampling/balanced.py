"""Examples drawn so that classes or groups come as often as asked.

Two stages: the cell (a class, a group, a class within a group) by its share, then one of its members, all equally
likely. The draws are a function of (seed, epoch) and of nothing else, so that an epoch can be repeated, resumed in its
middle, and divided among processes: there is one sequence, of which process r of R takes the places r, r + R, r + 2R
and so on.

Example:
    >>> labels = [0] * 90 + [1] * 10
    >>> sampler = BalancedSampler(labels, num_samples=1000, seed=0)
    >>> drawn = list(sampler)
    >>> 400 < sum(labels[index] for index in drawn) < 600
    True
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.cells import Cells, find_cells
from lightning_privacy.sampling.labels import label_array
from lightning_privacy.sampling.passes import EpochSampler
from lightning_privacy.sampling.strata import Strata, apportion, grouped
from lightning_privacy.sampling.weighting import Weighting, cell_name, cell_shares, example_weights, repeat_factors
from lightning_privacy.sampling.without_replacement import check_enough, longest_epoch, subsets, weighted_subset

__all__ = ["BalancedSampler"]

_BLOCK = 2**16


class BalancedSampler(EpochSampler):
    """Indices for ``DataLoader(sampler=...)``, with the shares of classes or groups as asked.

    It is a ``DistributedSampler``, as far as others can tell: it divides its draws among the processes itself, so
    Lightning leaves it as it is and calls :meth:`set_epoch`. Without ``set_epoch`` each pass that was drawn to its end
    is followed by the next epoch. What remains when ``num_samples`` is divided by the processes is left out, so that
    all have equally many.

    Args:
        labels: Class of each example: a sequence, an array, a tensor, a pandas column, or a data set with ``targets``;
            for ``weighting="repeat_factor"`` also 0 and 1 of shape ``(N, L)``. None where it is not needed.
        groups: Group of each example, in the same forms.
        balance: What shares are of: ``"class"``, ``"group"`` or ``"class*group"``.
        replacement: Whether an example can come twice in an epoch. Without, a cell gives ``num_samples`` times its
            share, rounded, of its examples, others in each epoch.
        num_samples: Length of an epoch over all processes. By default as many as there are examples; with
            ``weighting="repeat_factor"`` the sum of the factors; without replacement as many as the scarcest cell
            allows at its share.
        weighting: See :func:`~lightning_privacy.sampling.weighting.cell_shares`.
        weights: How likely each example is relative to others, shape ``(N,)``, in place of ``weighting``. Without
            replacement examples are drawn one after the other, each by its weight among those that are left.
        seed: Of all draws; the same in all processes.
        num_replicas: How many processes share the draws. By default those of the process group, looked up when it is
            needed, so that the sampler can be made before there is one.
        rank: Which of them this is.

    Attributes:
        cells: Cell of each example, int64 of shape ``(N,)``.
        cell_names: What the cells are called: class, group, or the pair of both.
        counts: Examples of each cell, int64 of shape ``(C,)``.
        shares: Share of each cell in what is drawn, float64 of shape ``(C,)``.
        weighting: As given.
        weights: Weight of each example where given, else None.
        num_samples: Length of an epoch over all processes.
        epoch: Number of the epoch that is drawn.

    Raises:
        ConfigurationError: See :func:`~lightning_privacy.sampling.cells.find_cells` and
            :func:`~lightning_privacy.sampling.weighting.cell_shares`; or more samples are asked for than there are
            without replacement, or an argument is out of range.

    Example:
        >>> sampler = BalancedSampler([0, 0, 0, 1, 1], replacement=False)
        >>> sampler.describe()["cells"]["1"]
        {'count': 2, 'share': 0.5}
        >>> len(sampler)  # as many of class 0 as there are of class 1
        4
    """

    def __init__(
        self,
        labels: object,
        *,
        groups: object = None,
        balance: str = "class",
        replacement: bool = True,
        num_samples: int | None = None,
        weighting: Weighting = "inverse",
        weights: object = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        cells, given = _examples(labels, groups, balance, weighting, weights)
        self.balance = balance
        self.replacement = replacement
        self.cells, self.cell_names, self.counts = cells.of_example, cells.names, cells.counts
        self.weights = given
        self.weighting = weighting
        self._weighting = weighting if isinstance(weighting, str) else type(weighting).__name__
        if given is None:
            self.shares = cell_shares(self.counts, weighting, names=self.cell_names)
        else:
            totals = np.bincount(self.cells, weights=given / given.max(), minlength=len(self.counts))
            self.shares = np.asarray(totals / totals.sum(), np.float64)
        super().__init__(
            num_examples=len(self.cells),
            num_samples=self._epoch_length(num_samples, repeated=_is_repeat_factor(weighting)),
            seed=seed,
            num_replicas=num_replicas,
            rank=rank,
        )

    def describe(self) -> dict[str, Any]:
        """What is drawn and how often, in plain Python types."""
        cells = zip(self.cell_names, self.counts.tolist(), self.shares.tolist(), strict=True)
        return {
            "balance": self.balance,
            "weighting": "weights" if self.weights is not None else self._weighting,
            "replacement": self.replacement,
            "num_examples": self.num_examples,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "cells": {cell_name(name): {"count": count, "share": share} for name, count, share in cells},
        }

    @override
    def _must_agree(self) -> dict[str, Any]:
        agreed = {"replacement": self.replacement, "checksum of labels and shares": self._checksum}
        return super()._must_agree() | agreed

    @cached_property
    def _checksum(self) -> int:
        # Rounded: the last digits of a share depend on the machine.
        parts = [self.counts, np.round(self.shares, 9)] if self.weights is None else [np.round(self.weights, 9)]
        checksum = zlib.crc32(self.cells.tobytes())
        for part in parts:
            checksum = zlib.crc32(part.tobytes(), checksum)
        return checksum

    @override
    def _blocks(self, epoch: int, start: int) -> Iterator[NDArray[np.signedinteger]]:
        replicas, end = self.num_replicas, self.total_size
        place = start * replicas + self.rank
        order = None if self.replacement else self._order(epoch)
        size = max(_BLOCK, 1 << (len(self.counts) - 1).bit_length())
        while place < end:
            number = place // size
            first = number * size
            last = min(first + size, end)
            block = self._block(epoch, number, size) if order is None else order[first : first + size]
            yield block[place - first : last - first : replicas]
            place += (last - place + replicas - 1) // replicas * replicas

    def _block(self, epoch: int, number: int, size: int) -> NDArray[np.signedinteger]:
        """A piece of the global sequence, with replacement; the number of processes has no part in it."""
        return self._strata.draw(self._generator(epoch, number), min(size, self.num_samples - number * size))

    def _order(self, epoch: int) -> NDArray[np.signedinteger]:
        """The global sequence of an epoch, without replacement."""
        generator = self._generator(epoch, 0)
        if self.weights is not None:
            return weighted_subset(generator, self.weights, self.num_samples)
        members, counts = grouped(self.cells, len(self.counts))
        order = subsets(generator, members, counts, apportion(self.num_samples, self.shares))
        generator.shuffle(order)
        return order

    def _generator(self, epoch: int, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch, number])))

    @cached_property
    def _strata(self) -> Strata:
        return Strata.from_cells(self.cells, self.shares) if self.weights is None else Strata.from_weights(self.weights)

    def _epoch_length(self, num_samples: int | None, *, repeated: bool) -> int:
        if num_samples is not None:
            positive_int(num_samples=num_samples)
        if self.replacement:
            if num_samples is None and repeated:
                return round(float((repeat_factors(self.cells) if self.weights is None else self.weights).sum()))
            return len(self.cells) if num_samples is None else num_samples
        if self.weights is None:
            if num_samples is None:
                return longest_epoch(self.shares, self.counts)
            check_enough(num_samples, self.shares, self.counts, self.cell_names)
            return num_samples
        if num_samples is None:
            raise ConfigurationError(
                "num_samples must be given with weights and replacement=False: when every example is drawn once, the "
                "weights change nothing"
            )
        if num_samples > (available := int(np.count_nonzero(self.weights))):
            raise ConfigurationError(
                f"num_samples must be at most the {available} examples with a weight above 0 without replacement, got "
                f"{num_samples}: set replacement=True or ask for fewer"
            )
        return num_samples

    @override
    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_examples} examples in {len(self.counts)} cells, "
            f"balance={self.balance!r}, replacement={self.replacement}, num_samples={self.num_samples}, "
            f"seed={self.seed})"
        )


def _examples(
    labels: object, groups: object, balance: str, weighting: Weighting, weights: object
) -> tuple[Cells, NDArray[np.float64] | None]:
    """The cells and, where examples of one cell differ in weight, the weights."""
    if weights is not None and not (isinstance(weighting, str) and weighting == "inverse"):
        raise ConfigurationError(f"weights and weighting={weighting!r} can't both be given: leave one out")
    if weights is not None and labels is None and groups is None:
        given = example_weights(weights)
        return _one_cell(len(given)), given
    classes = None if labels is None else label_array(labels)  # read once: it may be a generator
    if classes is not None and classes.ndim == 2 and _is_repeat_factor(weighting):
        if groups is not None or balance != "class":
            raise ConfigurationError(
                f"balance must be 'class' and groups None for labels with several classes per example, "
                f"got balance={balance!r}"
            )
        factors = repeat_factors(classes)
        return _one_cell(len(factors)), factors
    cells = find_cells(classes, groups=groups, balance=balance)
    if weights is not None:
        return cells, example_weights(weights, num_examples=len(cells.of_example))
    return cells, None


def _is_repeat_factor(weighting: Weighting) -> bool:
    return isinstance(weighting, str) and weighting == "repeat_factor"


def _one_cell(num_examples: int) -> Cells:
    names: list[Hashable] = ["all"]
    return Cells(np.zeros(num_examples, np.int64), names, np.array([num_examples]))
