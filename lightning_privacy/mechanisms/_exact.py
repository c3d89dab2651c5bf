"""Discrete random numbers whose probabilities are exactly what the theory says: whole numbers in, whole numbers out.

Floating-point noise can tell what it was added to (see ``mechanisms/_secure.py``). Here no logarithm and no rounding
takes part: every decision is a comparison of random whole numbers, after Canonne, Kamath and Steinke, "The Discrete
Gaussian for Differential Privacy", 2020, section 5.1 (Algorithm 1: Bernoulli of exp(-x); Algorithm 2: geometric).

**Rounded Laplace.** For a whole number ``n`` and real Laplace noise ``L`` of scale ``b``, ``round(n + L)`` is
``n + K`` with ``P(K = 0) = 1 - exp(-1/2b)`` and, for k >= 1, ``P(K = k) = P(K = -k)`` in proportion to
``exp(-k/b)``. So ``n + K`` is the Laplace mechanism followed by rounding, and :class:`LaplaceRelease` is what it costs.
(The two-sided geometric distribution looks almost alike and costs more: its privacy loss is the whole of plus or minus
epsilon, always.)

**Many at once.** Whether a uniform real number U is below ``exp(-x)`` is almost always plain from the first 64 bits of
U and a floating-point exponential whose error is far below the margin kept here. Where it is not, once in 2**39 draws,
further bits of U are compared with as many digits of the exponential as it takes. So the decision is always that of
exact arithmetic, and arrays are drawn at the speed of NumPy.

**No noise is cut.** Noise cut to 64 bits and then added would show what it was added to: a sum that lies the bound away
from a possible value comes of that value, with certainty. At a rate of 2**-62 that is more than one draw in a hundred,
and rates are as low as that for a small epsilon or where many values share one grid. So noise that may not fit into 64
bits is Python's whole numbers, it is added as it is, and only the sum is cut or rounded, at a bound that the data have
no part in (:func:`within_words`). What is released is then a function of the exact sum: post-processing.

Example:
    >>> draws = [ExactRandomness(None).rounded_laplace(Fraction(100)) for _ in range(3)]  # of scale 1/100
    >>> draws
    [0, 0, 0]
"""

from __future__ import annotations

import decimal
import os
import random
import secrets
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["ExactRandomness", "within_words"]

# How far from the exponential the first 64 bits must be to decide: some thousand times the error of floating point.
_MARGIN = 2.0**-40

# Rates that are drawn as arrays. Beyond them the whole numbers of the arithmetic below would not fit in 64 bits.
_SMALLEST_RATE = Fraction(1, 2**51)
_LARGEST_RATE = 64

# Units of an array's draws with which no number of the arithmetic passes 2**63; more have probability exp(-127) each.
_MOST_UNITS = 126

_LARGEST_SUM = 2**62


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

    def each_below(self, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each of ``bounds``, all at least 1, a whole number in [0, bound), uniform."""
        limits = bounds.astype(np.uint64)
        top = np.uint64(2**64 - 1)
        last = top - (top % limits + np.uint64(1)) % limits  # words above it would favour small numbers
        result = np.zeros(limits.shape, np.uint64)
        pending = np.arange(len(limits))
        while len(pending):
            words = self.words(len(pending))
            result[pending] = words % limits[pending]
            pending = pending[words > last[pending]]
        return result.astype(np.int64)

    def many_bernoulli_exp(self, steps: NDArray[np.int64], rate: Fraction) -> NDArray[np.bool_]:
        """Return for each of ``steps``, all at least 0, True with probability ``exp(-rate * step)``; ``rate`` >= 0."""
        words = self.words(steps.size).reshape(steps.shape)
        places = words * 2.0**-64
        # A rate beyond 2**64 leaves no chance that floating point, or the margin, could see.
        chances = np.exp(steps * -float(min(rate, Fraction(2**64))))
        result = np.asarray(places < chances)
        for index in np.flatnonzero(np.abs(places - chances) <= _MARGIN).tolist():
            result.flat[index] = self._is_below_exp(int(words.flat[index]), rate * int(steps.flat[index]))
        return result

    def _is_below_exp(self, word: int, exponent: Fraction) -> bool:
        """Whether a uniform number whose first 64 bits are ``word`` is below ``exp(-exponent)``."""
        bits = 64
        while True:
            # More digits than the bits so far can tell apart, so an error of the last one is far below 1 when scaled.
            with decimal.localcontext(prec=bits // 3 + 30):
                chance = (-decimal.Decimal(exponent.numerator) / exponent.denominator).exp()
                scaled = int(chance * 2**bits)
            if word < scaled - 1:
                return True
            if word > scaled + 1:
                return False
            word, bits = word << 64 | self.below(2**64), bits + 64

    def many_rounded_laplace(self, rate: Fraction, count: int) -> NDArray[Any]:
        """Return ``count`` draws of :meth:`rounded_laplace`, of a rate that may be lower by up to a thousandth.

        The rate becomes a multiple of a power of two that is not above it, so there is never less noise than asked for;
        for rates of a millionth and more the difference is below 1e-12.

        Args:
            rate: one over the scale of the noise, > 0.
            count: how many.

        Returns:
            Whole numbers, none of them cut: int64 and below 2**59 in size, or Python's (dtype object), which may be
            larger. Which of the two it is depends on the rate and the draws alone. What is done to a sum with them,
            such as :func:`within_words`, is done after the addition.
        """
        if not _SMALLEST_RATE <= rate < _LARGEST_RATE:
            return np.array([self.rounded_laplace(rate) for _ in range(count)], dtype=object)
        # So that no number below passes 2**63 for units up to _MOST_UNITS.
        bits = 61 if rate < Fraction(1, 64) else 55
        numerator = int(rate * 2**bits)
        rate = Fraction(numerator, 2**bits)
        drawn_sizes = np.flatnonzero(self.many_bernoulli_exp(np.ones(count, np.int64), rate / 2))
        rest = self._many_exponential_rests(bits, len(drawn_sizes))
        units = self._many_units(len(drawn_sizes))
        size: NDArray[Any]
        if units.max(initial=0) > _MOST_UNITS:
            size = 1 + (rest.astype(object) + units.astype(object) * 2**bits) // numerator
        else:
            # The same without the product.
            per_unit, remainder = divmod(2**bits, numerator)
            size = 1 + units * per_unit + (rest + units * remainder) // numerator
        result: NDArray[Any] = np.zeros(count, size.dtype)
        result[drawn_sizes] = np.where(self.words(len(size)) >> np.uint64(63), size, -size)
        return result

    def _many_exponential_rests(self, bits: int, count: int) -> NDArray[np.int64]:
        """Whole numbers r in [0, 2**bits), each with probability in proportion to ``exp(-r / 2**bits)``."""
        result = np.zeros(count, np.int64)
        pending = np.arange(count)
        while len(pending):
            rest = (self.words(len(pending)) >> np.uint64(64 - bits)).astype(np.int64)
            result[pending] = rest
            pending = pending[~self.many_bernoulli_exp(rest, Fraction(1, 2**bits))]
        return result

    def _many_units(self, count: int) -> NDArray[np.int64]:
        """Whole numbers k = 0, 1, ... with probability in proportion to ``exp(-k)``."""
        result = np.zeros(count, np.int64)
        pending = np.arange(count)
        while len(pending):
            pending = pending[self.many_bernoulli_exp(np.ones(len(pending), np.int64), Fraction(1))]
            result[pending] += 1
        return result


def within_words(sums: NDArray[Any]) -> NDArray[np.int64]:
    """Return whole numbers to which noise has been added, cut to 2**62 in size so that they fit into 64 bits.

    Args:
        sums: int64, or Python's whole numbers (dtype object).

    Example:
        >>> within_words(np.array([5, -(10**30)], dtype=object)).tolist() == [5, -(2**62)]
        True
    """
    cut: NDArray[np.int64] = np.clip(sums, -_LARGEST_SUM, _LARGEST_SUM).astype(np.int64)
    return cut
