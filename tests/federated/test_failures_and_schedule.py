"""Simulated failures happen as often as asked; clients are spread over processes as well as the rule promises.

Statistical checks run on fixed seeds; ``ERROR`` is the probability with which one would fail for a fresh seed.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.failures import ClientOutcome, SimulatedFailures
from lightning_privacy.federated.schedule import assign

ERROR = 1e-6


def _within(count, trials, probability):
    low, high = stats.binom.ppf([ERROR / 2, 1 - ERROR / 2], trials, probability)
    return low <= count <= high


def test_failures_have_their_probabilities_and_exclude_each_other():
    failures = SimulatedFailures(dropout=0.2, nan=0.1, error=0.05)
    seen = [failures.outcome(1, number, client, 3).failure for number in range(100) for client in range(50)]
    for name, probability in (("dropout", 0.2), ("nan", 0.1), ("error", 0.05), (None, 0.65), ("late", 0.0)):
        assert _within(seen.count(name), len(seen), probability)
    # Of a client and round no other says anything: pairs of neighbours fail together as often as chance has it.
    out = np.array([name == "dropout" for name in seen]).reshape(100, 50)
    assert _within((out[:, 1:] & out[:, :-1]).sum(), 100 * 49, 0.04)
    assert _within((out[1:] & out[:-1]).sum(), 99 * 50, 0.04)


def test_slowness_is_lognormal_and_belongs_to_the_client():
    failures = SimulatedFailures(stragglers=0.7, seconds_per_batch=2.0)
    seconds = np.array([failures.seconds(0, client, 10) for client in range(3000)])
    statistic = stats.kstest(np.log(seconds / 20.0) / 0.7, "norm").statistic
    assert statistic < np.sqrt(np.log(2 / ERROR) / 2 / 3000)
    for number in range(3):
        assert failures.outcome(0, number, 5, 10).seconds == seconds[5]
    assert failures.seconds(0, 5, 20) == 2 * seconds[5]
    assert failures.seconds(1, 5, 10) != seconds[5]


def test_whoever_is_above_the_deadline_is_late():
    failures = SimulatedFailures(stragglers=1.0, deadline=15.0)
    outcomes = [failures.outcome(0, 0, client, 10) for client in range(300)]
    assert all((outcome.failure == "late") == (outcome.seconds > 15.0) for outcome in outcomes)
    expected = stats.norm.sf(np.log(1.5))
    assert _within(sum(outcome.failure == "late" for outcome in outcomes), 300, expected)


def test_without_stragglers_a_client_is_as_slow_as_its_batches():
    failures = SimulatedFailures(deadline=10.0)
    assert failures.outcome(0, 0, 0, 10) == ClientOutcome(None, 10.0)
    assert failures.outcome(0, 0, 0, 11) == ClientOutcome("late", 11.0)


def test_of_two_failures_the_earlier_one_counts():
    late = {"stragglers": 1.0, "deadline": 1e-9}
    assert SimulatedFailures(dropout=1.0, **late).outcome(0, 0, 0, 1).failure == "dropout"
    assert SimulatedFailures(error=1.0, **late).outcome(0, 0, 0, 1).failure == "error"
    assert SimulatedFailures(nan=1.0, **late).outcome(0, 0, 0, 1).failure == "late"
    assert SimulatedFailures(nan=1.0).outcome(0, 0, 0, 1).failure == "nan"
    assert [ClientOutcome(name, 1.0).sends_nothing for name in ("dropout", "late", "error", "nan", None)] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_p40_failures_depend_on_seed_round_and_client_alone():
    failures = SimulatedFailures(dropout=0.5, stragglers=1.0, deadline=12.0)
    keys = list(itertools.product(range(2), range(10), range(10)))
    first = {key: failures.outcome(*key, 10) for key in keys}
    before = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
    torch.manual_seed(3)
    again = {key: failures.outcome(*key, 10) for key in reversed(keys)}
    assert again == first
    assert np.random.get_state()[1].tolist() == before[1]
    assert [first[0, number, 0].failure for number in range(10)] != [
        first[1, number, 0].failure for number in range(10)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": -0.1}, "dropout must be"),
        ({"nan": float("nan")}, "nan must be"),
        ({"dropout": 0.5, "error": 0.6}, r"dropout \+ nan \+ error must be at most 1, got 1.1"),
        ({"stragglers": -1}, "stragglers must be"),
        ({"deadline": 0}, "deadline must be"),
        ({"seconds_per_batch": 0}, "seconds_per_batch must be"),
    ],
)
def test_bad_failures_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        SimulatedFailures(**arguments)


def test_an_unknown_failure_is_named():
    with pytest.raises(ConfigurationError, match=r"failure must be None or one of .* got 'fire'"):
        ClientOutcome("fire", 1.0)


def _best(sizes, num_ranks):
    """The least load of the busiest process over all assignments."""
    return min(
        max(sum(size for size, rank in zip(sizes, ranks, strict=True) if rank == chosen) for chosen in range(num_ranks))
        for ranks in itertools.product(range(num_ranks), repeat=len(sizes))
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 4))
def test_clients_are_spread_within_grahams_bound(sizes, num_ranks):
    assigned = assign(sizes, num_ranks)
    assert len(assigned) == num_ranks
    assert sorted(position for rank in assigned for position in rank) == list(range(len(sizes)))
    assert all(rank == sorted(rank) for rank in assigned)
    loads = [sum(sizes[position] for position in rank) for rank in assigned]
    best = _best(sizes, num_ranks)
    # 4/3 - 1/(3m), in whole numbers.
    assert 3 * num_ranks * max(loads) <= (4 * num_ranks - 1) * best
    assert assign(sizes, num_ranks) == assigned


def test_the_longest_goes_first_and_to_the_idlest():
    assert assign([7, 5, 4, 3, 1], 2) == [[0, 3], [1, 2, 4]]
    assert assign([1, 1, 1, 9], 2) == [[3], [0, 1, 2]]
    assert assign([2, 2, 2, 2], 2) == [[0, 2], [1, 3]]
    assert assign([0, 0, 0, 0], 2) == [[0, 2], [1, 3]]
    assert assign([3], 3) == [[0], [], []]
    assert assign([], 2) == [[], []]
    assert assign(np.array([1, 2]), 1) == [[0, 1]]


@pytest.mark.parametrize(("sizes", "ranks", "named"), [([1], 0, "num_ranks"), ([-1], 1, "sizes"), ([1.5], 1, "sizes")])
def test_bad_sizes_are_named(sizes, ranks, named):
    with pytest.raises(ConfigurationError, match=f"^{named} must be"):
        assign(sizes, ranks)
