"""What a guarantee for one record is worth for a person in several."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from lightning_privacy import PrivacyLedger, accounting
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation.group_privacy import group_guarantee, group_privacy

DELTA = 1e-5


def _ledger(*charges, delta=DELTA):
    ledger = PrivacyLedger(delta=delta)
    for release, count in charges:
        ledger.charge(release, count)
    return ledger


def _hockey_stick(p, q, epsilon):
    """sup over events of P(S) - e^epsilon Q(S), both ways round, for probabilities of the same outcomes."""
    return max(np.maximum(p - math.exp(epsilon) * q, 0).sum(), np.maximum(q - math.exp(epsilon) * p, 0).sum())


def _assert_tight(guarantee, delta_at, slack=0.02):
    """The epsilon holds, and one smaller by ``slack`` does not."""
    assert delta_at(guarantee.epsilon) <= guarantee.delta
    assert delta_at(guarantee.epsilon * (1 - slack)) > guarantee.delta


@pytest.mark.parametrize("records", [2, 7])
def test_gaussian_noise_hides_a_shift_of_all_records(records):
    """Balle and Wang, 2018, Theorem 8, for a sensitivity of ``records``."""
    guarantee = group_privacy(_ledger((accounting.GaussianRelease(20.0), 3)), records=records)
    mu = records * math.sqrt(3) / 20.0

    def delta_at(epsilon):
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)

    assert guarantee.exact
    _assert_tight(guarantee, delta_at)


@pytest.mark.parametrize("kind", [accounting.LaplaceRelease, accounting.SelectionRelease, accounting.PureRelease])
def test_a_pure_release_costs_records_times_as_much(kind):
    guarantee = group_privacy(_ledger((kind(0.1), 1), delta=1e-9), records=4)
    assert guarantee.exact
    assert guarantee.epsilon == pytest.approx(0.4, rel=2e-3)


def test_several_laplace_counts_are_dominated_by_one():
    """A person whose two records change two counts of a histogram by one each: no worse than one count by two."""
    grid = np.linspace(-40.0, 40.0, 1601)
    laplace = np.exp(-np.abs(grid))
    here, there = laplace / laplace.sum(), np.exp(-np.abs(grid - 1.0))
    there /= there.sum()
    p, q = np.outer(here, here), np.outer(there, there)
    shifted = np.exp(-np.abs(grid - 2.0))
    shifted /= shifted.sum()
    for epsilon in (0.0, 0.3, 1.0, 1.7):
        assert _hockey_stick(p, q, epsilon) <= _hockey_stick(here, shifted, epsilon) + 1e-9


@pytest.mark.parametrize("records", [2, 3])
def test_randomised_response_answers_for_each_record(records):
    """All answers of all records, by enumeration: null records answer uniformly."""
    release = accounting.RandomizedResponseRelease(epsilon=0.8, num_classes=3)
    keep = math.exp(0.8) / (math.exp(0.8) + 2)
    answer = np.array([keep, (1 - keep) / 2, (1 - keep) / 2])
    p = np.array([math.prod(answer[i] for i in outcome) for outcome in itertools.product(range(3), repeat=records)])
    q = np.full_like(p, 3.0**-records)
    guarantee = group_privacy(_ledger((release, 1), delta=0.01), records=records)
    assert guarantee.exact
    _assert_tight(guarantee, lambda epsilon: _hockey_stick(p, q, epsilon))


def _sampled_step(sigma, rate, records):
    """Probabilities of cells of the noisy sum, with the person's records and without."""
    edges = np.concatenate([[-np.inf], np.linspace(-12 * sigma, records + 12 * sigma, 40_001), [np.inf]])
    without = np.diff(norm.cdf(edges, scale=sigma))
    present = binom.pmf(np.arange(records + 1), records, rate)
    with_person = sum(weight * np.diff(norm.cdf(edges, loc=k, scale=sigma)) for k, weight in enumerate(present))
    return with_person, without


@pytest.mark.parametrize(("sigma", "rate", "records"), [(1.0, 0.1, 2), (2.0, 0.3, 5)])
def test_a_sampled_step_is_a_mixture_of_gaussians(sigma, rate, records):
    p, q = _sampled_step(sigma, rate, records)
    guarantee = group_privacy(_ledger((accounting.SampledGaussian(sigma, rate), 1)), records=records)
    assert guarantee.exact
    _assert_tight(guarantee, lambda epsilon: _hockey_stick(p, q, epsilon))


def test_one_record_is_the_ledger_itself():
    ledger = _ledger((accounting.SampledGaussian(1.0, 0.05), 100), (accounting.LaplaceRelease(0.1), 1))
    guarantee = group_privacy(ledger, records=1)
    assert guarantee.epsilon == ledger.epsilon(exact=True) == guarantee.record_epsilon


def test_a_full_sample_is_no_sample():
    sampled = group_privacy(_ledger((accounting.SampledGaussian(3.0, 1.0), 2)), records=3)
    assert sampled.epsilon == group_privacy(_ledger((accounting.GaussianRelease(3.0), 2)), records=3).epsilon


def test_adaptive_clipping_is_a_sampled_gaussian():
    adaptive = accounting.AdaptiveClippingRelease(noise_multiplier=1.0, sample_rate=0.1, count_noise_std=5.0)
    plain = accounting.SampledGaussian(1.0, 0.1)
    assert group_privacy(_ledger((adaptive, 3)), records=2) == group_privacy(_ledger((plain, 3)), records=2)


def test_epsilon_of_a_person_grows_with_records_and_releases_compose():
    charges = [
        (accounting.SampledGaussian(2.0, 0.05), 200),
        (accounting.LaplaceRelease(0.1), 1),
        (accounting.RandomizedResponseRelease(0.2, 4), 1),
    ]
    epsilons = [group_privacy(_ledger(*charges), records=records).epsilon for records in (1, 2, 3)]
    assert epsilons == sorted(epsilons)
    parts = [group_privacy(_ledger(charge), records=3).epsilon for charge in charges]
    assert max(parts) < epsilons[2] < sum(parts)


def test_the_general_bound_is_used_where_a_release_is_not_known_exactly():
    truncated = _ledger((accounting.TruncatedSampledGaussian(2.0, 0.05, num_examples=1000, max_batch_size=999), 50))
    plain = _ledger((accounting.SampledGaussian(2.0, 0.05), 50))
    bound, exact = group_privacy(truncated, records=2), group_privacy(plain, records=2)
    assert (bound.exact, exact.exact) == (False, True)
    # The cut never happens here, so that the exact figure of the other holds for both.
    assert exact.epsilon < bound.epsilon < 2 * exact.epsilon
    # Every point of the profile gives a guarantee: the best is no worse than the one at any delta of one's choice.
    for share in (1e-2, 1e-3):
        epsilon, delta = group_guarantee(epsilon=truncated.epsilon(share * DELTA), delta=share * DELTA, records=2)
        if delta <= DELTA:
            assert bound.epsilon <= epsilon * 1.01


def test_a_bound_that_cannot_be_stated_is_infinite():
    ledger = _ledger((accounting.TruncatedSampledGaussian(5.0, 0.1, num_examples=100, max_batch_size=50), 1))
    guarantee = group_privacy(ledger, records=1000)
    assert guarantee.epsilon == math.inf
    assert "unbounded" in guarantee.sentence()


def test_what_is_not_private_for_a_record_is_not_for_a_person():
    assert group_privacy(_ledger((accounting.NonPrivate("raw counts"), 1)), records=2).epsilon == math.inf
    assert group_privacy(_ledger(), records=2).epsilon == 0.0


@pytest.mark.parametrize("epsilon", [0.0, 1e-9, 0.3, 2.0])
@pytest.mark.parametrize("records", [1, 2, 5])
def test_the_general_guarantee_is_the_sum_over_the_steps(epsilon, records):
    """Replace the records one by one: after each, what was there is multiplied by e^epsilon and delta comes on top."""
    total = 0.0
    for _ in range(records):
        total = math.exp(epsilon) * total + 1e-9
    assert group_guarantee(epsilon=epsilon, delta=1e-9, records=records) == pytest.approx((records * epsilon, total))


def test_the_general_guarantee_holds_for_randomised_response_with_a_flaw():
    """A mechanism that is tight at (epsilon, delta): tells the record with probability delta, else answers at random.

    For a person of two records the true figure, by enumeration, keeps within the guarantee at each epsilon.
    """
    epsilon, delta = 0.7, 0.05
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))
    one = np.array([delta, 0.0, (1 - delta) * keep, (1 - delta) * (1 - keep)])
    other = np.array([0.0, delta, (1 - delta) * (1 - keep), (1 - delta) * keep])
    assert _hockey_stick(one, other, epsilon) == pytest.approx(delta)
    p, q = np.outer(one, one), np.outer(other, other)
    group_epsilon, group_delta = group_guarantee(epsilon=epsilon, delta=delta, records=2)
    assert _hockey_stick(p, q, group_epsilon) <= group_delta


def test_a_guarantee_of_nothing_is_a_delta_of_one():
    assert group_guarantee(epsilon=50.0, delta=1e-5, records=100) == (5000.0, 1.0)
    assert group_guarantee(epsilon=5.0, delta=0.0, records=100) == (500.0, 0.0)


def test_the_sentence_says_both_figures():
    guarantee = group_privacy(_ledger((accounting.LaplaceRelease(0.25), 1)), records=3)
    assert "3 records" in guarantee.sentence()
    assert "0.250 for a record and 0.750 for a person" in guarantee.sentence()
    assert "per person" in group_privacy(_ledger((accounting.LaplaceRelease(0.25), 1)), records=1).sentence()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"records": 0}, "records"),
        ({"records": 2.5}, "records"),
        ({"records": 2, "delta": 0.0}, "delta"),
    ],
)
def test_wrong_numbers_are_named(arguments, named):
    with pytest.raises(ConfigurationError, match=named):
        group_privacy(_ledger((accounting.LaplaceRelease(0.1), 1)), **arguments)


def test_something_else_than_a_ledger_is_named():
    with pytest.raises(ConfigurationError, match="ledger must be a PrivacyLedger"):
        group_privacy({"epsilon": 1.0}, records=2)


@pytest.mark.parametrize("delta", [-1e-9, 1.5, math.nan])
def test_a_delta_that_is_none_is_named(delta):
    with pytest.raises(ConfigurationError, match="delta"):
        group_guarantee(epsilon=1.0, delta=delta, records=2)
