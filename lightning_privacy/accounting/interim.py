"""Epsilon between exact evaluations: never below the exact figure, at most 1% above it, cheap at every step.

Epsilon grows with the count of every kind of release. So if ``low <= counts <= high`` in every count, and an upper
bound at ``high`` is at most (1 + g) times epsilon at ``low``, then the bound at ``high`` serves all counts between.
:class:`InterimEpsilon` keeps such a bracket and moves it ahead of the counts as they grow.

The bound at the ends of a bracket comes from a coarser grid, which can only give more (see ``pld``), computed without
what makes the exact figure slow. How much more is measured, not assumed: against the exact figure, when a kind of
release is new and again before the counts have grown so far that the excess could matter. The error of the grid adds
up over compositions, so it grows at most as the counts do.

Example:
    >>> from lightning_privacy.accounting.interim import InterimEpsilon
    >>> from lightning_privacy.accounting.pld import exact_epsilon
    >>> from lightning_privacy.accounting.releases import SampledGaussian
    >>> groups = [(SampledGaussian(noise_multiplier=2.0, sample_rate=0.1), 40)]
    >>> ratio = InterimEpsilon(delta=1e-5)(groups) / exact_epsilon(groups, delta=1e-5)
    >>> 1.0 <= ratio <= 1.01
    True
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

from lightning_privacy.accounting.grid import GridLoss
from lightning_privacy.accounting.pld import (
    ADJACENCY,
    Groups,
    exact_epsilon,
    fine_interval,
    repeated,
    single,
)
from lightning_privacy.accounting.releases import GaussianRelease, Release

__all__ = ["MAX_EXCESS", "InterimEpsilon"]

# The promise is 1%; the two sources of excess together stay below it.
MAX_EXCESS = 0.01
_BRACKET_EXCESS = 0.0055
_GRID_EXCESS = 0.004

# Multiples of the fine interval that are tried, coarsest first. All are multiples, so the grids are nested.
_COARSER = (200, 100, 50, 20, 10, 5, 2)

# A grid step of epsilon / 400 is usually good to a few thousandths; a coarser one is not worth measuring.
_STEPS_PER_EPSILON = 400

# An excess is measured again at the latest when a count is this many times what it was.
_MAX_GROWTH = 16.0

# Masses of composed distributions are right to about 1e-14 (floating point and the tails cut off). At tiny deltas this
# shows in epsilon, and the exact figure itself does not grow evenly with the counts: a margin covers that, and below
# the smallest delta, where it would be a good part of 1%, only the exact figure will do.
_DELTA_NOISE = 3e-14
_NOISE_OF_ONE = 2e-16  # which adds up over the compositions
_MARGIN_OVER_DELTA = 2e-14
_SMALLEST_DELTA = 1e-10


@dataclass(frozen=True)
class _Certificate:
    """A grid interval (None: only the exact figure will do), the counts it is good for, epsilon where measured."""

    interval: float | None
    limits: tuple[int, ...]
    epsilon: float


@lru_cache(maxsize=64)
def _grid_single(release: Release, interval: float) -> GridLoss:
    return GridLoss.of(single(release, interval, ADJACENCY), interval=interval)


class InterimEpsilon:
    """Upper bounds of epsilon for counts that grow, at most 1% above the exact figure.

    Args:
        delta: the delta at which epsilon is wanted, in (0, 1).

    Example:
        >>> from lightning_privacy.accounting.releases import LaplaceRelease
        >>> round(InterimEpsilon(delta=1e-6)([(LaplaceRelease(epsilon=0.5), 1)]), 2)
        0.5
    """

    def __init__(self, *, delta: float) -> None:
        self.delta = delta
        self._margin = _MARGIN_OVER_DELTA / max(delta, _SMALLEST_DELTA)
        self._releases: tuple[Release, ...] = ()
        self._low: tuple[int, ...] = ()
        self._high: tuple[int, ...] = ()
        self._low_epsilon = 0.0
        self._high_epsilon = 0.0
        self._last: tuple[int, ...] = ()
        self._ahead = 0
        self._rates: tuple[float, ...] = ()
        self._certificate: _Certificate | None = None
        self._losses: OrderedDict[tuple[object, ...], GridLoss] = OrderedDict()

    def __call__(self, groups: Groups) -> float:
        """Upper bound of epsilon of the groups.

        Args:
            groups: pairs of release and count, each release private and at most once.

        Returns:
            A number in [exact, 1.01 * exact]; 0.0 without groups. Below a delta of 1e-10 it is exact, and as slow.
        """
        if not groups:
            return 0.0
        if self.delta < _SMALLEST_DELTA:
            return exact_epsilon(groups, delta=self.delta)
        releases = tuple(release for release, _ in groups)
        counts = tuple(count for _, count in groups)
        if releases != self._releases:
            self._start(releases, counts)
        elif math.isinf(self._low_epsilon) and _below(self._low, counts):
            return math.inf
        elif not (_below(self._low, counts) and _below(counts, self._high)):
            self._advance(counts)
        self._last = counts
        return self._high_epsilon

    def _start(self, releases: tuple[Release, ...], counts: tuple[int, ...]) -> None:
        # The first figure is the exact one. What a look ahead needs is found out when the counts first grow.
        self._releases, self._certificate = releases, None
        self._low = self._high = counts
        self._low_epsilon = self._high_epsilon = exact_epsilon(self._groups(counts), delta=self.delta)
        self._ahead = 0
        self._rates = ()

    def _advance(self, counts: tuple[int, ...]) -> None:
        """Move the bracket so that it holds the counts."""
        steps = tuple(max(0, now - before) for now, before in zip(counts, self._last, strict=True))
        if self._rates:
            # Smoothed, because releases charged in turn must all be looked ahead for.
            self._rates = tuple(0.75 * rate + 0.25 * step for rate, step in zip(self._rates, steps, strict=True))
        else:
            self._rates = tuple(float(step) for step in steps)
        low, low_epsilon = self._high, self._high_epsilon
        grown = _below(low, counts)
        if grown and self._ahead:
            high = tuple(now + math.ceil(self._ahead * rate) for now, rate in zip(counts, self._rates, strict=True))
            bound = self._bound(high)
            growth = _growth(low_epsilon, bound)
            self._learn(growth, self._ahead + 1)
            if growth <= _BRACKET_EXCESS:
                self._low, self._high = low, high
                self._low_epsilon, self._high_epsilon = low_epsilon, max(bound, low_epsilon)
                return
        # The counts do not extend the bracket, or a look ahead does not pay yet, or it went too far.
        bound = self._bound(counts)
        if grown and not self._ahead:
            self._learn(_growth(low_epsilon, bound), 1)
        self._low = self._high = counts
        self._low_epsilon = self._high_epsilon = bound

    def _learn(self, growth: float, calls: int) -> None:
        """Set how many calls to look ahead, from how much epsilon grew over so many."""
        wanted = 4.0 * calls if growth <= 0 else 0.85 * calls * _BRACKET_EXCESS / growth
        self._ahead = max(0, int(min(wanted, 4.0 * calls)) - 1)

    def _bound(self, counts: tuple[int, ...]) -> float:
        certificate = self._certificate
        if certificate is None or not _below(counts, certificate.limits):
            certificate = self._certificate = self._certify(counts)
        if certificate.interval is None:
            return exact_epsilon(self._groups(counts), delta=self.delta) * (1.0 + self._margin)
        bound = self._grid_epsilon(counts, certificate.interval) * (1.0 + self._margin)
        if bound > 4.0 * certificate.epsilon:
            # A larger epsilon may allow a coarser, faster grid.
            self._certificate = self._certify(counts)
        return bound

    def _groups(self, counts: tuple[int, ...]) -> tuple[tuple[Release, int], ...]:
        return tuple(zip(self._releases, counts, strict=True))

    def _certify(self, counts: tuple[int, ...]) -> _Certificate:
        """Find the coarsest grid that is good here, and how far the counts may grow on it."""
        groups = self._groups(counts)
        exact = exact_epsilon(groups, delta=self.delta)
        fine = fine_interval(groups)
        far = tuple(int(count * _MAX_GROWTH) for count in counts)
        if math.isinf(exact):
            return _Certificate(None, far, exact)
        for multiple in (*_COARSER, 1):
            interval = fine * multiple
            if multiple > 1 and interval * _STEPS_PER_EPSILON > exact:
                continue
            bound = self._grid_epsilon(counts, interval)
            excess = _growth(exact, bound)
            # Below the exact figure can only be floating-point noise, of a size that matters at tiny deltas.
            if 0.0 <= excess <= _GRID_EXCESS / 2:
                growth = min(_MAX_GROWTH, _GRID_EXCESS / excess if excess > 0 else math.inf)
                limits = tuple(max(count, int(count * growth)) for count in counts)
                return _Certificate(interval, limits, exact)
        return _Certificate(None, tuple(count * 2 for count in counts), exact)

    def _grid_epsilon(self, counts: tuple[int, ...], interval: float) -> float:
        # Groups that stand still are composed once; those that move are folded in last.
        moving = [
            index for index, count in enumerate(counts) if len(self._last) != len(counts) or count != self._last[index]
        ]
        still = [index for index in range(len(counts)) if index not in moving]
        total: GridLoss | None = None
        if still:
            key = (interval, *((self._releases[index], counts[index]) for index in still))
            total = self._losses.get(key)
            if total is None:
                for index in still:
                    part = self._repeated(index, counts[index], interval)
                    total = part if total is None else total.compose(part)
                if total is not None:
                    self._losses[key] = total
                while len(self._losses) > 4:
                    self._losses.popitem(last=False)
        for index in moving:
            part = self._repeated(index, counts[index], interval)
            total = part if total is None else total.compose(part)
        if total is None:
            raise ValueError("no groups to compose")
        noise = max(_DELTA_NOISE, _NOISE_OF_ONE * sum(counts))
        return total.epsilon(self.delta - min(noise, 1e-3 * self.delta))

    def _repeated(self, index: int, count: int, interval: float) -> GridLoss:
        release = self._releases[index]
        if isinstance(release, GaussianRelease):
            return GridLoss.of(repeated(release, count, interval, ADJACENCY), interval=interval)
        return _grid_single(release, interval).repeat(count)


def _growth(low: float, high: float) -> float:
    return high / low - 1.0 if low > 0 else (0.0 if high == 0 else math.inf)


def _below(low: tuple[int, ...], high: tuple[int, ...]) -> bool:
    return all(a <= b for a, b in zip(low, high, strict=True))
