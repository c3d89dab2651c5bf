"""Balanced Poisson sampling: independent inclusion, at a rate that the example's cell has.

A *cell* is a class, a group, or a class within a group. To see a rare cell more often, its examples get a higher
probability of inclusion than the others. That is paid for: with Gaussian noise on the clipped sum, an example that is
in the batch with probability q has the epsilon of the Poisson-sampled Gaussian mechanism at rate q, whatever the rates
of others, and it grows with q (the hockey-stick divergence between ``(1 - q) P + q Q`` and P is convex in q, and 0 at
q = 0). So the ledger is charged at the largest rate, and that covers every example.

That holds for rates that were fixed beforehand. Rates computed from how many examples each cell has are a function of
the data: the counts must be public, or noisy ones from :func:`~lightning_privacy.private_histogram`, charged to the
ledger. Which cell an example is in is its own affair and changes nothing for the others.

A batch is drawn cell by cell in time proportional to its size: how many, ``Binomial(count, q)``, then which, uniformly
(see ``sampling/poisson.py``). How many there are decides the time, never the rates.

Example:
    >>> cells = np.repeat([0, 1], [990, 10])
    >>> rates = balanced_rates([990, 10], [0.5, 0.5], expected_batch_size=10)
    >>> rates.round(5).tolist()
    [0.00505, 0.5]
    >>> sampler = BalancedPoissonSampler(cells, rates=rates, steps=3, seed=0)
    >>> sampler.release(noise_multiplier=2.0).sample_rate
    0.5
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from lightning_privacy._validate import positive, probability
from lightning_privacy.accounting.releases import SampledGaussian
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.step_sampler import MEMBERS, SIZES, StepSampler

__all__ = ["BalancedPoissonSampler", "balanced_rates"]

# What rounding may take from a sum of rates times counts.
_ROUNDING = 1e-9


def balanced_rates(
    counts: ArrayLike, shares: ArrayLike, *, expected_batch_size: float, max_sample_rate: float | None = None
) -> NDArray[np.float64]:
    """Return the inclusion probability of the examples of each cell.

    It is ``expected_batch_size * share / count``, but at most ``max_sample_rate``. What a cell can't have because of
    that limit goes to the others, in proportion to their shares, so that the batch keeps its expected size: with the
    lowest limit that allows it, batches are those of uniform sampling, and with one high enough, as balanced as asked.

    Args:
        counts: number of examples of each cell, shape (C,): public ones, or noisy ones, of which those below 1 are
            taken as 1.
        shares: part of a batch that each cell is to have, shape (C,); at least 0, of sum 1.
        expected_batch_size: number of examples of a batch on average.
        max_sample_rate: largest probability of any example, in (0, 1]; None for 1.

    Returns:
        Probabilities, shape (C,), in [0, max_sample_rate].

    Raises:
        ConfigurationError: an argument is out of range, or the limit is too low for so large a batch.
    """
    number = np.maximum(np.asarray(counts, dtype=np.float64), 1.0)
    wanted = np.asarray(shares, dtype=np.float64)
    size = positive(expected_batch_size=expected_batch_size)
    limit = 1.0 if max_sample_rate is None else probability(max_sample_rate=max_sample_rate)
    if number.ndim != 1 or wanted.shape != number.shape or not len(number):
        raise ConfigurationError(
            f"counts and shares must have one number for each cell, got shapes {number.shape} and {wanted.shape}"
        )
    if not np.isfinite(number).all() or not (wanted >= 0).all() or abs(wanted.sum() - 1.0) > _ROUNDING * len(wanted):
        raise ConfigurationError(
            "counts must be finite, and shares at least 0 and of sum 1, got shares that add up to "
            f"{float(wanted.sum()):.6g}"
        )
    drawn = wanted > 0
    most = limit * float(number[drawn].sum())
    if most < size * (1.0 - _ROUNDING):
        if limit >= 1.0:
            # Only noise on the counts can do that to a batch that fits in the data: all there is is drawn.
            return drawn.astype(np.float64)
        raise ConfigurationError(
            f"max_sample_rate={limit:g} is too low for batches of {size:g} examples on average: even with that rate "
            f"for all {number[drawn].sum():g} examples that can be drawn there are {most:g}. It must be at least "
            f"{size / number[drawn].sum():.6g}, at which nothing is balanced; lower the batch size, or raise it"
        )
    rates = np.where(drawn, limit, 0.0)
    free = drawn.copy()  # cells that are not at the limit
    while free.any():
        left = size - limit * float(number[drawn & ~free].sum())
        with np.errstate(over="ignore"):  # shares may differ by hundreds of orders of magnitude
            scaled = left * wanted / (wanted[free].sum() * number)
        over = free & (scaled > limit)
        if not over.any():
            rates[free] = np.maximum(scaled[free], 0.0)
            break
        free &= ~over
    return np.minimum(rates, limit)


class BalancedPoissonSampler(StepSampler):
    """Batches by independent inclusion with one rate for each cell, for ``DataLoader(batch_sampler=...)``.

    Seeds, replicas, copies and positions are as in :class:`~lightning_privacy.PoissonSampler`: the draw of a step is a
    function of (seed, step), replicas share one global draw, and without a seed nobody can tell who was in it.

    Args:
        cells: number of the cell of each example, shape (N,), from 0 to C - 1.
        rates: inclusion probability of the examples of each cell, shape (C,), in [0, 1]: see :func:`balanced_rates`.
            The ledger's figures hold for rates that are no function of private data without noise.
        steps: number of batches, >= 1.
        seed: a whole number >= 0; None for randomness from the operating system.
        num_replicas: number of processes that share each batch; needs ``rank``. None for 1.
        rank: which of them this is, 0 <= rank < num_replicas.

    Raises:
        ConfigurationError: an argument is out of range; replicas have neither a common seed nor a
            process group to agree over; or their arguments don't fit together.

    Example:
        >>> sampler = BalancedPoissonSampler([0, 0, 0, 1], rates=[0.0, 1.0], steps=2)
        >>> list(sampler)
        [[3], [3]]
    """

    def __init__(
        self,
        cells: ArrayLike,
        *,
        rates: ArrayLike,
        steps: int,
        seed: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        self._rates = _checked_rates(rates)
        self._cells = _checked_cells(cells, len(self._rates))
        self._counts = np.bincount(self._cells, minlength=len(self._rates))
        # The examples of each cell next to each other: a cell's are members[start : start + count].
        self._members = np.argsort(self._cells, kind="stable").astype(np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        super().__init__(len(self._cells), steps=steps, seed=seed, num_replicas=num_replicas, rank=rank)

    @override
    def _parameters(self) -> dict[str, Any]:
        # Not the cells, nor anything computed from them: they are private.
        return super()._parameters() | {"rates": self._rates.tolist()}

    @override
    def _compared(self) -> dict[str, Any]:
        return self._parameters() | {"cells": hashlib.sha256(self._cells.tobytes()).hexdigest()}

    @property
    def cells(self) -> NDArray[np.int64]:
        """Number of the cell of each example, shape (N,)."""
        return self._cells

    @property
    def rates(self) -> NDArray[np.float64]:
        """Inclusion probability of the examples of each cell, shape (C,)."""
        return self._rates

    @property
    def sample_rate(self) -> float:
        """Largest inclusion probability, over all cells, whether or not a cell has examples: what is charged."""
        return float(self._rates.max())

    def release(self, noise_multiplier: float) -> SampledGaussian:
        """What one step with Gaussian noise on the clipped sum of a batch costs, for an example of any cell.

        Args:
            noise_multiplier: standard deviation of the noise over the clipping norm, > 0.
        """
        return SampledGaussian(noise_multiplier=noise_multiplier, sample_rate=self.sample_rate)

    @override
    def size(self, step: int) -> int:
        return int(self._sizes(step).sum())

    @override
    def draw(self, step: int) -> NDArray[np.int64]:
        sizes, generator = self._sizes(step), self._generator(step, MEMBERS)
        parts = [
            self._starts[cell] + generator.choice(self._counts[cell], sizes[cell], replace=False, shuffle=False)
            for cell in np.flatnonzero(sizes)
        ]
        # In random order, so that shares of replicas and micro-batches are alike.
        places = generator.permutation(np.concatenate([np.empty(0, np.int64), *parts]))
        drawn: NDArray[np.int64] = self._members[places]
        return drawn

    def _sizes(self, step: int) -> NDArray[np.int64]:
        return np.asarray(self._generator(step, SIZES).binomial(self._counts, self._rates), np.int64)

    def __repr__(self) -> str:
        return (
            f"BalancedPoissonSampler({self.num_examples} examples in {len(self._rates)} cells, sample_rate="
            f"{self.sample_rate}, steps={self.steps}, seed={self.seed})"
        )


def _checked_rates(rates: ArrayLike | Sequence[float]) -> NDArray[np.float64]:
    checked = np.array(rates, dtype=np.float64)
    if checked.ndim != 1 or not len(checked):
        raise ConfigurationError(f"rates must be one number for each cell, got shape {checked.shape}")
    if not ((checked >= 0) & (checked <= 1)).all():
        raise ConfigurationError(f"rates must be in [0, 1], got {checked[~((checked >= 0) & (checked <= 1))][0]}")
    if not (checked > 0).any():
        raise ConfigurationError("rates must have at least one above 0: nothing could ever be drawn")
    return checked


def _checked_cells(cells: ArrayLike, number: int) -> NDArray[np.int64]:
    checked = np.asarray(cells)
    if checked.ndim != 1 or not len(checked) or not np.issubdtype(checked.dtype, np.integer):
        raise ConfigurationError(
            f"cells must be whole numbers, one for each example, got {checked.dtype} of shape {checked.shape}"
        )
    checked = checked.astype(np.int64)
    if int(checked.min()) < 0 or int(checked.max()) >= number:
        raise ConfigurationError(
            f"cells must be in [0, {number}), as there are {number} rates, got {int(checked.min())} to "
            f"{int(checked.max())}"
        )
    return checked
