"""Balanced Poisson sampling: every cell at its own rate, independently, and charged at the largest.

Statistical checks run on fixed seeds, so their outcome is fixed; ``ERROR`` is the probability with which
one named check would fail for a fresh seed.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lightning_privacy.accounting.releases import SampledGaussian
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.sampling.balanced_poisson import BalancedPoissonSampler, balanced_rates
from lightning_privacy.sampling.microbatch import MicrobatchSampler

ERROR = 1e-6
CELLS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4], [40, 9, 3, 1]))  # cell 3 has nobody
RATES = [0.05, 0.4, 1.0, 0.7, 0.0]


def make(cells=CELLS, rates=RATES, steps=10, seed=0, **options):
    return BalancedPoissonSampler(cells, rates=rates, steps=steps, seed=seed, **options)


def masks(sampler, steps):
    """Who was in which draw: int, shape (steps, num_examples)."""
    found = np.zeros((steps, sampler.num_examples), np.int64)
    for step in range(steps):
        found[step, sampler.draw(step)] = 1
    return found


def within(count, trials, probability, comparisons):
    """Two-sided binomial check whose family of ``comparisons`` fails with probability ERROR."""
    tail = ERROR / comparisons / 2
    low, high = stats.binom.ppf([[tail], [1 - tail]], trials, probability)
    return bool(((count >= low) & (count <= high)).all())


def test_p15_every_example_is_drawn_at_the_rate_of_its_cell():
    sampler, steps = make(steps=4000, seed=2), 4000
    found = masks(sampler, steps)
    rates = np.array(RATES)[CELLS]
    assert within(found.sum(0), steps, rates, len(rates))
    # Chi-squared over the cells, whose examples are drawn independently of each other.
    for cell in (0, 1):
        members = found[:, cell == CELLS]
        assert stats.binomtest(int(members.sum()), members.size, RATES[cell]).pvalue > ERROR


def test_p14_inclusions_are_independent():
    """Each pair of examples comes together as often as the product of their rates; each in adjacent draws too."""
    steps = 4000
    found, rates = masks(make(steps=steps, seed=3), steps), np.array(RATES)[CELLS]
    first, second = np.triu_indices(len(rates), 1)
    assert within((found.T @ found)[first, second], steps, rates[first] * rates[second], len(first))
    assert within((found[0::2] * found[1::2]).sum(0), steps // 2, rates**2, len(rates))


def test_order_within_a_batch_is_random():
    """Shares of replicas and micro-batches must not hold one cell each; binomial test, error probability 1e-6."""
    sampler = make(np.repeat([0, 1], [50, 50]), [0.5, 0.5], steps=500, seed=4)
    halves = [sampler.draw(step) for step in range(500)]
    first = np.concatenate([draw[: len(draw) // 2] for draw in halves])
    assert stats.binomtest(int((first < 50).sum()), len(first), 0.5).pvalue > ERROR


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_p19_replicas_share_one_draw(replicas):
    shares = [make(num_replicas=replicas, rank=rank) for rank in range(replicas)]
    for step in range(10):
        parts = [share.batch(step) for share in shares]
        assert sorted(np.concatenate(parts)) == sorted(make().draw(step))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(share.size(step) == len(make().draw(step)) for share in shares for step in range(10))


def test_p19_replicas_need_a_common_seed():
    with pytest.raises(ConfigurationError, match=r"num_replicas=2 and torch\.distributed is not initialised"):
        make(seed=None, num_replicas=2, rank=0)


def test_p15_the_largest_rate_is_charged_whoever_has_it():
    """Also that of a cell without examples: whether it has any is private."""
    assert make().release(1.5) == SampledGaussian(noise_multiplier=1.5, sample_rate=1.0)
    assert make(rates=[0.1, 0.2, 0.3, 0.9, 0.1]).release(1.5).sample_rate == 0.9


def test_p16_the_state_tells_nothing_of_the_cells():
    state = make(seed=None).state_dict()
    assert state == {"num_examples": 53, "steps": 10, "rates": RATES, "position": 0}
    sampler = make(seed=None)
    assert sampler._key.to_bytes(16, "little").lstrip(b"\0") not in pickle.dumps(sampler)


def test_position_state_and_copies():
    sampler = make(seed=3)
    iterator = iter(sampler)
    done = [next(iterator) for _ in range(4)]
    resumed = make(seed=3)
    resumed.load_state_dict(pickle.loads(pickle.dumps(sampler.state_dict())))
    assert done + list(resumed) == [make(seed=3).draw(step).tolist() for step in range(10)]
    assert copy.deepcopy(make(seed=3)).draw(5).tolist() == make(seed=3).draw(5).tolist()
    with pytest.raises(ConfigurationError, match="make a BalancedPoissonSampler with steps"):
        iter(resumed)
    with pytest.raises(CheckpointError, match=r"rates \[0.05.*this one has \[0.1"):
        make(rates=[0.1] * 5).load_state_dict(sampler.state_dict())


def test_micro_batches_and_their_indices():
    sampler = make(steps=20)
    batches = MicrobatchSampler(sampler, microbatch_size=3)
    plan = batches.plan(2, 12, offset=5)
    read = list(batches)
    for number, (entry, indices) in enumerate(zip(plan, read, strict=True)):
        assert batches.indices(number + 5) == ([] if entry.empty else indices)
    backwards = [batches.indices(number + 5) for number in reversed(range(len(plan)))]
    assert backwards[::-1] == [[] if entry.empty else indices for entry, indices in zip(plan, read, strict=True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cells": [0, 5]}, r"cells must be in \[0, 5\), as there are 5 rates, got 0 to 5"),
        ({"cells": [-1, 0]}, "got -1 to 0"),
        ({"cells": [0.0]}, "cells must be whole numbers, one for each example, got float64"),
        ({"cells": []}, "one for each example"),
        ({"rates": [0.5, 1.5, 0, 0, 0]}, r"rates must be in \[0, 1\], got 1.5"),
        ({"rates": [0.5, float("nan"), 0, 0, 0]}, "got nan"),
        ({"rates": [0.0] * 5}, "at least one above 0"),
        ({"rates": 0.5}, r"one number for each cell, got shape \(\)"),
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        make(**arguments)


# Rates from counts


def test_the_case_of_one_percent():
    """1% of 50,000 as half of batches of 500: a rate of 0.5; with a limit the batch keeps its size."""
    rates = balanced_rates([49_500, 500], [0.5, 0.5], expected_batch_size=500)
    np.testing.assert_allclose(rates, [250 / 49_500, 0.5])
    limited = balanced_rates([49_500, 500], [0.5, 0.5], expected_batch_size=500, max_sample_rate=0.1)
    np.testing.assert_allclose(limited, [450 / 49_500, 0.1])
    uniform = balanced_rates([49_500, 500], [0.5, 0.5], expected_batch_size=500, max_sample_rate=0.01)
    np.testing.assert_allclose(uniform, [0.01, 0.01])


@given(
    cells=st.lists(st.tuples(st.integers(-5, 1000), st.just(0.0) | st.floats(1e-9, 1)), min_size=1, max_size=8),
    part=st.floats(0.001, 1),
    limit=st.floats(0.001, 1),
)
@settings(max_examples=300, deadline=None)
def test_p16_rates_of_any_noisy_counts_are_probabilities_and_fill_the_batch(cells, part, limit):
    counts, weights = np.array([count for count, _ in cells]), np.array([weight for _, weight in cells])
    if weights.sum() < 1e-3:
        weights = np.ones(len(weights))
    shares, floored = weights / weights.sum(), np.maximum(counts, 1)
    available = float(floored[shares > 0].sum())
    size = part * available * limit
    rates = balanced_rates(counts, shares, expected_batch_size=size, max_sample_rate=limit)
    assert ((rates >= 0) & (rates <= limit)).all()
    assert (rates * floored).sum() == pytest.approx(size, rel=1e-9)
    # Cells below the limit keep the proportions that were asked for.
    free = (rates < limit * (1 - 1e-9)) & (shares > 0)
    if free.any():
        ratio = (rates * floored)[free] / shares[free]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
        assert ratio[0] >= size * (1 - 1e-9)


def test_p16_noisy_counts_below_the_batch_draw_everything():
    np.testing.assert_array_equal(balanced_rates([3, -40, 2], [0.5, 0.5, 0.0], expected_batch_size=9), [1, 1, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"max_sample_rate": 0.05},
            r"max_sample_rate=0.05 is too low .* 10 ex.*100 .*there are 5.*at least 0.1,",
        ),
        ({"max_sample_rate": 1.5}, r"max_sample_rate must be a number in \(0, 1\], got 1.5"),
        ({"expected_batch_size": 0}, "expected_batch_size must be"),
        ({"shares": [0.5, 0.6]}, "shares at least 0 and of sum 1, got shares that add up to 1.1"),
        ({"shares": [1.5, -0.5]}, "shares at least 0"),
        ({"shares": [1.0]}, "one number for each cell"),
        ({"counts": [float("inf"), 1]}, "counts must be finite"),
    ],
)
def test_bad_counts_and_shares_are_named(arguments, message):
    options = {"counts": [90, 10], "shares": [0.5, 0.5], "expected_batch_size": 10} | arguments
    with pytest.raises(ConfigurationError, match=message):
        balanced_rates(options.pop("counts"), options.pop("shares"), **options)
