"""Is an attack better than chance at its strictest? An exact test, and what it would have noticed.

If the model does not depend on who was in its training, the coins that decided it say nothing about the scores: every
assignment of members to scores is as likely. The number of members above the k-th highest non-member is then negative
hypergeometric, whatever the scores are. That such a test finds nothing means little by itself, so
:func:`detectable_ratio` says how large a leak it would have found, and with which probability.

Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> member = rng.random(2000) < 0.5
    >>> exceedance_p_value(rng.normal(size=2000), member, fpr=0.01) > 0.05
    True
    >>> exceedance_p_value(rng.normal(size=2000) + 2 * member, member, fpr=0.01) < 1e-6
    True
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom, hypergeom

from lightning_privacy._validate import positive_int, within_open_unit
from lightning_privacy.audit.roc import attack_roc
from lightning_privacy.errors import ConfigurationError

__all__ = ["detectable_ratio", "exceedance_p_value"]

_ROUNDING = 1e-9
_MOST_RATIO = 1e6
_PLACES = 2000


def _allowed(non_members: int, fpr: float) -> int:
    """Non-members that may score above the threshold."""
    return math.floor(fpr * non_members + _ROUNDING)


def exceedance_p_value(scores: npt.ArrayLike, member: npt.ArrayLike, *, fpr: float) -> float:
    """Probability that scores which say nothing find at least as many members at a false-positive rate.

    Args:
        scores: Higher for a likelier member, any shape. Of several models they may be taken together, when each
            example was in each model's training by a coin of its own.
        member: True for members, of the same shape.
        fpr: False-positive rate, in (0, 1).

    Returns:
        One-sided p-value; exact without equal scores, and too high with them.

    Raises:
        ConfigurationError: Shapes differ, a score is NaN, or one of the two kinds is missing.
    """
    rate = attack_roc(scores, member).tpr_at(fpr)
    is_member = np.asarray(member)
    members = int(is_member.sum())
    non_members = is_member.size - members
    return _p_value(round(rate * members), members, non_members, _allowed(non_members, fpr))


def _p_value(found: int, members: int, non_members: int, allowed: int) -> float:
    # At least `found` members come before the (allowed + 1)-th non-member exactly when the first found + allowed of all
    # hold no more than `allowed` non-members.
    return float(hypergeom.cdf(allowed, members + non_members, non_members, found + allowed))


def detectable_ratio(
    members: int, non_members: int, *, fpr: float, significance: float = 0.05, miss: float = 0.1
) -> float:
    """How many times the false-positive rate the true-positive rate must be for the test to notice.

    The ratio is that of the two rates from the highest score down to the threshold.

    Args:
        members: Number of members.
        non_members: Number of non-members.
        fpr: False-positive rate, in (0, 1).
        significance: Probability of an alarm where there is nothing.
        miss: Probability of no alarm at this ratio.

    Returns:
        The ratio, above 1; infinite where no ratio would be noticed.

    Raises:
        ConfigurationError: A number is out of range.

    Example:
        >>> 1.2 < detectable_ratio(5000, 5000, fpr=0.01) < 2
        True
    """
    members, non_members = positive_int(members=members), positive_int(non_members=non_members)
    within_open_unit(fpr=fpr)
    within_open_unit(significance=significance)
    within_open_unit(miss=miss)
    allowed = _allowed(non_members, fpr)
    if allowed >= non_members:
        raise ConfigurationError(f"fpr={fpr:g} of {non_members} non-members leaves none below the threshold")
    low, high = 0, members + 1
    while low < high:  # the least number of members that is an alarm
        middle = (low + high) // 2
        if _p_value(middle, members, non_members, allowed) <= significance:
            high = middle
        else:
            low = middle + 1
    if low > members:
        return math.inf
    # The share of all non-members above the threshold varies from sample to sample: its quantiles stand for it.
    shares = beta.ppf((np.arange(_PLACES) + 0.5) / _PLACES, allowed + 1, non_members - allowed)

    def missed(ratio: float) -> float:
        return float(binom.cdf(low - 1, members, np.minimum(1.0, ratio * shares)).mean())

    if missed(_MOST_RATIO) > miss:
        return math.inf
    below, above = 1.0, _MOST_RATIO
    while above / below > 1 + 1e-6:
        ratio = math.sqrt(below * above)
        below, above = (ratio, above) if missed(ratio) > miss else (below, ratio)
    return above
