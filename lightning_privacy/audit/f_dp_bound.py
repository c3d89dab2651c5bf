r"""A lower bound of epsilon from one run that uses the whole trade-off curve.

Mahloujifar, Melis and Chaudhuri, "Auditing f-Differential Privacy in One Run", 2024. What (epsilon, delta) alone says
of a mechanism lets it fail with probability delta for each of the m canaries, which weakens
:mod:`~lightning_privacy.audit.one_run_bound`; a Gaussian mechanism does nothing of the kind.

What is computed, and why it holds. Of m fair coins exactly c are guessed, W of them rightly; ``q_i = P(W >= i)``. Take
the event that the guess about coin j is made, is right, and W >= i + 1. With coin j turned over and all else as it is,
the same outcome of the mechanism makes the same guess, which is wrong now, and leaves at least i right ones. With
``least`` of the mechanism's trade-off curve, and by Jensen's inequality (it is convex) over the coins and over j,

    ``sum_{l >= i} (c - l) P(W = l) / m  >=  least( sum_{l > i} l P(W = l) / m )``

(their Theorem 8 for the sets ``{l > i}``). Written with q,

    ``(c - i) q_i >= sum_{l > i} q_l + m least( ((i + 1) q_{i+1} + sum_{l > i+1} q_l) / m )``,

whose right-hand side does not fall in any ``q_l, l > i``. Suppose now that ``P(W >= v) >= t``. The least that these
inequalities allow for ``q_{v-1}, q_{v-2}, ..., q_0`` follows one after the other from ``q_v = t`` and ``q_l = 0`` for
``l > v``. If that makes q_0 more than 1, the supposition is wrong: so many right guesses have a probability below t.

Example:
    >>> refutes(GaussianCurve(0.5), 95, 100, num_canaries=1000, level=0.05)
    True
    >>> refutes(GaussianCurve(3.0), 95, 100, num_canaries=1000, level=0.05)
    False
    >>> mu = gaussian_lower_bound(95, 100, num_canaries=1000)
    >>> 0.5 < mu < 3.0
    True
"""

from __future__ import annotations

import numpy as np

from lightning_privacy._validate import within_open_unit
from lightning_privacy.audit.one_run_bound import check_counts
from lightning_privacy.audit.trade_off import GaussianCurve, TradeOffCurve

__all__ = ["gaussian_lower_bound", "refutes"]

_LARGEST_MU = 20.0
_PRECISION = 1e-4


def refutes(curve: TradeOffCurve, correct: int, guesses: int, *, num_canaries: int, level: float) -> bool:
    """Whether so many right guesses have a probability below ``level`` for every mechanism with this curve.

    Args:
        curve: The trade-off curve that is claimed.
        correct: v, how many guesses were right.
        guesses: c, how many were made: a number that was fixed before.
        num_canaries: m.
        level: Probability of refuting a true claim, in (0, 1).

    Raises:
        ConfigurationError: A number is out of its range.
    """
    check_counts(correct, guesses, num_canaries)
    level = within_open_unit(level=level)
    if correct == 0:
        return False
    # What is known of W above the present i: q_{i+1}, the sum of q_l over l > i + 1, and over l > i.
    next_tail, beyond = level, 0.0
    for i in range(correct - 1, -1, -1):
        above = next_tail + beyond
        right = ((i + 1) * next_tail + beyond) / num_canaries
        if right > 1.0:
            return True
        tail = max(next_tail, (above + num_canaries * curve.least(right)) / (guesses - i))
        if tail > 1.0:
            return True
        next_tail, beyond = tail, above
    return False


def gaussian_lower_bound(
    correct: int, guesses: int, *, num_canaries: int, confidence: float = 0.95, largest: float = _LARGEST_MU
) -> float:
    """The smallest mu of a Gaussian trade-off curve that the guesses do not refute.

    A proven bound for mechanisms whose curve is Gaussian, which that of many steps of DP-SGD nearly is (Dong, Roth and
    Su, 2022, section 5); for another mechanism it is the noise that a Gaussian one would need to be told apart so well.

    Args:
        correct: How many guesses were right.
        guesses: How many were made: a number that was fixed before.
        num_canaries: How many canaries there are.
        confidence: Probability with which the bound is below the true mu, at least; in (0, 1).
        largest: Where to stop to look.

    Returns:
        At least 0.

    Raises:
        ConfigurationError: A number is out of its range.
    """
    level = 1.0 - within_open_unit(confidence=confidence)

    def refuted(mu: float) -> bool:
        return refutes(GaussianCurve(mu), correct, guesses, num_canaries=num_canaries, level=level)

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, float(np.nextafter(largest, np.inf))
    if refuted(largest):
        return largest
    while high - low > _PRECISION:
        middle = 0.5 * (low + high)
        if refuted(middle):
            low = middle
        else:
            high = middle
    return low
