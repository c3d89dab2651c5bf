"""Cohorts: drawn from (seed, round) with the frequencies they claim, without replacement.

Statistical checks run on fixed seeds, so their outcome is fixed; ``ERROR`` is the probability with which one named
check would fail for a fresh seed.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.cohorts import (
    AllClients,
    PoissonCohorts,
    UniformCohorts,
    WeightedCohorts,
    cohort_sampler,
)

ERROR = 1e-6
ROUNDS = 4000
SAMPLERS = {
    "uniform": UniformCohorts(4),
    "poisson": PoissonCohorts(4),
    "weighted": WeightedCohorts(4, tuple(range(1, 21))),
    "all": AllClients(),
}
every_kind = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def _masks(sampler, num_clients, rounds=ROUNDS, seed=0):
    """Who was in which cohort, shape (rounds, clients)."""
    masks = np.zeros((rounds, num_clients), dtype=bool)
    for round_number in range(rounds):
        masks[round_number, sampler.draw(seed, round_number, num_clients)] = True
    return masks


def _check_frequency(counts, trials, probability):
    """Two-sided binomial checks that together fail with probability ERROR."""
    tail = ERROR / np.size(counts) / 2
    low, high = stats.binom.ppf([tail, 1 - tail], trials, probability)
    assert ((counts >= low) & (counts <= high)).all()


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["uniform", "poisson", "weighted", "all"]),
    num_clients=st.integers(1, 50),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**70),
    round_number=st.integers(0, 10**6),
)
def test_p40_a_cohort_is_of_distinct_clients_in_order(kind, num_clients, share, seed, round_number):
    size = 1 + int(share * (num_clients - 1))
    cohort = cohort_sampler(kind, size, weights=[1.0] * num_clients).draw(seed, round_number, num_clients)
    assert cohort == sorted(set(cohort))
    assert all(type(client) is int and 0 <= client < num_clients for client in cohort)
    if kind != "poisson":
        assert len(cohort) == (num_clients if kind == "all" else size)


@every_kind
def test_p40_a_cohort_depends_on_seed_and_round_alone(sampler):
    first = [sampler.draw(3, round_number, 20) for round_number in range(20)]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())
    again = [sampler.draw(3, round_number, 20) for round_number in reversed(range(20))]
    assert again[::-1] == first
    assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()) == before
    if not isinstance(sampler, AllClients):
        assert first != [sampler.draw(4, round_number, 20) for round_number in range(20)]
        assert len({tuple(cohort) for cohort in first}) > 10


@pytest.mark.parametrize(("size", "num_clients"), [(1, 10), (4, 10), (9, 10), (3, 200)])
def test_uniform_cohorts_include_every_client_equally_often(size, num_clients):
    masks = _masks(UniformCohorts(size), num_clients)
    assert (masks.sum(1) == size).all()
    _check_frequency(masks.sum(0), ROUNDS, size / num_clients)


def test_uniform_cohorts_are_all_subsets_equally_often():
    """Chi-squared over the 20 subsets of 3 out of 6, which pairs that go together would fail."""
    subsets = {subset: number for number, subset in enumerate(itertools.combinations(range(6), 3))}
    drawn = [subsets[tuple(UniformCohorts(3).draw(1, round_number, 6))] for round_number in range(ROUNDS)]
    assert stats.chisquare(np.bincount(drawn, minlength=20)).pvalue > ERROR


@pytest.mark.parametrize(("size", "num_clients"), [(1, 10), (5, 10), (0.5, 8), (10, 10), (3, 200)])
def test_poisson_cohorts_include_every_client_at_the_rate_and_independently(size, num_clients):
    sampler = PoissonCohorts(size)
    rate = sampler.sample_rate(num_clients)
    assert rate == size / num_clients
    masks = _masks(sampler, num_clients)
    _check_frequency(masks.sum(0), ROUNDS, rate)
    _check_frequency(masks.sum(), masks.size, rate)
    sizes = masks.sum(1)
    law = stats.binom(num_clients, rate)
    low, high = law.ppf(ERROR / ROUNDS / 2), law.isf(ERROR / ROUNDS / 2)
    assert low <= sizes.min() <= sizes.max() <= high
    if rate < 1:
        # A fixed size, or a size drawn from another law, has another variance; the bound is Chebyshev-free, normal.
        spread = np.sqrt((law.stats("k") + 2) / ROUNDS) * law.var()
        assert abs(sizes.var() - law.var()) < stats.norm.isf(ERROR / 2) * spread
        pair = (masks[:, 0] & masks[:, 1]).sum()
        _check_frequency(pair, ROUNDS, rate**2)
        _check_frequency((masks[1:, 0] & masks[:-1, 0]).sum(), ROUNDS - 1, rate**2)


def test_poisson_cohorts_may_be_empty():
    assert [] in [PoissonCohorts(1).draw(0, round_number, 10) for round_number in range(100)]


def test_weighted_cohorts_draw_one_after_another_by_weight():
    """Chi-squared against the probabilities of ordered draws, summed by hand; NumPy's own sampler agrees."""
    weights = np.array([1.0, 2.0, 3.0, 6.0])
    subsets = list(itertools.combinations(range(4), 2))
    whole = weights.sum()
    law = [weights[a] * weights[b] / whole * (1 / (whole - weights[a]) + 1 / (whole - weights[b])) for a, b in subsets]
    sampler = WeightedCohorts(2, weights)
    drawn = [subsets.index(tuple(sampler.draw(1, round_number, 4))) for round_number in range(ROUNDS)]
    assert stats.chisquare(np.bincount(drawn, minlength=6), np.array(law) * ROUNDS).pvalue > ERROR


def test_a_weight_of_zero_is_never_drawn():
    sampler = WeightedCohorts(2, [0.0, 1.0, 0.0, 1e-9])
    assert {tuple(sampler.draw(0, round_number, 4)) for round_number in range(50)} == {(1, 3)}


@pytest.mark.parametrize(
    "weights", [np.ones(3), torch.ones(3), [1, 1, 1], (1.0, 1.0, 1.0)], ids=lambda w: type(w).__name__
)
def test_weights_may_be_any_sequence_and_samplers_compare(weights):
    assert WeightedCohorts(1, weights) == WeightedCohorts(1, [1, 1, 1])
    assert hash(WeightedCohorts(1, weights)) == hash(WeightedCohorts(1, [1, 1, 1]))


def test_expected_sizes():
    assert UniformCohorts(3).expected_size(10) == 3.0
    assert PoissonCohorts(2.5).expected_size(10) == 2.5
    assert AllClients().expected_size(10) == 10.0
    assert WeightedCohorts(2, [1, 2, 3]).expected_size(3) == 2.0


def test_samplers_by_name():
    assert cohort_sampler("uniform", 3) == UniformCohorts(3)
    assert cohort_sampler("poisson", 3) == PoissonCohorts(3)
    assert cohort_sampler("all") == AllClients()
    assert cohort_sampler("weighted", 1, [1, 2]) == WeightedCohorts(1, [1, 2])
    own = PoissonCohorts(0.5)
    assert cohort_sampler(own, 7) is own


@pytest.mark.parametrize("sampler", [UniformCohorts(6), PoissonCohorts(6), PoissonCohorts(5.5)], ids=repr)
def test_a_cohort_larger_than_the_federation(sampler):
    for act in (lambda: sampler.draw(0, 0, 5), lambda: sampler.expected_size(5)):
        with pytest.raises(ConfigurationError, match="cohort_size must be at most the number of clients, 5, got"):
            act()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: UniformCohorts(0), "cohort_size must be a whole number >= 1, got 0"),
        (lambda: UniformCohorts(2.5), "cohort_size must be a whole number"),
        (lambda: PoissonCohorts(0), "cohort_size must be a finite number > 0"),
        (lambda: PoissonCohorts(float("nan")), "cohort_size must be a finite number > 0"),
        (lambda: WeightedCohorts(1, [-1.0, 2.0]), "weights must be finite numbers >= 0"),
        (lambda: WeightedCohorts(1, [float("inf"), 2.0]), "weights must be finite"),
        (lambda: WeightedCohorts(1, []), "weights must be above 0 for at least cohort_size=1 clients, got 0"),
        (lambda: WeightedCohorts(2, [0.0, 2.0]), "for at least cohort_size=2 clients, got 1"),
        (lambda: WeightedCohorts(1, [1.0, 2.0]).draw(0, 0, 3), "weights must be one per client, 3, got 2"),
        (lambda: UniformCohorts(1).draw(-1, 0, 3), "seed must be"),
        (lambda: UniformCohorts(1).draw(0, -1, 3), "round_number must be"),
        (lambda: UniformCohorts(1).draw(0, 0, 0), "num_clients must be"),
        (lambda: cohort_sampler("random", 3), "client_sampling must be one of 'uniform', .* got 'random'"),
        (lambda: cohort_sampler("uniform"), "cohort_size must be given"),
        (lambda: cohort_sampler("weighted", 3), "weights must be given"),
    ],
)
def test_bad_arguments_are_named(act, message):
    with pytest.raises(ConfigurationError, match=message):
        act()
