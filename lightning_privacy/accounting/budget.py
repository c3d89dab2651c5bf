"""Whether a composition stays within a budget, decided by the exact figure but seldom computing it.

Epsilon grows with every count. So counts below a composition that is known to fit, fit too, and counts above one that
is known not to fit, do not. :class:`BudgetGate` keeps both kinds of composition and computes only between them.

Example:
    >>> from lightning_privacy.accounting.budget import BudgetGate
    >>> from lightning_privacy.accounting.releases import LaplaceRelease
    >>> gate = BudgetGate(delta=1e-6, budget=1.0)
    >>> gate.largest({}, LaplaceRelease(epsilon=0.3), limit=100)
    3
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning_privacy.accounting.interim import InterimEpsilon
from lightning_privacy.accounting.pld import exact_epsilon
from lightning_privacy.accounting.releases import Release

__all__ = ["BudgetGate", "Counts"]

Counts = Mapping[Release, int]

# Compositions remembered of each kind; old ones are seldom asked about again.
_MEMORY = 32

# A search goes up at most this many times at once, so that it never composes far more than it needs.
_GROWTH = 64


def _within(counts: Counts, limit: Counts) -> bool:
    return all(limit.get(release, 0) >= count for release, count in counts.items())


class BudgetGate:
    """Decides whether counts of releases keep within a budget.

    Args:
        delta: the delta at which epsilon is meant, in (0, 1).
        budget: largest epsilon allowed, above 0.

    Example:
        >>> from lightning_privacy.accounting.releases import NonPrivate
        >>> BudgetGate(delta=1e-6, budget=1.0).fits({NonPrivate("raw counts"): 1})
        False
    """

    def __init__(self, *, delta: float, budget: float, interim: InterimEpsilon | None = None) -> None:
        self.delta = delta
        self.budget = budget
        self.interim = interim or InterimEpsilon(delta=delta)
        self.evaluations = 0
        self._fits: list[dict[Release, int]] = []
        self._breaks: list[dict[Release, int]] = []
        self._checked: dict[Release, int] = {}
        self._mix: dict[Release, float] = {}
        self._stretch = 16

    def fits(self, counts: Counts) -> bool:
        """Whether the exact epsilon of the counts is at most the budget.

        Args:
            counts: how often each release happened or is about to.

        Returns:
            True if it is; computed exactly only near the budget, and then ahead of the counts, so that many
            questions cost few computations.
        """
        known = self._known(counts)
        if known is not None:
            return known
        if not all(release.private for release in counts):
            return False
        if self.interim(tuple(counts.items())) <= self.budget:
            return True
        # One computation answers for as many further charges of the present mix as the stretch says.
        for release, count in counts.items():
            self._mix[release] = self._mix.get(release, 0.0) / 2 + max(0, count - self._checked.get(release, 0))
        self._checked = dict(counts)
        # Kinds that are charged seldom round to none: they are not what comes next.
        most = max(self._mix.values())
        if self._stretch and most > 0:
            box = {
                release: count + round(self._stretch * self._mix[release] / most) for release, count in counts.items()
            }
            if self._exact(box) <= self.budget:
                self._stretch *= 2
                return True
            self._stretch //= 2
        return self._exact(counts) <= self.budget

    def largest(self, counts: Counts, release: Release, limit: int) -> int:
        """Largest number of further releases, at most ``limit``, that keeps within the budget.

        Args:
            counts: what happened already.
            release: the kind of release that is to follow.
            limit: number beyond which the answer does not matter.

        Returns:
            A number in [0, limit].
        """
        if limit < 1 or not release.private or not all(each.private for each in counts):
            return 0
        have = counts.get(release, 0)
        low, high = self._bracket(counts, release)
        low = min(low, limit)
        low_log = high_log = math.nan

        def log_epsilon(more: int) -> float:
            epsilon = self._exact({**counts, release: have + more})
            return math.log(epsilon / self.budget) if epsilon > 0 else -math.inf

        # Upwards from what is small, because composing far too many is what takes long.
        top = limit if high is None else min(limit, high - 1)
        while low < top:
            if low == 0:
                ahead = 1
            else:
                ahead = (have + low + 1) * _GROWTH - have
                if math.isfinite(low_log):
                    # Epsilon grows at least about as the square root of the count; more is seldom needed.
                    ahead = min(ahead, math.ceil((have + low) * math.exp(-2.0 * low_log)) - have + 1)
            ahead = min(top, max(ahead, low + 1))
            value = log_epsilon(ahead)
            if value > 0:
                high, high_log = ahead, value
                break
            low, low_log = ahead, value
        if high is None or low >= top:
            return low
        # Between: interpolate epsilon as a power of the count, and step past the guess when one side lags.
        push, side = 1, 0
        while high - low > 1:
            guess = (low + high) // 2
            if math.isfinite(low_log) and math.isfinite(high_log) and low_log < high_log:
                part = low_log / (low_log - high_log)
                slope = math.log((have + high) / (have + low)) if have + low else 0.0
                guess = int((have + low) * math.exp(part * slope)) - have if slope else guess
            if side > 0:
                guess = guess + push
            elif side < 0:
                guess = guess - push
            guess = min(max(guess, low + 1), high - 1)
            value = log_epsilon(guess)
            if value <= 0:
                push = push * 2 if side > 0 else 1
                low, low_log, side = guess, value, 1
            else:
                push = push * 2 if side < 0 else 1
                high, high_log, side = guess, value, -1
        return min(low, limit)

    def _bracket(self, counts: Counts, release: Release) -> tuple[int, int | None]:
        """What is known to fit, and the least that is known not to (None: nothing known)."""
        have = counts.get(release, 0)
        others = {each: count for each, count in counts.items() if each != release}
        fitting = [known[release] - have for known in self._fits if release in known and _within(others, known)]
        breaking = [
            known[release] - have
            for known in self._breaks
            if release in known and _within({k: v for k, v in known.items() if k != release}, others)
        ]
        low = max([0, *fitting])
        high = max(low + 1, min(breaking)) if breaking else None
        return low, high

    def _known(self, counts: Counts) -> bool | None:
        if any(_within(counts, known) for known in self._fits):
            return True
        if any(_within(known, counts) for known in self._breaks):
            return False
        return None

    def _exact(self, counts: Counts) -> float:
        epsilon = exact_epsilon(tuple(counts.items()), delta=self.delta)
        self.evaluations += 1
        if epsilon <= self.budget:
            self._fits = [known for known in self._fits if not _within(known, counts)][-_MEMORY:]
            self._fits.append(dict(counts))
        else:
            self._breaks = [known for known in self._breaks if not _within(counts, known)][-_MEMORY:]
            self._breaks.append(dict(counts))
        return epsilon
