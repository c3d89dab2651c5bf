"""The Laplace mechanism on a grid: a release of pure epsilon-DP that floating point does not undermine.

Dwork et al., "Calibrating Noise to Sensitivity in Private Data Analysis", 2006. Textbook floating-point Laplace noise
betrays what it was added to (Mironov, "On Significance of the Least Significant Bits For Differential Privacy", 2012).
So the values are first rounded to a grid of powers of two, which moves each by at most half a cell; in cells they are
whole numbers, to which noise is added that is exactly rounded Laplace noise (``mechanisms/_exact.py``). What rounding
adds to the sensitivity, one cell for each value, is in the scale of the noise: a millionth of it.

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
from fractions import Fraction
from typing import TypeVar

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
        The same type and shape, on a grid whose cells are below a millionth of the noise.

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


def _in_numbers(numbers: NDArray[np.float64], cell: Fraction, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Round ``numbers`` to cells, add whole numbers of cells, and return the sums in float64."""
    exponent = cell.numerator.bit_length() - cell.denominator.bit_length()
    if -1022 < exponent < 1023:
        with np.errstate(over="ignore", under="ignore"):
            cells = np.ldexp(numbers, -exponent)  # exact, or infinite, or so small that it rounds to 0 all the same
        if (np.abs(cells) < _LARGEST_CELL).all() and (np.abs(drawn) < _LARGEST_CELL).all():
            return np.ldexp((np.rint(cells).astype(np.int64) + drawn).astype(np.float64), exponent)
    pairs = zip(numbers.tolist(), drawn.tolist(), strict=True)
    return np.array([float((round(Fraction(number) / cell) + k) * cell) for number, k in pairs], dtype=np.float64)
