"""Discrete random numbers whose probabilities are exactly what the theory says: whole numbers in, whole numbers out.

Floating-point noise can tell what it was added to (see ``mechanisms/_secure.py``). Here no logarithm and no rounding
takes part: every decision is a comparison of random whole numbers, after Canonne, Kamath and Steinke, "The Discrete
Gaussian for Differential Privacy", 2020, section 5.1 (Algorithm 1: Bernoulli of exp(-x); Algorithm 2: geometric).

**Rounded Laplace.** For a whole number ``n`` and real Laplace noise ``L`` of scale ``b``, ``round(n + L)`` is
``n + K`` with ``P(K = 0) = 1 - exp(-1/2b)`` and, for k >= 1, ``P(K = k) = P(K = -k)`` in proportion to
``exp(-k/b)``. So ``n + K`` is the Laplace mechanism followed by rounding, and :class:`LaplaceRelease` is what it costs.
(The two-sided geometric distribution looks almost alike and costs more: its privacy loss is the whole of plus or minus
epsilon, always.)

Example:
    >>> draws = [ExactRandomness(None).rounded_laplace(Fraction(100)) for _ in range(3)]  # of scale 1/100
    >>> draws
    [0, 0, 0]
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["ExactRandomness"]


class ExactRandomness:
    """Exact draws from the operating system's generator, or from a seeded noise source, which is not private.

    Args:
        noise: a source whose seed, if it has one, decides the draws; None for the operating system. Each object made
            from a seeded source draws other numbers.

    Example:
        >>> ExactRandomness(None).below(1)
        0
    """

    def __init__(self, noise: NoiseSource | None) -> None:
        self.below: Callable[[int], int] = secrets.randbelow
        """Return a whole number in [0, n), all with the same probability."""
        self._seeded: np.random.Generator | None = None
        if noise is not None and noise.seeded:
            key = noise.bernoulli_seed(f"exact draws {noise.next_value()}")
            self.below = random.Random(key).randrange  # noqa: S311 - with a seed nothing is private anyway
            self._seeded = np.random.Generator(np.random.Philox(key=key))

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return ``count`` uniform 64-bit words."""
        if self._seeded is not None:
            return self._seeded.integers(0, 2**64, count, dtype=np.uint64)
        return np.frombuffer(os.urandom(8 * count), np.uint64)

    def many_below(self, bound: int, count: int) -> NDArray[np.int64]:
        """Return ``count`` whole numbers in [0, bound), all with exactly the same probability.

        Args:
            bound: at least 1 and below 2**63.
            count: how many.
        """
        kept: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        usable = 2**64 // bound * bound  # words from here on would favour small numbers
        while (missing := count - sum(len(part) for part in kept)) > 0:
            words = self.words(missing)
            kept.append(words if usable == 2**64 else words[words < np.uint64(usable)])
        return (np.concatenate(kept) % np.uint64(bound)).astype(np.int64)

    def bernoulli_exp(self, exponent: Fraction) -> bool:
        """Return True with probability ``exp(-exponent)``; ``exponent`` >= 0."""
        whole, part = divmod(exponent.numerator, exponent.denominator)
        return all(self._bernoulli_exp(1, 1) for _ in range(whole)) and self._bernoulli_exp(part, exponent.denominator)

    def _bernoulli_exp(self, numerator: int, denominator: int) -> bool:
        """The same for an exponent of at most 1."""
        order = 1
        while self.below(denominator * order) < numerator:
            order += 1
        return order % 2 == 1

    def geometric_exp(self, rate: Fraction) -> int:
        """Return k = 0, 1, ... with probability in proportion to ``exp(-rate * k)``; ``rate`` > 0."""
        pieces = rate.denominator
        while True:
            rest = self.below(pieces)
            if self._bernoulli_exp(rest, pieces):
                break
        units = 0
        while self._bernoulli_exp(1, 1):
            units += 1
        return (rest + pieces * units) // rate.numerator

    def rounded_laplace(self, rate: Fraction) -> int:
        """Return Laplace noise of scale ``1 / rate``, rounded to a whole number; ``rate`` > 0."""
        if not self.bernoulli_exp(rate / 2):
            return 0
        size = 1 + self.geometric_exp(rate)
        return size if self.below(2) else -size
