"""Weighted drawing in two stages: first the stratum, then one of its members.

Where all members of a stratum weigh the same, a draw is one multinomial number and one uniform one. Weights that all
differ are put into strata by their binary exponent; then a member is accepted with its weight over the stratum's
largest, at least one half, and drawn again otherwise (Matias, Vitter and Ni 2003, section 2). So the memory is one
index per example, the cost of a draw does not grow with the number of examples, and nothing is rounded to 24 bits.

Example:
    >>> import numpy as np
    >>> strata = Strata.from_cells(np.array([0, 0, 0, 1]), np.array([0.5, 0.5]))
    >>> drawn = strata.draw(np.random.default_rng(0), 1000)
    >>> 400 < (drawn == 3).sum() < 600
    np.True_
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Strata", "apportion", "grouped"]


def grouped(cells: NDArray[np.int64], num_cells: int) -> tuple[NDArray[np.signedinteger], NDArray[np.int64]]:
    """Examples in order of their cell.

    Args:
        cells: Cell of each example, shape ``(N,)``, in 0 to num_cells - 1.
        num_cells: How many there are.

    Returns:
        The examples, cell after cell, each in increasing order, shape ``(N,)``; and how many each cell has, shape
        ``(num_cells,)``.
    """
    # Short integers are sorted by radix, several times faster.
    narrow = cells.astype(np.uint8 if num_cells <= 2**8 else np.uint16 if num_cells <= 2**16 else np.int64)
    order = np.argsort(narrow, kind="stable")
    small = order.astype(np.int32) if len(cells) < 2**31 else order
    return small, np.bincount(cells, minlength=num_cells)


def apportion(total: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers as near to ``total * shares`` as can be (largest remainders), their sum ``total``.

    Args:
        total: What is divided, >= 0.
        shares: Shape ``(C,)``, its sum 1.

    Example:
        >>> apportion(10, np.array([0.55, 0.25, 0.2])).tolist()
        [6, 2, 2]
    """
    # Products that miss a whole number by their rounding are that number.
    ideal = np.round(total * shares, 9)
    whole = np.floor(ideal).astype(np.int64)
    by_remainder = np.argsort(whole - ideal, kind="stable")
    whole[by_remainder[: total - int(whole.sum())]] += 1
    return whole


@dataclass(frozen=True)
class Strata:
    """Examples in strata, and how often each stratum is drawn.

    Attributes:
        members: Examples, stratum after stratum.
        starts: Where each stratum begins in ``members``, shape ``(S,)``.
        counts: How many members each has, shape ``(S,)``.
        shares: Probability of each stratum, shape ``(S,)``; all above 0.
        acceptance: Probability to keep a drawn example, shape ``(N,)``, or None where all are kept.
    """

    members: NDArray[np.signedinteger]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    shares: NDArray[np.float64]
    acceptance: NDArray[np.float64] | None = None

    @classmethod
    def from_cells(cls, cells: NDArray[np.int64], shares: NDArray[np.float64]) -> Strata:
        """Strata whose members are all equally likely.

        Args:
            cells: Cell of each example, shape ``(N,)``.
            shares: Probability of each cell, shape ``(C,)``; a cell with 0 is never drawn.
        """
        members, counts = grouped(cells, len(shares))
        starts = np.cumsum(counts) - counts
        # Rounding in the sum must not fall to a cell that is never to be drawn.
        drawn = shares > 0
        return cls(members, starts[drawn], counts[drawn], shares[drawn] / shares[drawn].sum())

    @classmethod
    def from_weights(cls, weights: NDArray[np.float64]) -> Strata:
        """Strata for a weight of its own for each example.

        Args:
            weights: Finite and >= 0, not all 0; shape ``(N,)``.
        """
        scaled = weights / weights.max()
        mantissa, exponent = np.frexp(scaled)
        # Weights of 0 are in a stratum of their own, which is never drawn.
        cells = np.where(scaled > 0, -exponent.astype(np.int64) + 2, 0)
        totals = np.bincount(cells, weights=scaled)
        strata = cls.from_cells(cells, totals / totals.sum())
        # Within a stratum the mantissas are in [1/2, 1).
        largest = np.ones(len(totals))
        largest[totals > 0] = np.maximum.reduceat(mantissa[strata.members], strata.starts)
        acceptance = mantissa / largest[cells]
        if (acceptance[scaled > 0] == 1).all():
            return strata
        return replace(strata, acceptance=acceptance)

    def draw(self, generator: np.random.Generator, size: int) -> NDArray[np.signedinteger]:
        """Independent draws with replacement, shape ``(size,)``."""
        # Counts of a multinomial in random order are independent draws of the stratum.
        strata = np.repeat(np.arange(len(self.shares)), generator.multinomial(size, self.shares))
        generator.shuffle(strata)
        return self.draw_from(generator, strata)

    def draw_from(self, generator: np.random.Generator, strata: NDArray[np.int64]) -> NDArray[np.signedinteger]:
        """One member of each of the given strata, with replacement; shape ``(size,)``."""
        drawn = self._members(generator, strata)
        if self.acceptance is not None:
            pending = np.flatnonzero(generator.random(len(drawn)) >= self.acceptance[drawn])
            while len(pending):
                again = self._members(generator, strata[pending])
                drawn[pending] = again
                pending = pending[generator.random(len(pending)) >= self.acceptance[again]]
        return drawn

    def _members(self, generator: np.random.Generator, strata: NDArray[np.int64]) -> NDArray[np.signedinteger]:
        # A float64 below 1 times a count below 2**53 stays below the count.
        offsets = generator.random(len(strata))
        offsets *= self.counts[strata]
        places = offsets.astype(np.int64)
        places += self.starts[strata]
        return self.members[places]
