"""The Laplace mechanism on a grid: a release of pure epsilon-DP that floating point does not undermine.

Dwork et al., "Calibrating Noise to Sensitivity in Private Data Analysis", 2006. Textbook floating-point Laplace noise
betrays what it was added to (Mironov, "On Significance of the Least Significant Bits For Differential Privacy", 2012).
So the values are first rounded to a grid of powers of two, which moves each by at most half a cell; in cells they are
whole numbers, to which noise is added that is exactly rounded Laplace noise (``mechanisms/_exact.py``). What rounding
adds to the sensitivity, one cell for each value, is in the scale of the noise: a millionth of it. For many values the
cells shrink with their number, so that it stays a millionth; for these as for a small epsilon the noise may be more
cells than fit into 64 bits. It is added all the same as it is, and what comes back is the floating-point number nearest
to the exact sum: a function of the sum alone.

**Several values at once.** Noise of scale sensitivity / epsilon on each, with ``sensitivity`` the largest change of the
*sum* of absolute differences, costs no more than one value with that sensitivity. For a set A and the output's law p_t
as the values move, at unit speed in that sum, ``|d p_t(A) / dt| <= min(p_t(A), 1 - p_t(A))``, since the logarithm of
the density changes at most at speed 1 / scale; and the half-lines of one Laplace variable meet this with equality.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> noisy = laplace(12.5, sensitivity=1.0, epsilon=0.5, ledger=ledger)
    >>> isinstance(noisy, float), round(ledger.epsilon(exact=True), 3)
    (True, 0.5)
"""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_privacy._validate import positive
from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.mechanisms._charge import charge
from lightning_privacy.mechanisms._exact import ExactRandomness
from lightning_privacy.mechanisms._values import float_values
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["laplace"]

Value = TypeVar("Value", float, Tensor, NDArray[np.float64])

# Cells within the sensitivity, for each value: the share by which rounding raises the noise is one over it.
_CELLS_BITS = 20

# Sums of two such numbers fit in 64 bits.
_LARGEST_CELL = 2.0**61


def laplace(
    value: Value,
    *,
    sensitivity: float,
    epsilon: float,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
) -> Value:
    """Return ``value`` with Laplace noise of scale ``sensitivity / epsilon`` on each number.

    Args:
        value: a number, or a floating-point tensor or array; not changed.
        sensitivity: the most by which the sum of absolute differences can change when one record is replaced by a
            null record that contributes nothing (the ledger's neighbouring relation, "zero-out").
        epsilon: what the release costs, > 0; small values mean much noise.
        ledger: charged before anything is drawn.
        noise: None for the operating system's randomness; a seeded source makes the result reproducible and NOT
            PRIVATE.

    Returns:
        The same type and shape, on a grid whose cells are below a millionth of the noise; sums beyond the range of
        floating point are cut to its ends.

    Raises:
        ConfigurationError: a number is out of range or not finite; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.
    """
    numbers, back = float_values(value)
    sensitivity, release = positive(sensitivity=sensitivity), LaplaceRelease(positive(epsilon=epsilon))
    charge(ledger, release, noise)
    count = max(1, len(numbers))
    # In powers of two, so that going to cells and back is exact. Fractions have no limits of range.
    cell = Fraction(2) ** (math.frexp(sensitivity)[1] - 1 - _CELLS_BITS - (count - 1).bit_length())
    rate = Fraction(release.epsilon) / (Fraction(sensitivity) / cell + count)
    drawn = ExactRandomness(noise).many_rounded_laplace(rate, len(numbers))
    noisy: Value = back(_in_numbers(numbers, cell, drawn))
    return noisy


def _in_numbers(numbers: NDArray[np.float64], cell: Fraction, drawn: NDArray[Any]) -> NDArray[np.float64]:
    """Round ``numbers`` to cells, add whole numbers of cells, and return the float64 nearest to each exact sum."""
    exponent = cell.numerator.bit_length() - cell.denominator.bit_length()
    result = np.empty(len(numbers))
    small = np.zeros(len(numbers), np.bool_)  # where the sum fits into 64 bits
    with np.errstate(over="ignore", under="ignore"):
        if -1022 < exponent < 1023:
            cells = np.ldexp(numbers, -exponent)  # exact, or infinite, or so small that it rounds to 0 all the same
            small = np.asarray((np.abs(cells) < _LARGEST_CELL) & (np.abs(drawn) < _LARGEST_CELL))
            sums = np.rint(cells[small]).astype(np.int64) + drawn[small].astype(np.int64)
            result[small] = np.ldexp(sums.astype(np.float64), exponent)
        for place in np.flatnonzero(~small).tolist():
            result[place] = _nearest((round(Fraction(float(numbers[place])) / cell) + int(drawn[place])) * cell)
    return np.clip(result, -sys.float_info.max, sys.float_info.max)


def _nearest(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
