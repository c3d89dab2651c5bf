"""Shares kept without drawing an example twice: how long an epoch can be, and who is in it.

Example:
    >>> import numpy as np
    >>> longest_epoch(np.array([0.5, 0.5]), np.array([900, 100]))
    200
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.strata import apportion

__all__ = ["check_enough", "longest_epoch", "subsets", "weighted_subset"]


def longest_epoch(shares: NDArray[np.float64], counts: NDArray[np.int64]) -> int:
    """How many examples can be drawn at these shares before one comes twice.

    Args:
        shares: Share of each cell, shape ``(C,)``.
        counts: Examples of each cell, shape ``(C,)``.

    Raises:
        ConfigurationError: Not even one.
    """
    drawn = shares > 0
    # Quotients that miss a whole number by their rounding are that number.
    length = int(np.floor(np.round(counts[drawn] / shares[drawn], 6)).min())
    while length and (apportion(length, shares) > counts).any():
        length -= 1
    if length == 0:
        raise ConfigurationError("num_samples must be given: at these shares less than one example can be drawn")
    return length


def check_enough(
    num_samples: int, shares: NDArray[np.float64], counts: NDArray[np.int64], names: Sequence[Hashable]
) -> None:
    """Refuse more samples than a cell has examples for.

    Args:
        num_samples: How many are to be drawn from all cells together.
        shares: Share of each cell, shape ``(C,)``.
        counts: Examples of each cell, shape ``(C,)``.
        names: What the cells are called.

    Raises:
        ConfigurationError: A cell has too few; the message names the one that lacks most.
    """
    wanted = apportion(num_samples, shares)
    if (wanted > counts).any():
        cell = int(np.argmax(wanted - counts))
        raise ConfigurationError(
            f"num_samples={num_samples} without replacement needs {wanted[cell]} examples of {names[cell]!r}, which "
            f"has {counts[cell]}: set replacement=True, ask for fewer, or give it less than a share of "
            f"{shares[cell]:.6g}"
        )


def subsets(
    generator: np.random.Generator,
    members: NDArray[np.signedinteger],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> NDArray[np.signedinteger]:
    """A uniform subset of each cell, in random order within the cell, cell after cell.

    Args:
        generator: What is drawn from.
        members: Examples, cell after cell, shape ``(N,)``.
        counts: Examples of each cell, shape ``(C,)``.
        sizes: How many of each are taken, at most its count, shape ``(C,)``.
    """
    starts = np.cumsum(counts) - counts
    parts = [
        members[start + generator.choice(count, size, replace=False)]
        for start, count, size in zip(starts.tolist(), counts.tolist(), sizes.tolist(), strict=True)
        if size
    ]
    return np.concatenate(parts)


def weighted_subset(
    generator: np.random.Generator, weights: NDArray[np.float64], size: int
) -> NDArray[np.signedinteger]:
    """Examples drawn one after the other, each by its weight among those that are left, in random order.

    The examples whose exponential waiting times with these rates end first (Efraimidis and Spirakis 2006, in
    logarithms).

    Args:
        generator: What is drawn from.
        weights: Finite and >= 0, shape ``(N,)``.
        size: At most the number of weights above 0.
    """
    with np.errstate(divide="ignore", over="ignore"):
        times = generator.standard_exponential(len(weights)) / (weights / weights.max())
    chosen = np.argpartition(times, size - 1)[:size]
    generator.shuffle(chosen)
    return chosen
