"""What several noisy answers cost together, without rounding.

Answers that are each epsilon-private compose to the sum of their epsilons (Dwork and Roth, "The Algorithmic Foundations
of Differential Privacy", 2014, Theorem 3.16), whatever the client asks next because of what it was told. The sum is
taken of the numbers as they are written: ten answers of 0.1 are 1, not a little more.

Example:
    >>> from lightning_privacy.accounting import LaplaceRelease
    >>> within({LaplaceRelease(epsilon=0.1): 10}, budget=1.0), within({LaplaceRelease(epsilon=0.1): 11}, budget=1.0)
    (True, False)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from lightning_privacy.accounting import Release

__all__ = ["affordable", "cost_of", "total", "within"]


def cost_of(release: Release) -> Fraction | None:
    """Epsilon of one release on its own, or None where it has none that composes by addition.

    Args:
        release: one answer.
    """
    epsilon = getattr(release, "epsilon", None)
    if not release.private or not isinstance(epsilon, float) or not math.isfinite(epsilon):
        return None
    return Fraction(repr(epsilon))


def total(counts: Mapping[Release, int]) -> float:
    """Sum of the epsilons; infinite when a release among them is not private.

    Args:
        counts: how often each kind of answer was given.
    """
    spent = _sum(counts)
    return math.inf if spent is None else float(spent)


def within(counts: Mapping[Release, int], *, budget: float) -> bool:
    """Whether the sum of the epsilons is at most the budget.

    Args:
        counts: how often each kind of answer was given or is about to be.
        budget: largest sum allowed.
    """
    spent = _sum(counts)
    return spent is not None and spent <= Fraction(repr(float(budget)))


def affordable(counts: Mapping[Release, int], release: Release, *, budget: float) -> int:
    """How many more of these answers there can be within the budget.

    Args:
        counts: what was given already.
        release: the kind of answer that is to follow.
        budget: largest sum allowed.
    """
    spent, cost = _sum(counts), cost_of(release)
    if spent is None or cost is None:
        return 0
    return max(0, int((Fraction(repr(float(budget))) - spent) // cost))


def _sum(counts: Mapping[Release, int]) -> Fraction | None:
    spent = Fraction(0)
    for release, count in counts.items():
        cost = cost_of(release)
        if cost is None:
            return None
        spent += cost * count
    return spent
