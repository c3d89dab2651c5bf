"""What a guarantee for one record is worth for a person who is in several.

A ledger counts what replacing **one** record by a null record can change. A person in m records is protected by what
replacing all m of them can change, which is more:

* In general, (epsilon, delta) for one record is ``(m * epsilon, delta * (1 + e^epsilon + ... + e^((m-1) epsilon)))``
  for m: replace the records one after the other, and each step multiplies what came before it by ``e^epsilon`` and adds
  delta (Vadhan, "The Complexity of Differential Privacy", 2017, Lemma 2.2; the sum is
  ``delta * (e^(m epsilon) - 1) / (e^epsilon - 1)``). :func:`group_guarantee`.
* Release by release it can be said exactly, and composed as privacy loss distributions. Noise on a sum hides a shift
  of m sensitivities: Laplace noise of m times the epsilon, Gaussian noise of an m-th of the noise multiplier. (Over
  several coordinates too: T(P, R) >= T(Q, R) o (1 - T(P, Q)) for trade-off functions T, with equality for shifts of
  one log-concave distribution; Dong, Roth and Su, "Gaussian Differential Privacy", 2022, section 2.5.) The scores of a
  private choice move m times as far. In a Poisson sample of rate q the number of the person's records is
  binomial(m, q), so that a step of DP-SGD is a mixture of Gaussians with those weights (Ganesh, "Tight Group-Level DP
  Guarantees for DP-SGD with Sampling via Mixture of Gaussians Mechanisms", 2024, arXiv:2401.10294). Randomised response
  answers once for each record. :func:`group_privacy`.

Example:
    >>> from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> ledger.charge(LaplaceRelease(epsilon=0.5))
    >>> guarantee = group_privacy(ledger, records=3)
    >>> round(guarantee.epsilon, 3), guarantee.exact
    (1.5, True)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from scipy.stats import binom

from lightning_privacy._validate import non_negative, positive_int, probability, within_open_unit
from lightning_privacy.accounting import (
    GaussianRelease,
    LaplaceRelease,
    PrivacyLedger,
    PureRelease,
    RandomizedResponseRelease,
    Release,
    SampledGaussian,
    SelectionRelease,
)
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.pld import ADJACENCY, Groups, composed, fine_interval, repeated
from lightning_privacy.errors import ConfigurationError

__all__ = ["GroupGuarantee", "group_guarantee", "group_privacy"]

_EXACT = (
    GaussianRelease,
    LaplaceRelease,
    PureRelease,
    RandomizedResponseRelease,
    SampledGaussian,
    SelectionRelease,
)
# Points of the distribution of one mixture of Gaussians: each costs about a fifth of a millisecond to compute.
_MIXTURE_POINTS = 8_000
_MIXTURE_STEPS = (1, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
# Where the general bound is looked for: epsilon of one record.
_CANDIDATES = 2_000
_LARGEST_EPSILON = 200.0


@dataclass(frozen=True)
class GroupGuarantee:
    """What is guaranteed to a person in ``records`` records.

    Args:
        records: the most records a person has.
        epsilon: for the person, all their records together; infinity where nothing can be said.
        delta: the delta of it.
        record_epsilon: for one record, at the same delta.
        exact: whether epsilon was composed release by release; else it is the general bound, which is larger.
    """

    records: int
    epsilon: float
    delta: float
    record_epsilon: float
    exact: bool

    def sentence(self) -> str:
        """The guarantee in one sentence, for a report or the caveats of a ledger."""
        value = "unbounded" if math.isinf(self.epsilon) else epsilon_text(self.epsilon)
        if self.records == 1:
            return f"Each person is in one record: epsilon {value} at delta {self.delta:g} is per person."
        how = "composed release by release" if self.exact else "the general bound of group privacy"
        record = epsilon_text(self.record_epsilon)
        return (
            f"A person may be in {self.records} records: epsilon is {record} for a record and {value} "
            f"for a person, both at delta {self.delta:g} ({how})."
        )


def group_guarantee(*, epsilon: float, delta: float, records: int) -> tuple[float, float]:
    """What (epsilon, delta) for one record means for a person in several, whatever the mechanism.

    Args:
        epsilon: for one record, at least 0.
        delta: for one record, in [0, 1].
        records: the most records a person has.

    Returns:
        (epsilon, delta) for the person; a delta of 1 says nothing.

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> epsilon, delta = group_guarantee(epsilon=1.0, delta=1e-6, records=2)
        >>> epsilon, round(delta, 9)
        (2.0, 3.718e-06)
    """
    epsilon, delta = non_negative(epsilon=epsilon), non_negative(delta=delta)
    if delta > 0:
        probability(delta=delta)
    records = positive_int(records=records)
    if delta == 0:
        return records * epsilon, 0.0
    return records * epsilon, min(1.0, math.exp(min(0.0, math.log(delta) + float(_log_sum(epsilon, records)))))


def group_privacy(ledger: PrivacyLedger, *, records: int, delta: float | None = None) -> GroupGuarantee:
    """What all that was charged to a ledger means for a person in several records.

    Args:
        ledger: its unit is the record: one person has up to ``records`` of them.
        records: the most records of one person, as :class:`BoundContributions` makes sure.
        delta: the delta at which the person's epsilon is wanted; None for the ledger's.

    Returns:
        The guarantee. It is exact, but for rounding upwards, where all releases are of the kinds the module names;
        otherwise epsilon is the least that the general bound allows over all points of the ledger's privacy profile.

    Raises:
        ConfigurationError: a number is out of its range, or the ledger is something else.
    """
    if not isinstance(ledger, PrivacyLedger):
        raise ConfigurationError(f"ledger must be a PrivacyLedger, got {ledger!r}")
    records = positive_int(records=records)
    delta = ledger.delta if delta is None else within_open_unit(delta=delta)
    alone = ledger.epsilon(delta, exact=True)
    groups = ledger.groups
    if records == 1 or math.isinf(alone) or not groups:
        return GroupGuarantee(records, alone, delta, alone, exact=True)
    if all(isinstance(release, _EXACT) for release, _ in groups):
        return GroupGuarantee(records, _composed_epsilon(groups, records, delta), delta, alone, exact=True)
    return GroupGuarantee(records, _bound(groups, records, delta), delta, alone, exact=False)


def _log_sum(epsilon: float | np.ndarray, records: int) -> float | np.ndarray:
    """log(1 + e^epsilon + ... + e^((records-1) epsilon)), which cannot overflow."""
    exponents = np.multiply.outer(np.asarray(epsilon, dtype=np.float64), np.arange(records))
    largest = exponents[..., -1:]
    result: np.ndarray = largest[..., 0] + np.log(np.exp(exponents - largest).sum(axis=-1))
    return result


def _bound(groups: Groups, records: int, delta: float) -> float:
    """The least epsilon of a person that the general bound gives, over the points of the profile of one record."""
    profile = composed(groups, interval=fine_interval(groups))
    candidates = np.concatenate([[0.0], np.geomspace(1e-4, _LARGEST_EPSILON, _CANDIDATES)])
    deltas = np.asarray(profile.get_delta_for_epsilon(candidates), dtype=np.float64)
    with np.errstate(divide="ignore"):
        good = np.log(deltas) + _log_sum(candidates, records) <= math.log(delta)
    return float(records * candidates[good][0]) if good.any() else math.inf


def _composed_epsilon(groups: Groups, records: int, delta: float) -> float:
    interval = max(_interval(release, count, records) for release, count in groups)
    total = privacy_loss_distribution.identity(value_discretization_interval=interval)
    try:
        for release, count in groups:
            total = total.compose(_loss(release, count, records, interval))
    except OverflowError:  # losses beyond floating point: infinity is the bound then
        return math.inf
    return float(total.get_epsilon_for_delta(delta))


def _interval(release: Release, count: int, records: int) -> float:
    """Step of the grid: the finest of a few that is not too slow for what ``records`` of this release become."""
    if _is_sampled(release):
        sigma, rate = release.noise_multiplier, release.sample_rate
        fine = fine_interval([(SampledGaussian(sigma / records, min(1.0, records * rate)), count)])
        shift = records / sigma
        width = 10.0 * shift + shift**2 / 2.0
        return next((fine * step for step in _MIXTURE_STEPS if width / (fine * step) <= _MIXTURE_POINTS), fine * 1e5)
    return fine_interval([_of_all(release, count, records)])


def _of_all(release: Release, count: int, records: int) -> tuple[Release, int]:
    """The release, and how often, that is for one record what ``count`` of these are for ``records`` of them."""
    if isinstance(release, RandomizedResponseRelease):
        return release, count * records
    if isinstance(release, LaplaceRelease | SelectionRelease | PureRelease):
        return type(release)(release.epsilon * records), count
    sigma: float = release.noise_multiplier  # type: ignore[attr-defined]
    return GaussianRelease(sigma / records), count


def _loss(release: Release, count: int, records: int, interval: float) -> PrivacyLossDistribution:
    if _is_sampled(release):
        sigma, rate = release.noise_multiplier, release.sample_rate
        return _mixture(sigma, rate, records, interval).self_compose(count)
    return repeated(*_of_all(release, count, records), interval, ADJACENCY)


def _is_sampled(release: Release) -> TypeGuard[SampledGaussian]:
    # Subclasses are Poisson-sampled too: adaptive clipping is one Gaussian mechanism of gradient and count.
    return isinstance(release, SampledGaussian) and release.sample_rate < 1.0


@lru_cache(maxsize=8)
def _mixture(sigma: float, rate: float, records: int, interval: float) -> PrivacyLossDistribution:
    present = np.arange(records + 1)
    weights = binom.pmf(present, records, rate)
    keep = weights > 0.0
    return privacy_loss_distribution.from_mixture_gaussian_mechanism(
        sigma,
        present[keep].astype(np.float64).tolist(),
        (weights[keep] / weights[keep].sum()).tolist(),
        value_discretization_interval=interval,
    )
