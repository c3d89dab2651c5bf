"""Exact composition of releases as privacy loss distributions.

Every function here gives what ``dp_accounting``'s ``PLDAccountant`` gives for the same composition on the same grid.
What it adds: the distribution of a single release is built once and kept, a composition starts from the longest
prefix it has seen, randomised response is composed as often as it happened (``PLDAccountant`` in dp_accounting 0.6.0
composes a ``RandomizedResponseDpEvent`` once, whatever its count), and distributions too wide for memory are put on a
coarser grid, which is still an upper bound.

The theory: the privacy loss of a composition is the sum of the privacy losses, so its distribution is a convolution
(Sommer, Meiser and Mohammadi, "Privacy Loss Classes", 2019). The grid is pessimistic ("Connect the Dots", Doroshenko
et al., 2022): on a grid with steps of h it is the smallest distribution with support on that grid that dominates the
true one. Hence a coarser grid whose points are among those of the finer one can only give more.

Example:
    >>> from lightning_privacy.accounting.pld import exact_epsilon
    >>> from lightning_privacy.accounting.releases import LaplaceRelease
    >>> round(exact_epsilon([(LaplaceRelease(epsilon=0.5), 2)], delta=1e-6), 3)
    1.0
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.privacy_accountant import NeighboringRelation

from lightning_privacy.accounting.releases import (
    GaussianRelease,
    LaplaceRelease,
    PureRelease,
    RandomizedResponseRelease,
    Release,
    SampledGaussian,
    SelectionRelease,
    TruncatedSampledGaussian,
)
from lightning_privacy.errors import UnsupportedError

__all__ = [
    "ADJACENCY",
    "FINE_INTERVAL",
    "Groups",
    "composed",
    "exact_epsilon",
    "fine_interval",
    "repeated",
    "single",
]

# One record is replaced by a null record. It is the relation under which dp_accounting composes all kinds of release.
ADJACENCY = NeighboringRelation.REPLACE_SPECIAL

# The default of dp_accounting's PLDAccountant.
FINE_INTERVAL = 1e-4

# Widest distribution that is built on the fine grid: about 0.3 GB and some seconds.
_MAX_POINTS = 8_000_000

Groups = Sequence[tuple[Release, int]]

_prefixes: OrderedDict[tuple[object, ...], PrivacyLossDistribution] = OrderedDict()
_MAX_PREFIXES = 4


def _width(release: Release, count: int) -> float:
    """Rough width of the distribution of ``count`` releases, in units of epsilon."""
    if isinstance(release, SampledGaussian | TruncatedSampledGaussian | GaussianRelease):
        # Ten standard deviations each side of the loss of the mechanism without sampling, for one release (what is
        # built) and, much below its worst case, for the composition.
        spread = 20.0 / release.noise_multiplier + 1.0 / release.noise_multiplier**2
        rate = 1.0 if isinstance(release, GaussianRelease) else release.sample_rate
        return spread * max(1.0, rate * math.sqrt(count)) + rate**2 * count / release.noise_multiplier**2
    if isinstance(release, LaplaceRelease | SelectionRelease | PureRelease | RandomizedResponseRelease):
        return 2.0 * release.epsilon * math.sqrt(count) + min(release.epsilon, release.epsilon**2) * count
    return 0.0


def fine_interval(groups: Groups) -> float:
    """Grid step of the exact figure: 1e-4, or a multiple of it where the distribution would not fit in memory."""
    width = sum(_width(release, count) for release, count in groups)
    interval = FINE_INTERVAL
    while width / interval > _MAX_POINTS:
        interval *= 10.0
    return interval


@lru_cache(maxsize=32)
def single(release: Release, interval: float, relation: NeighboringRelation) -> PrivacyLossDistribution:
    """Distribution of one release on a grid of the given interval.

    Raises:
        UnsupportedError: if the release is not defined under ``relation``.
    """
    if isinstance(release, SampledGaussian):
        return privacy_loss_distribution.from_gaussian_mechanism(
            release.noise_multiplier,
            value_discretization_interval=interval,
            sampling_prob=release.sample_rate,
            neighboring_relation=relation,
        )
    if isinstance(release, TruncatedSampledGaussian):
        return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=release.num_examples,
            sampling_probability=release.sample_rate,
            truncated_batch_size=release.max_batch_size,
            noise_multiplier=release.noise_multiplier,
            value_discretization_interval=interval,
            neighboring_relation=relation,
        )
    if isinstance(release, LaplaceRelease | SelectionRelease) and relation is not NeighboringRelation.REPLACE_ONE:
        return privacy_loss_distribution.from_laplace_mechanism(
            1.0 / release.epsilon, value_discretization_interval=interval
        )
    if isinstance(release, PureRelease) and relation is not NeighboringRelation.REPLACE_ONE:
        return privacy_loss_distribution.from_discrete_laplace_mechanism(
            release.epsilon, value_discretization_interval=interval
        )
    if isinstance(release, RandomizedResponseRelease) and relation is not NeighboringRelation.ADD_OR_REMOVE_ONE:
        return privacy_loss_distribution.from_randomized_response(
            noise_parameter=release.noise_parameter,
            num_buckets=release.num_classes,
            value_discretization_interval=interval,
            neighboring_relation=relation,
        )
    raise UnsupportedError(f"{release.label} has no privacy loss distribution under {relation.name}")


def repeated(release: Release, count: int, interval: float, relation: NeighboringRelation) -> PrivacyLossDistribution:
    """Distribution of ``count`` independent releases of one kind."""
    if isinstance(release, GaussianRelease):
        # Gaussians compose to a Gaussian, so no discretisation error adds up.
        return privacy_loss_distribution.from_gaussian_mechanism(
            release.noise_multiplier / math.sqrt(count),
            value_discretization_interval=interval,
            neighboring_relation=relation,
        )
    return single(release, interval, relation).self_compose(count)


def composed(
    groups: Groups, *, interval: float = FINE_INTERVAL, relation: NeighboringRelation = ADJACENCY
) -> PrivacyLossDistribution:
    """Distribution of all groups, composed in the order given.

    Args:
        groups: pairs of release and count; counts at least 1.
        interval: step of the grid of privacy losses.
        relation: what neighbouring data sets are.

    Returns:
        The composed distribution.

    Raises:
        UnsupportedError: if one of the releases is not defined under ``relation``.
    """
    groups = tuple(groups)
    start = len(groups)
    while start and (relation, interval, *groups[:start]) not in _prefixes:
        start -= 1
    if start:
        key = (relation, interval, *groups[:start])
        _prefixes.move_to_end(key)
        result = _prefixes[key]
    else:
        result = privacy_loss_distribution.identity(value_discretization_interval=interval)
    for done in range(start, len(groups)):
        result = result.compose(repeated(*groups[done], interval, relation))
        # The last two prefixes serve the two usual questions: one more of the last group, and one more group.
        if len(groups) - 2 <= done:
            _prefixes[(relation, interval, *groups[: done + 1])] = result
            while len(_prefixes) > _MAX_PREFIXES:
                _prefixes.popitem(last=False)
    return result


def exact_epsilon(groups: Groups, *, delta: float, relation: NeighboringRelation = ADJACENCY) -> float:
    """Epsilon of all groups together, as ``PLDAccountant`` gives it.

    Args:
        groups: pairs of release and count.
        delta: the delta at which epsilon is wanted.
        relation: what neighbouring data sets are.

    Returns:
        Epsilon; 0.0 without groups, infinity where a release is not private.

    Raises:
        UnsupportedError: if one of the releases is not defined under ``relation``.
    """
    if not all(release.private for release, _ in groups):
        return math.inf
    if not groups:
        return 0.0
    try:
        loss = composed(groups, interval=fine_interval(groups), relation=relation)
    except OverflowError:
        # With a millionth of noise, say, losses leave the range of floating point: infinity is the bound then.
        return math.inf
    return float(loss.get_epsilon_for_delta(delta))
