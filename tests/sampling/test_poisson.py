"""Poisson sampling: the distribution the ledger charges for, drawn in time proportional to the batch.

Statistical checks run on fixed seeds, so their outcome is fixed; ``ERROR`` is the probability with which
one named check would fail for a fresh seed.
"""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader

from lightning_privacy.accounting.releases import SampledGaussian, TruncatedSampledGaussian
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.sampling import PoissonSampler

ERROR = 1e-6
CASES = [(50, 0.1), (50, 0.5), (7, 0.9), (200, 0.01), (1, 0.3), (30, 1.0)]


def make(num_examples=50, sample_rate=0.2, steps=10, seed=0, **options):
    return PoissonSampler(num_examples, sample_rate=sample_rate, steps=steps, seed=seed, **options)


def _masks(sampler, steps):
    """Who was in which draw: bool, shape (steps, num_examples)."""
    masks = np.zeros((steps, sampler.num_examples), bool)
    for step in range(steps):
        masks[step, sampler.draw(step)] = True
    return masks


def _within(count, trials, probability, comparisons=1):
    """Two-sided binomial check whose family of ``comparisons`` fails with probability ERROR."""
    tail = ERROR / comparisons / 2
    low, high = stats.binom.ppf([tail, 1 - tail], trials, probability)
    return bool(((count >= low) & (count <= high)).all())


def _check_inclusion_probability(sampler, steps=4000, rate=None):
    """Every example is drawn as often as the ledger says; a rate 20% off fails for 0.1 and above."""
    counts = _masks(sampler, steps).sum(0)
    rate = sampler.sample_rate if rate is None else rate
    assert _within(counts, steps, rate, len(counts))
    assert _within(counts.sum(), steps * len(counts), rate), "the mean rate over all examples is off"


def _check_batch_size_is_binomial(sampler, steps=4000):
    """Chi-squared test of the sizes, cells with at least 5 expected; a fixed size would fail at once."""
    sizes = np.array([len(sampler.draw(step)) for step in range(steps)])
    law = stats.binom(sampler.num_examples, sampler.sample_rate)
    edges = np.unique(law.ppf(np.linspace(0, 1, 9)[1:-1]))
    expected = np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]])) * steps
    observed = np.bincount(np.searchsorted(edges, sizes), minlength=len(expected))
    keep = expected >= 5
    assert (observed[expected < 1e-9] == 0).all()
    if keep.sum() > 1:
        statistic = ((observed[keep] - expected[keep]) ** 2 / expected[keep]).sum()
        assert stats.chi2.sf(statistic, keep.sum() - 1) > ERROR


def _check_pairs_are_independent(sampler, steps=4000):
    """Each pair of examples is in a draw together as often as q^2; each example in adjacent draws too."""
    masks = _masks(sampler, steps).astype(np.int64)
    rate, count = sampler.sample_rate, sampler.num_examples
    together = (masks.T @ masks)[np.triu_indices(count, 1)]
    if together.size:
        assert _within(together, steps, rate**2, together.size)
        assert abs(together.sum() / (together.size * steps) - rate**2) < 6 * rate / np.sqrt(steps)
    # Non-overlapping pairs of steps, so that the trials are independent.
    assert _within((masks[0::2] & masks[1::2]).sum(0), steps // 2, rate**2, count)


def _check_shards_partition_the_draw(replicas, steps=20):
    """Disjoint, balanced, and together the global draw."""
    for step in range(steps):
        draw = replicas[0].draw(step)
        shards = [replica.batch(step) for replica in replicas]
        sizes = [len(shard) for shard in shards]
        assert max(sizes) - min(sizes) <= 1
        assert sorted(np.concatenate(shards).tolist()) == sorted(draw.tolist())
        assert len(set(draw.tolist())) == len(draw)


@pytest.mark.parametrize(("num_examples", "sample_rate"), CASES)
def test_p14_inclusion_is_poisson(num_examples, sample_rate):
    sampler = make(num_examples, sample_rate, steps=4000, seed=2)
    _check_inclusion_probability(sampler)
    _check_batch_size_is_binomial(sampler)
    _check_pairs_are_independent(sampler)


def test_p14_shuffled_batches_fail_the_checks():
    """The checks would notice the error they are here for: shuffled epochs with batches of one size."""

    class Shuffled:
        num_examples, sample_rate = 50, 0.1

        def draw(self, step):
            epoch, part = divmod(step, 10)
            return np.random.default_rng(epoch).permutation(50)[part * 5 : part * 5 + 5]

    with pytest.raises(AssertionError):
        _check_batch_size_is_binomial(Shuffled())
    with pytest.raises(AssertionError):
        _check_pairs_are_independent(Shuffled())


def test_p14_large_sparse_draws_are_uniform():
    """Chi-squared over 100 bins of 2,000 draws of about 1,000 from 10 million; error probability 1e-6."""
    sampler = make(10_000_000, 1e-4, steps=2000, seed=3)
    indices = np.concatenate([sampler.draw(step) for step in range(2000)])
    assert _within(len(indices), 2000 * 10_000_000, 1e-4)
    assert stats.chisquare(np.bincount(indices // 100_000, minlength=100)).pvalue > ERROR


@pytest.mark.parametrize(
    ("num_examples", "sample_rate"),
    [(20_000, 1e-4), (20_000, 0.003), (20_000, 0.05), (20_000, 0.5), (1000, 0.05), (1000, 0.5), (1000, 1.0)],
)
def test_order_within_a_batch_is_random(num_examples, sample_rate):
    """The first of a batch is below the median of the data set half of the time, and so is the last."""
    sampler = make(num_examples, sample_rate, steps=400, seed=4)
    half = num_examples // 2
    batches = [batch for batch in map(sampler.draw, range(400)) if len(batch) > 1]
    ends = [(batch[0] < half, batch[-1] < half, batch[0] < batch[-1]) for batch in batches]
    for column in zip(*ends, strict=True):
        assert _within(sum(column), len(column), 0.5)


@given(st.integers(1, 300), st.floats(0.001, 1.0), st.integers(0, 2**200), st.integers(0, 2**40), st.integers(1, 99))
@settings(max_examples=150, deadline=None)
def test_p17_a_draw_has_no_example_twice(num_examples, sample_rate, seed, step, cap):
    sampler = make(num_examples, sample_rate, seed=seed, max_batch_size=cap)
    draw = sampler.draw(step)
    assert draw.dtype == np.int64
    assert len(set(draw.tolist())) == len(draw) == sampler.size(step) <= cap
    assert ((draw >= 0) & (draw < num_examples)).all()


def test_cap_keeps_a_uniform_subset_and_leaves_small_draws_alone():
    """With the cap every example is kept equally often: E[min(b, cap)] / N."""
    capped, free = (make(50, 0.2, steps=4000, seed=5, max_batch_size=cap) for cap in (8, None))
    sizes = [free.size(step) for step in range(4000)]
    assert [capped.size(step) for step in range(4000)] == [min(size, 8) for size in sizes]
    small = next(step for step, size in enumerate(sizes) if 0 < size <= 8)
    assert capped.draw(small).tolist() == free.draw(small).tolist()
    sizes_law = np.arange(51)
    rate = (np.minimum(sizes_law, 8) * stats.binom(50, 0.2).pmf(sizes_law)).sum() / 50
    _check_inclusion_probability(capped, rate=rate)


def test_release_names_what_the_ledger_must_charge():
    assert make(50, 0.2).release(1.5) == SampledGaussian(noise_multiplier=1.5, sample_rate=0.2)
    assert make(50, 0.2, max_batch_size=20).release(1.5) == TruncatedSampledGaussian(
        noise_multiplier=1.5, sample_rate=0.2, num_examples=50, max_batch_size=20
    )
    # A cap that no draw can exceed changes nothing.
    assert make(50, 0.2, max_batch_size=50).release(1.5) == SampledGaussian(noise_multiplier=1.5, sample_rate=0.2)


@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
@pytest.mark.parametrize("sample_rate", [0.02, 0.5, 1.0])
def test_p19_shards_are_disjoint_and_their_union_is_the_draw(replicas, sample_rate):
    _check_shards_partition_the_draw(
        [make(60, sample_rate, num_replicas=replicas, rank=rank, max_batch_size=55) for rank in range(replicas)]
    )


def test_p19_equal_shards_would_be_noticed():
    with pytest.raises(AssertionError):
        _check_shards_partition_the_draw([make(num_replicas=2, rank=0)] * 2)


def test_p19_replicas_need_a_common_seed():
    with pytest.raises(ConfigurationError, match=r"num_replicas=2 and torch\.distributed is not initialised"):
        make(seed=None, num_replicas=2, rank=0)
    make(seed=None, num_replicas=1, rank=0)


def test_draw_is_a_function_of_seed_and_step_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    forwards = [make().draw(step).tolist() for step in range(10)]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    sampler = make(steps=99)
    assert [sampler.draw(step).tolist() for step in reversed(range(10))] == forwards[::-1]
    assert [make(seed=1).draw(step).tolist() for step in range(10)] != forwards


def test_p25_unseeded_samplers_differ_after_the_same_global_seed():
    """128 random bits each: equal with probability 2**-128."""
    draws = set()
    for _ in range(3):
        torch.manual_seed(0)
        np.random.seed(0)
        draws.add(tuple(make(10_000, 0.1, seed=None).draw(0).tolist()))
    assert len(draws) == 3


def test_another_process_draws_the_same_from_a_seed():
    code = (
        "from lightning_privacy.sampling import PoissonSampler;"
        "print(PoissonSampler(50, sample_rate=0.2, steps=10, seed=7).draw(3).tolist())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert output.strip() == str(make(seed=7).draw(3).tolist())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    loader = DataLoader(range(50), batch_sampler=make(seed=8, steps=6), num_workers=workers)
    assert [batch.tolist() for batch in _skip_empty(loader)] == [
        batch.tolist() for batch in map(make(seed=8).draw, range(6)) if len(batch)
    ]


def _skip_empty(loader):
    return (batch for batch in loader if len(batch))


def test_iteration_goes_from_position_to_the_end_once():
    sampler = make(steps=6, seed=9)
    iterator = iter(sampler)
    first = [next(iterator), next(iterator)]
    assert sampler.position == 2
    rest = list(sampler)
    assert len(sampler) == 6
    assert first + rest == [make(seed=9).draw(step).tolist() for step in range(6)]
    assert all(type(index) is int for batch in rest for index in batch)
    assert list(iterator) == [], "a step was drawn twice"


def test_p14_a_second_pass_over_the_same_steps_is_refused():
    sampler = make(steps=3)
    list(sampler)
    with pytest.raises(ConfigurationError, match="all steps=3 batches have been drawn"):
        iter(sampler)
    sampler.position = 2
    assert len(list(sampler)) == 1


def test_memory_grows_with_the_batch_not_with_the_data():
    sampler = make(10_000_000, 1e-4, seed=None)
    sampler.draw(0)
    tracemalloc.start()
    try:
        sampler.draw(1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000  # about 1,000 indices; a mask of the data would be 10 MB


@pytest.mark.parametrize("sample_rate", [0.5, 1.0])
def test_dense_draws(sample_rate):
    draw = make(200_000, sample_rate).draw(0)
    assert len(np.unique(draw)) == len(draw)
    assert abs(len(draw) - 200_000 * sample_rate) <= 6 * np.sqrt(200_000 * sample_rate * (1 - sample_rate))


def test_state_goes_on_where_it_stopped():
    sampler = make(steps=8, seed=3)
    iterator = iter(sampler)
    for _ in range(5):
        next(iterator)
    state = pickle.loads(pickle.dumps(sampler.state_dict()))
    resumed = make(steps=8, seed=3)
    resumed.load_state_dict(state)
    assert resumed.position == 5
    assert list(resumed) == list(iterator)


def test_state_of_an_unseeded_sampler_does_not_tell_who_was_sampled():
    sampler = make(seed=None)
    assert sampler.state_dict() == {
        "num_examples": 50,
        "sample_rate": 0.2,
        "steps": 10,
        "max_batch_size": None,
        "position": 0,
    }
    assert sampler._key.to_bytes(16, "little").lstrip(b"\0") not in pickle.dumps(sampler)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_keep_the_seed_or_take_a_new_key(duplicate):
    seeded, unseeded = make(1000), make(1000, seed=None)
    unseeded.position = 4
    assert duplicate(seeded).draw(1).tolist() == seeded.draw(1).tolist()
    assert duplicate(unseeded).draw(1).tolist() != unseeded.draw(1).tolist()
    assert duplicate(unseeded).position == 4


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_examples": 51}, "num_examples 51, this one has 50"),
        ({"sample_rate": 0.3}, "sample_rate 0.3, this one has 0.2"),
        ({"steps": 11}, "steps 11, this one has 10"),
        ({"max_batch_size": 9}, "max_batch_size 9, this one has None"),
        ({"seed": 1}, "seed 1, this one has 0"),
    ],
)
def test_state_of_another_sampler_is_refused(other, message):
    with pytest.raises(CheckpointError, match=message):
        make().load_state_dict(make(**other).state_dict())


@pytest.mark.parametrize("state", [{}, {"position": -1}, {"position": 11}, {"position": "3"}, {"position": None}])
def test_corrupt_state_is_refused_and_changes_nothing(state):
    sampler = make()
    full = {} if not state else sampler.state_dict() | state
    with pytest.raises(CheckpointError, match="the checkpoint's sampler has"):
        sampler.load_state_dict(full)
    assert sampler.position == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_examples": 0}, "num_examples must be a whole number >= 1, got 0"),
        ({"sample_rate": 0.0}, r"sample_rate must be a number in \(0, 1\], got 0.0"),
        ({"sample_rate": 1.5}, r"sample_rate must be a number in \(0, 1\], got 1.5"),
        ({"steps": 2.5}, "steps must be a whole number >= 1, got 2.5"),
        ({"max_batch_size": 0}, "max_batch_size must be a whole number >= 1, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"seed": True}, "seed must be a whole number >= 0, got True"),
        ({"num_replicas": 2}, "num_replicas and rank must be given together"),
        ({"rank": 0}, "num_replicas and rank must be given together"),
        ({"num_replicas": 2, "rank": 2}, "rank must be below num_replicas=2, got 2"),
        ({"num_replicas": 0, "rank": 0}, "num_replicas must be a whole number >= 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    ("value", "message"), [(11, "position must be at most steps=10, got 11"), (-1, ">= 0, got -1")]
)
def test_position_is_checked(value, message):
    with pytest.raises(ConfigurationError, match=message):
        make().position = value
