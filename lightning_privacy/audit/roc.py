"""How well an attack tells members from non-members: its ROC, and the figures that are read off it, with intervals.

An attack gives each example a score, higher for one that it takes for a member. What matters is not how often it is
right on average but how many members it finds while it hardly ever accuses a non-member (Carlini et al., "Membership
Inference Attacks From First Principles", 2022): the true-positive rate (TPR) at a false-positive rate (FPR) of 0.1% or
1%. Area (AUC) and advantage, the largest difference of the two rates (Yeom et al. 2018), are averages beside it.

The intervals need no assumption about how scores are distributed; they take the examples for independent draws.

* TPR at an FPR: the threshold is one of the ordered scores of the non-members. Which of them surely lie above and
  below the true threshold follows from the binomial distribution; the rate of members above has an exact interval
  (Clopper and Pearson 1934). A quarter of the error probability goes to each of the four.
* Advantage: both distribution functions lie in a band around the empirical ones (Massart 1990).
* AUC: the score interval of Newcombe ("Confidence intervals for an effect size measure based on the Mann-Whitney
  statistic. Part 2", 2006, method 5), which keeps a width where the area is 0 or 1.

Example:
    >>> figures = attack_figures([3.0, 2.0, 0.5, 1.0, 0.2], [True, True, True, False, False], fprs=(0.01,))
    >>> round(figures.auc, 3), round(figures.advantage, 3), round(figures.tpr[0.01].value, 3)
    (0.833, 0.667, 0.667)
    >>> figures.tpr[0.01].low  # two non-members say nothing about a rate of 1%
    0.0
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import beta, binom, norm, rankdata

from lightning_privacy._validate import within_open_unit
from lightning_privacy.errors import ConfigurationError

__all__ = ["AttackFigures", "Estimate", "Roc", "attack_figures", "attack_roc", "share_interval"]

FPRS = (0.001, 0.01)
# A product such as 0.07 * 100 may come out just below the whole number it is.
_ROUNDING = 1e-9
_EDGE = 1e-9


class Estimate(NamedTuple):
    """A figure and its interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        """In percent, as ``4.2% (3.0% to 5.9%)``."""
        return f"{self.value:.{digits}%} ({self.low:.{digits}%} to {self.high:.{digits}%})"


@dataclass(frozen=True, eq=False)
class Roc:
    """The rates of an attack at every threshold, from the strictest to the loosest.

    Attributes:
        fpr: Share of the non-members with a score at or above the threshold, from 0 to 1, shape ``(K,)``.
        tpr: The same of the members.
        thresholds: Infinite first, then every score there is, falling.
    """

    fpr: npt.NDArray[np.float64]
    tpr: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under the curve: the chance that a member scores above a non-member, ties counted half."""
        return float((np.diff(self.fpr) * (self.tpr[1:] + self.tpr[:-1])).sum() / 2)

    @property
    def advantage(self) -> float:
        """Largest difference of TPR and FPR."""
        return float((self.tpr - self.fpr).max())

    def tpr_at(self, fpr: float) -> float:
        """TPR of the loosest threshold with no more than this FPR, in (0, 1); equal scores are never told apart."""
        within_open_unit(fpr=fpr)
        return float(self.tpr[np.searchsorted(self.fpr, fpr + _ROUNDING, side="right") - 1])


@dataclass(frozen=True)
class AttackFigures:
    """What an attack can do.

    Attributes:
        members: Number of members.
        non_members: Number of non-members.
        auc: Area under the ROC; 0.5 is guessing.
        auc_interval: Its interval.
        advantage: Largest difference of TPR and FPR; 0 is guessing, but by chance it is never below 0.
        advantage_interval: Its interval.
        tpr: FPR to the TPR at it. Guessing has a TPR equal to the FPR.
        confidence: Of the intervals.
    """

    members: int
    non_members: int
    auc: float
    auc_interval: tuple[float, float]
    advantage: float
    advantage_interval: tuple[float, float]
    tpr: Mapping[float, Estimate]
    confidence: float

    def to_dict(self) -> dict[str, object]:
        """Plain Python values, as JSON has them."""
        return {
            "members": self.members,
            "non_members": self.non_members,
            "confidence": self.confidence,
            "auc": self.auc,
            "auc_interval": list(self.auc_interval),
            "advantage": self.advantage,
            "advantage_interval": list(self.advantage_interval),
            "tpr": {f"{fpr:g}": estimate._asdict() for fpr, estimate in self.tpr.items()},
        }


def _split(scores: npt.ArrayLike, member: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The scores of members and of non-members, each sorted, lowest first."""
    values, is_member = np.asarray(scores, np.float64), np.asarray(member)
    if is_member.dtype != np.bool_:
        raise ConfigurationError(f"member must be True or False for each example, got type {is_member.dtype}")
    if values.shape != is_member.shape:
        raise ConfigurationError(f"scores of shape {values.shape} and member of shape {is_member.shape} must agree")
    if np.isnan(values).any():
        raise ConfigurationError("scores must not be NaN: a loss was NaN, or an example has no reference model")
    inside, outside = np.sort(values[is_member]), np.sort(values[~is_member])
    if not inside.size or not outside.size:
        raise ConfigurationError(
            f"an attack is measured on members and non-members, got {inside.size} and {outside.size}"
        )
    return inside, outside


def attack_roc(scores: npt.ArrayLike, member: npt.ArrayLike) -> Roc:
    """The ROC of an attack.

    Args:
        scores: Higher for a likelier member, any shape.
        member: True for members, of the same shape.

    Raises:
        ConfigurationError: Shapes differ, a score is NaN, or one of the two kinds is missing.

    Example:
        >>> attack_roc([2.0, 1.0], [True, False]).tpr.tolist()
        [0.0, 1.0, 1.0]
    """
    inside, outside = _split(scores, member)
    steps = np.unique(np.concatenate([inside, outside]))[::-1]
    tpr = (inside.size - np.searchsorted(inside, steps, side="left")) / inside.size
    fpr = (outside.size - np.searchsorted(outside, steps, side="left")) / outside.size
    start = np.zeros(1)
    return Roc(np.concatenate([start, fpr]), np.concatenate([start, tpr]), np.concatenate([start + math.inf, steps]))


def share_interval(count: int, total: int, *, low_error: float, high_error: float) -> tuple[float, float]:
    """Exact interval of a share, by Clopper and Pearson.

    Args:
        count: How many of ``total`` were counted.
        total: How many there are, at least 1.
        low_error: Probability with which the lower end may be too high.
        high_error: Probability with which the upper end may be too low.

    Example:
        >>> share_interval(0, 10, low_error=0.025, high_error=0.025)[1].__round__(3)
        0.308
    """
    low = 0.0 if count == 0 else float(beta.ppf(low_error, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(1 - high_error, count + 1, total - count))
    return low, high


def _tpr_estimate(
    inside: npt.NDArray[np.float64], outside: npt.NDArray[np.float64], fpr: float, error: float
) -> Estimate:
    members, others = inside.size, outside.size

    def above(place: int, *, strictly: bool) -> int:
        """Members that score above the non-member of this place from the top, or at least as high."""
        if place > others:
            return members
        return members - int(np.searchsorted(inside, outside[others - place], side="right" if strictly else "left"))

    allowed = math.floor(fpr * others + _ROUNDING)
    value = above(allowed + 1, strictly=True) / members
    quarter = error / 4
    # The share of all non-members above the k-th of the sample is below `fpr` when at least k of the sample are among
    # the top `fpr` of all. The number of these is binomial.
    surely_above = int(binom.ppf(quarter, others, fpr))
    if binom.cdf(surely_above, others, fpr) > quarter:
        surely_above -= 1
    strict = surely_above + 1
    loose = int(binom.isf(quarter, others, fpr)) + 1
    low = 0.0
    if strict >= 1:
        found = above(strict, strictly=True)
        low, _ = share_interval(found, members, low_error=quarter, high_error=quarter)
    _, high = share_interval(above(loose, strictly=False), members, low_error=quarter, high_error=quarter)
    return Estimate(value, min(low, value), max(high, value))


def _auc_interval(auc: float, members: int, others: int, error: float) -> tuple[float, float]:
    """Newcombe's method 5: the areas from which the measured one is no further than so many standard errors."""
    deviations = float(norm.isf(error / 2))
    size = (members + others) / 2 - 1

    def excess(area: float) -> float:
        variance = area * (1 - area) / (members * others)
        variance *= 1 + size * ((1 - area) / (2 - area) + area / (1 + area))
        return (auc - area) ** 2 - deviations**2 * variance

    # At 0 and 1 the variance is 0, and the measured area itself is a root that is not meant.
    low = 0.0 if auc <= 0 else brentq(excess, 0.0, min(auc, 1 - _EDGE))
    high = 1.0 if auc >= 1 else brentq(excess, max(auc, _EDGE), 1.0)
    return float(low), float(high)


def _advantage_interval(advantage: float, members: int, others: int, error: float) -> tuple[float, float]:
    # Each of two distribution functions may leave its band with half of the error probability.
    band = math.sqrt(math.log(4 / error) / 2)
    width = band / math.sqrt(members) + band / math.sqrt(others)
    return max(0.0, advantage - width), min(1.0, advantage + width)


def attack_figures(
    scores: npt.ArrayLike, member: npt.ArrayLike, *, fprs: Sequence[float] = FPRS, confidence: float = 0.95
) -> AttackFigures:
    """The figures of an attack, each with an interval of its own.

    With fewer than one over an FPR non-members the TPR at it can't be told; its interval says so.

    Args:
        scores: Higher for a likelier member, any shape.
        member: True for members, of the same shape.
        fprs: False-positive rates, in (0, 1).
        confidence: Of each interval, in (0, 1).

    Raises:
        ConfigurationError: Shapes differ, a score is NaN, one of the two kinds is missing, or a rate is out of range.
    """
    error = 1 - within_open_unit(confidence=confidence)
    for fpr in fprs:
        within_open_unit(fprs=fpr)
    inside, outside = _split(scores, member)
    ranks = rankdata(np.concatenate([inside, outside]))[: inside.size]
    auc = float((ranks.sum() - inside.size * (inside.size + 1) / 2) / (inside.size * outside.size))
    advantage = attack_roc(scores, member).advantage
    return AttackFigures(
        members=inside.size,
        non_members=outside.size,
        auc=auc,
        auc_interval=_auc_interval(auc, inside.size, outside.size, error),
        advantage=advantage,
        advantage_interval=_advantage_interval(advantage, inside.size, outside.size, error),
        tpr={float(fpr): _tpr_estimate(inside, outside, fpr, error) for fpr in fprs},
        confidence=confidence,
    )
