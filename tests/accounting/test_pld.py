from __future__ import annotations

import math

import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation

from lightning_privacy.accounting.pld import exact_epsilon, fine_interval
from lightning_privacy.accounting.releases import (
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    PureRelease,
    RandomizedResponseRelease,
    SampledGaussian,
    SelectionRelease,
    TruncatedSampledGaussian,
)
from lightning_privacy.errors import UnsupportedError

SPECIAL = NeighboringRelation.REPLACE_SPECIAL


def reference(groups, delta: float, relation=SPECIAL) -> float:
    """What dp_accounting's own accountant gives; randomised response one by one, because it ignores the count."""
    accountant = PLDAccountant(relation)
    for release, count in groups:
        if isinstance(release, RandomizedResponseRelease):
            for _ in range(count):
                accountant.compose(release.event())
        else:
            accountant.compose(release.event(), count)
    return accountant.get_epsilon(delta)


COMPOSITIONS = {
    "one step": [(SampledGaussian(4.0, 0.1), 1)],
    "steps": [(SampledGaussian(4.0, 0.1), 300)],
    "every example": [(SampledGaussian(9.0, 1.0), 7)],
    "cut batches": [(TruncatedSampledGaussian(8.0, 0.1, 200, 25), 20)],
    "gaussian": [(GaussianRelease(5.0), 12)],
    "laplace": [(LaplaceRelease(0.2), 5)],
    "choices": [(SelectionRelease(0.2), 5)],
    "pure": [(PureRelease(0.2), 5)],
    "randomised response": [(RandomizedResponseRelease(0.5, 5), 1)],
    "all kinds": [
        (LaplaceRelease(0.1), 2),
        (SelectionRelease(0.15), 3),
        (PureRelease(0.05), 2),
        (SampledGaussian(6.0, 0.1), 50),
        (GaussianRelease(8.0), 3),
        (RandomizedResponseRelease(0.3, 3), 1),
        (TruncatedSampledGaussian(8.0, 0.1, 200, 25), 5),
        (SampledGaussian(12.0, 0.1), 10),
    ],
}


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("delta", [1e-6, 1e-3])
def test_equals_the_accountant(name: str, delta: float) -> None:
    groups = COMPOSITIONS[name]
    assert exact_epsilon(groups, delta=delta) == reference(groups, delta)
    # Again, from what was kept.
    assert exact_epsilon(groups, delta=delta) == reference(groups, delta)


def test_prefixes_kept_do_not_mix_up() -> None:
    a, b, c = (SampledGaussian(8.0, 0.1), 3), (GaussianRelease(8.0), 2), (LaplaceRelease(0.1), 1)
    for groups in ([a], [a, b], [a, c], [a, b, c], [b], [b, c], [a, b]):
        assert exact_epsilon(groups, delta=1e-5) == reference(groups, 1e-5)


def test_randomised_response_counts_every_time() -> None:
    # dp_accounting 0.6.0 composes the event once, whatever the count: ten surveys would cost as much as one.
    release = RandomizedResponseRelease(0.5, 5)
    ignored = PLDAccountant(SPECIAL).compose(release.event(), 10).get_epsilon(1e-6)
    once = reference([(release, 1)], 1e-6)
    assert ignored == once, "dp_accounting counts now; compare with it directly"
    ten = exact_epsilon([(release, 10)], delta=1e-6)
    assert ten > 5 * once
    assert ten == pytest.approx(reference([(release, 10)], 1e-6), rel=1e-9)


def test_randomised_response_against_the_binomial() -> None:
    """Independent of dp_accounting: the loss of n answers is a sum over the number of answers kept."""
    epsilon, classes, count, delta = 0.5, 5, 10, 1e-3
    release = RandomizedResponseRelease(epsilon, classes)
    keep = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    null = 1.0 / classes

    def divergence(bound: float, upper: float, lower: float) -> float:
        total = 0.0
        for kept in range(count + 1):
            ways = math.comb(count, kept)
            p = ways * upper**kept * (1 - upper) ** (count - kept)
            q = ways * lower**kept * (1 - lower) ** (count - kept)
            total += max(0.0, p - math.exp(bound) * q)
        return total

    ours = exact_epsilon([(release, count)], delta=delta)
    both = ((keep, null), (null, keep))
    assert max(divergence(ours, *pair) for pair in both) <= delta
    # The grid rounds each loss up by less than 1e-4.
    assert max(divergence(ours - count * 1e-4, *pair) for pair in both) >= delta


def test_pure_releases_against_the_binomial() -> None:
    """Independent of dp_accounting: of n coins that tell with probability e^eps / (1 + e^eps), so many tell."""
    epsilon, count, delta = 0.3, 12, 1e-4

    def divergence(bound: float) -> float:
        tell = 1.0 / (1.0 + math.exp(-epsilon))
        chances = [math.comb(count, k) * tell**k * (1 - tell) ** (count - k) for k in range(count + 1)]
        return sum(max(0.0, p - math.exp(bound) * q) for p, q in zip(chances, chances[::-1], strict=True))

    ours = exact_epsilon([(PureRelease(epsilon), count)], delta=delta)
    assert divergence(ours) <= delta
    assert divergence(ours - count * 1e-4) >= delta
    # No release of the same epsilon costs more.
    for other in (SelectionRelease(epsilon), RandomizedResponseRelease(epsilon, 2)):
        assert exact_epsilon([(other, count)], delta=delta) < ours


@pytest.mark.parametrize("release", [SelectionRelease(0.5), PureRelease(0.5)], ids=lambda release: release.kind)
def test_p35_choices_have_no_replace_one_figure(release) -> None:
    with pytest.raises(UnsupportedError, match=r"epsilon 0.5.*REPLACE_ONE"):
        exact_epsilon([(release, 1)], delta=1e-5, relation=NeighboringRelation.REPLACE_ONE)


def test_p35_kinds_are_composed_under_one_relation() -> None:
    # Laplace has no replace-one figure, so nothing that contains it may get one.
    groups = [(LaplaceRelease(0.5), 1), (SampledGaussian(6.0, 0.1), 10)]
    with pytest.raises(UnsupportedError, match=r"Laplace.*REPLACE_ONE"):
        exact_epsilon(groups, delta=1e-5, relation=NeighboringRelation.REPLACE_ONE)
    assert exact_epsilon(groups, delta=1e-5) == reference(groups, 1e-5)


@pytest.mark.parametrize("name", ["steps", "cut batches", "gaussian", "randomised response"])
def test_p35_the_replace_one_figure_is_a_figure_of_its_own(name: str) -> None:
    groups = COMPOSITIONS[name]
    other = NeighboringRelation.REPLACE_ONE
    figure = exact_epsilon(groups, delta=1e-5, relation=other)
    assert figure == reference(groups, 1e-5, other)
    assert figure > exact_epsilon(groups, delta=1e-5)


def test_nothing_costs_nothing_and_no_privacy_costs_all() -> None:
    assert exact_epsilon([], delta=1e-5) == 0.0
    for release in (NonPrivate("x"), GaussianRelease(0), SampledGaussian(0, 0.1)):
        assert exact_epsilon([(release, 1), (LaplaceRelease(0.1), 1)], delta=1e-5) == math.inf


def test_the_gaussian_against_its_closed_form() -> None:
    """Balle and Wang, 2018, Theorem 8: independent of any grid."""
    sigma, count, delta = 6.0, 4, 1e-5
    mean = math.sqrt(count) / sigma

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    epsilon = exact_epsilon([(GaussianRelease(sigma), count)], delta=delta)

    def delta_of(value: float) -> float:
        return phi(mean / 2 - value / mean) - math.exp(value) * phi(-mean / 2 - value / mean)

    assert delta_of(epsilon) <= delta
    assert delta_of(epsilon * 0.9999) > delta


def test_what_would_not_fit_in_memory_gets_a_coarser_grid() -> None:
    assert fine_interval([(SampledGaussian(1.0, 0.01), 1000)]) == 1e-4
    wide = [(GaussianRelease(0.01), 1)]
    assert fine_interval(wide) > 1e-4
    # Closed form: about mean^2 / 2 + mean * 4.3 with mean 100.
    assert 5000 < exact_epsilon(wide, delta=1e-5) < 5600
