"""Fast composition of privacy loss distributions on one grid, for figures asked for at every step.

The arrays come from ``dp_accounting``; here they are only convolved and searched, without Python loops, and with what
does not depend on the number of compositions kept. Results agree with ``dp_accounting`` up to floating point; callers
that must not fall below it leave a margin.

This is the one module that reads private attributes of ``dp_accounting``; ``tests/accounting/test_grid.py`` pins them.

Example:
    >>> from lightning_privacy.accounting.grid import GridLoss
    >>> from lightning_privacy.accounting.pld import ADJACENCY, single
    >>> from lightning_privacy.accounting.releases import LaplaceRelease
    >>> one = GridLoss.of(single(LaplaceRelease(epsilon=0.5), 1e-3, ADJACENCY), interval=1e-3)
    >>> round(one.repeat(3).epsilon(1e-6), 2)
    1.5
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from dp_accounting.pld.pld_pmf import PLDPmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from numpy.typing import NDArray
from scipy import fft, signal, special

__all__ = ["GridLoss", "GridMass"]

# Mass that may be cut from the tails of a composition, as in dp_accounting; it is added to the infinite loss.
_TAIL = 1e-15

# Up to so many compositions a power is multiplied up, which is ten times as fast as one by logarithms: its error is
# the number of compositions times 1e-16, the margin that callers leave. Lengths of transforms that are rounded up to a
# multiple have mostly been transformed before.
_MULTIPLIED = 256
_LENGTHS = 2048

# Orders of the Chernoff bound, over the number of grid points.
_ORDERS = np.concatenate((np.arange(-20, 0), np.arange(1, 21)))


@dataclass
class GridMass:
    """A distribution on the multiples of an interval, and the mass of the infinite loss.

    Args:
        lowest: index of the first point; the loss there is ``lowest * interval``.
        mass: probabilities of the points, shape (points,).
        infinite: probability of an infinite loss.
    """

    lowest: int
    mass: NDArray[np.float64]
    infinite: float
    _log_moments: NDArray[np.float64] | None = field(default=None, repr=False)
    _transform: tuple[int, NDArray[np.complex128]] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, pmf: PLDPmf) -> GridMass:
        """Take over the arrays of a ``dp_accounting`` distribution."""
        dense = pmf.to_dense_pmf()
        return cls(int(dense._lower_loss), np.asarray(dense._probs, dtype=np.float64), float(dense._infinity_mass))

    def _bounds(self, count: int) -> tuple[int, int]:
        """Indices outside of which the ``count``-fold convolution has at most ``_TAIL`` mass (Chernoff)."""
        points = len(self.mass)
        orders = _ORDERS / points
        if self._log_moments is None:
            index = np.arange(points)
            self._log_moments = np.array([special.logsumexp(index * order, b=self.mass) for order in orders])
        bounds = (count * self._log_moments + math.log(2.0 / _TAIL)) / orders
        lower, upper = bounds[orders < 0], bounds[orders > 0]
        lowest = max(0, math.floor(np.max(lower[np.isfinite(lower)], initial=0.0)))
        highest = (points - 1) * count
        if np.isfinite(upper).any():
            highest = min(highest, math.ceil(np.min(upper[np.isfinite(upper)])))
        return lowest, highest

    def _spectrum(self, length: int) -> NDArray[np.complex128]:
        if self._transform is None or self._transform[0] != length:
            self._transform = length, fft.rfft(self.mass, length)
        return self._transform[1]

    def repeat(self, count: int) -> GridMass:
        """The sum of ``count`` independent losses."""
        if count == 1:
            return self
        lowest, highest = self._bounds(count)
        points = highest - lowest + 1
        wanted = -(-max(points, len(self.mass)) // _LENGTHS) * _LENGTHS
        length = fft.next_fast_len(wanted, real=True)
        circle = fft.irfft(_power(self._spectrum(length), count), length)
        mass = np.roll(circle, -lowest)[:points]
        infinite = _TAIL - math.expm1(count * math.log1p(-self.infinite))
        return GridMass(self.lowest * count + lowest, mass, infinite)

    def add(self, other: GridMass) -> GridMass:
        """The sum of two independent losses."""
        mass = signal.fftconvolve(self.mass, other.mass)
        # Cut what cannot matter, so that a chain of sums does not grow without need.
        heavy = np.flatnonzero(np.cumsum(mass) > _TAIL / 2)
        first = int(heavy[0]) if len(heavy) else 0
        above = np.cumsum(mass[::-1])
        last = len(mass) - int(np.searchsorted(above, _TAIL / 2, side="right"))
        last = max(last, first + 1)
        kept = mass[first:last].copy()
        kept[0] += mass[:first].sum()
        infinite = self.infinite + other.infinite - self.infinite * other.infinite + max(0.0, mass[last:].sum())
        return GridMass(self.lowest + other.lowest + first, kept, infinite)

    def epsilon(self, delta: float, interval: float) -> float:
        """Smallest epsilon >= 0 whose hockey-stick divergence is at most ``delta``."""
        if self.infinite > delta:
            return math.inf
        losses = (np.arange(len(self.mass))[::-1] + self.lowest) * interval
        upper = self.infinite + np.cumsum(self.mass[::-1])
        # exp(-loss) is scaled by the largest loss that matters, which keeps it in range for losses of hundreds.
        start = int(np.searchsorted(upper > delta, True)) if (upper > delta).any() else len(upper)
        if start == len(upper):
            return 0.0
        shift = losses[start]
        with np.errstate(over="ignore"):
            lower = np.cumsum(self.mass[::-1] * np.exp(np.minimum(shift - losses, 700.0)))
        gap, weight = upper[start:] - delta, lower[start:]
        usable = (gap > 0) & (weight > 0)
        candidate = np.full(len(gap), -math.inf)
        candidate[usable] = np.log(gap[usable] / weight[usable]) + shift
        following = np.append(losses[start + 1 :], -math.inf)
        # The sums up to a point give epsilon when that epsilon is not below the next loss.
        found = np.flatnonzero(usable & (candidate >= following))
        return max(0.0, float(candidate[found[0]])) if len(found) else 0.0


def _power(values: NDArray[np.complex128], count: int) -> NDArray[np.complex128]:
    """Return ``values ** count``, shape as given; the count is at least 1."""
    if count == 1 or count > _MULTIPLIED:
        return values**count
    squared = _power(values * values, count // 2)
    return squared * values if count % 2 else squared


@dataclass
class GridLoss:
    """Both directions of a neighbouring relation; epsilon is the larger of the two.

    Args:
        remove: losses when the record is taken away.
        add_mass: losses when it is added; None where both are equal.
        interval: step of the grid.
    """

    remove: GridMass
    add_mass: GridMass | None
    interval: float

    @classmethod
    def of(cls, loss: PrivacyLossDistribution, *, interval: float) -> GridLoss:
        """Take over a ``dp_accounting`` distribution with that grid interval."""
        remove = GridMass.of(loss._pmf_remove)
        return cls(remove, None if loss._symmetric else GridMass.of(loss._pmf_add), interval)

    def repeat(self, count: int) -> GridLoss:
        """Composition with itself, ``count`` times."""
        add = None if self.add_mass is None else self.add_mass.repeat(count)
        return GridLoss(self.remove.repeat(count), add, self.interval)

    def compose(self, other: GridLoss) -> GridLoss:
        """Composition with another loss on the same grid."""
        remove = self.remove.add(other.remove)
        if self.add_mass is None and other.add_mass is None:
            return GridLoss(remove, None, self.interval)
        add = (self.add_mass or self.remove).add(other.add_mass or other.remove)
        return GridLoss(remove, add, self.interval)

    def epsilon(self, delta: float) -> float:
        """Epsilon at ``delta``, the larger of both directions."""
        epsilon = self.remove.epsilon(delta, self.interval)
        if self.add_mass is None:
            return epsilon
        return max(epsilon, self.add_mass.epsilon(delta, self.interval))
