"""Differences of private numbers in whole cells of a grid, so that they can meet exact discrete noise.

Rounding to a grid of powers of two moves each number by at most half a cell. The cells are a millionth of the
sensitivity, so what rounding adds to it, one cell for a difference, hardly counts.

Example:
    >>> import numpy as np
    >>> grid = Grid(1.0)
    >>> grid.differences(np.array([3.0, 1e300]), np.array([2.5, 0.0])).tolist() == [2**19, 2**50]
    True
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid"]

_CELLS_BITS = 20

# Differences are cut here, thirty binary orders beyond the sensitivity, so that they fit in 64 bits. Cutting changes no
# difference by more than before.
_LARGEST = 2.0**50


class Grid:
    """A grid for numbers of a given sensitivity.

    Args:
        sensitivity: the most by which one number can change, > 0.

    Attributes:
        sensitivity: in cells, the most by which the difference of a rounded number from one that is fixed can change.
    """

    def __init__(self, sensitivity: float) -> None:
        self._exponent = math.frexp(sensitivity)[1] - 1 - _CELLS_BITS
        self.sensitivity = Fraction(sensitivity) / Fraction(2) ** self._exponent + 1

    def differences(self, numbers: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return ``numbers - others``, both rounded to the grid, in cells; shapes that broadcast."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            ones, twos = np.ldexp(numbers, -self._exponent), np.ldexp(others, -self._exponent)
            # Exact: where the difference of two whole numbers is below 2**53 it is a floating-point number, and where
            # it is not it is cut. Where there are so many cells that they overflow, the numbers are subtracted as they
            # are.
            cells = np.where(
                np.isfinite(ones) & np.isfinite(twos),
                np.rint(ones) - np.rint(twos),
                np.ldexp(self._rounded(numbers, ones) - self._rounded(others, twos), -self._exponent),
            )
        return np.clip(cells, -_LARGEST, _LARGEST).astype(np.int64)

    def _rounded(self, numbers: NDArray[np.float64], cells: NDArray[np.float64]) -> NDArray[np.float64]:
        # Numbers of so many cells that they overflow are whole numbers of cells anyway.
        rounded: NDArray[np.float64] = np.where(np.isinf(cells), numbers, np.ldexp(np.rint(cells), self._exponent))
        return rounded
