"""Micro-batches: what is planned is what is read, and a step is its draw, whole and alone."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling import Microbatch, MicrobatchSampler, PoissonSampler


def make(num_examples=40, sample_rate=0.3, *, microbatch_size=5, seed=0, **options):
    sampler = PoissonSampler(num_examples, sample_rate=sample_rate, steps=100, seed=seed, **options)
    return MicrobatchSampler(sampler, microbatch_size=microbatch_size)


def _check_plan_describes_what_is_read(microbatches, plan):
    read = list(microbatches)
    assert len(microbatches) == len(plan) == len(read)
    assert [len(indices) for indices in read] == [entry.size for entry in plan]
    return read


def _check_steps_are_whole(plan, first_step, num_steps):
    """Steps come in order, each closed once, by its last micro-batch."""
    closing = [entry.step for entry in plan if entry.closes_step]
    assert closing == list(range(first_step, first_step + num_steps))
    steps = [entry.step for entry in plan]
    assert steps == sorted(steps)
    for before, after in itertools.pairwise(plan):
        assert before.closes_step == (before.step != after.step)


def _check_union_is_the_draw(microbatches, plan, read):
    """Per step: the micro-batches that are not placeholders are this replica's shard, in its order."""
    by_step = {}
    for entry, indices in zip(plan, read, strict=True):
        by_step.setdefault(entry.step, []).extend([] if entry.empty else indices)
    for step, indices in by_step.items():
        assert indices == microbatches.sampler.batch(step).tolist()


def _check_sizes(microbatches, plan):
    """At most microbatch_size, nearly equal, no more pieces than needed; empty means one placeholder."""
    for step in {entry.step for entry in plan}:
        entries = [entry for entry in plan if entry.step == step]
        sizes = [0 if entry.empty else entry.size for entry in entries]
        assert max(sizes) <= microbatches.microbatch_size
        assert max(sizes) - min(sizes) <= 1
        largest_shard = -(-microbatches.sampler.size(step) // microbatches.sampler.num_replicas)
        assert len(entries) == max(1, -(-largest_shard // microbatches.microbatch_size))
        assert all(entry.size == 1 for entry in entries if entry.empty)


@settings(max_examples=200, deadline=None)
@given(
    num_examples=st.integers(1, 120),
    sample_rate=st.floats(0.005, 1.0),
    microbatch_size=st.integers(1, 40),
    max_batch_size=st.none() | st.integers(1, 60),
    seed=st.integers(0, 2**128),
    first_step=st.integers(0, 10**6),
    num_steps=st.integers(0, 6),
    replicas=st.integers(1, 4),
    data=st.data(),
)
def test_p17_plan_holds_for_every_sampler(
    num_examples, sample_rate, microbatch_size, max_batch_size, seed, first_step, num_steps, replicas, data
):
    microbatches = make(
        num_examples,
        sample_rate,
        microbatch_size=microbatch_size,
        max_batch_size=max_batch_size,
        seed=seed,
        num_replicas=replicas,
        rank=data.draw(st.integers(0, replicas - 1)),
    )
    plan = microbatches.plan(first_step, num_steps)
    read = _check_plan_describes_what_is_read(microbatches, plan)
    _check_steps_are_whole(plan, first_step, num_steps)
    _check_union_is_the_draw(microbatches, plan, read)
    _check_sizes(microbatches, plan)


def test_p17_no_example_twice_in_one_step():
    microbatches = make(sample_rate=1.0, microbatch_size=7)
    microbatches.plan(3, 1)
    indices = [index for part in microbatches for index in part]
    assert sorted(indices) == list(range(40))


def test_p18_an_empty_draw_is_one_placeholder():
    microbatches = make(5, 0.01)
    step = next(step for step in range(99) if microbatches.sampler.size(step) == 0)
    assert microbatches.plan(step, 1) == [Microbatch(step=step, size=1, closes_step=True, empty=True)]
    assert list(microbatches) == [[0]]


def test_p18_the_placeholder_is_told_from_a_draw_of_one():
    """Example 0 drawn alone is a real contribution, and looks like the placeholder but for the flag."""
    microbatches = make(5, 0.1)
    step = next(step for step in range(10**4) if microbatches.sampler.draw(step).tolist() == [0])
    assert microbatches.plan(step, 1) == [Microbatch(step=step, size=1, closes_step=True, empty=False)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.floats(0.01, 1.0), st.integers(0, 2**64))
def test_p18_p19_replicas_have_equally_many_microbatches(replicas, microbatch_size, sample_rate, seed):
    options = {"microbatch_size": microbatch_size, "seed": seed, "num_replicas": replicas}
    ranks = [make(20, sample_rate, rank=rank, **options) for rank in range(replicas)]
    plans = [rank.plan(0, 4) for rank in ranks]
    assert len({tuple((entry.step, entry.closes_step) for entry in plan) for plan in plans}) == 1
    drawn = [
        [index for entry, part in zip(plan, rank, strict=True) if not entry.empty for index in part]
        for plan, rank in zip(plans, ranks, strict=True)
    ]
    union = [index for step in range(4) for index in ranks[0].sampler.draw(step).tolist()]
    assert sorted(index for shard in drawn for index in shard) == sorted(union)


def test_planning_draws_no_indices(monkeypatch):
    microbatches = make()
    monkeypatch.setattr(PoissonSampler, "draw", lambda *_: pytest.fail("the plan drew a batch"))
    assert microbatches.plan(0, 50)


def test_indices_are_drawn_step_by_step(monkeypatch):
    drawn = []
    original = PoissonSampler.draw
    monkeypatch.setattr(PoissonSampler, "draw", lambda self, step: drawn.append(step) or original(self, step))
    microbatches = make(sample_rate=1.0, microbatch_size=20)
    microbatches.plan(4, 30)
    iterator = iter(microbatches)
    next(iterator)
    next(iterator)
    assert drawn == [4]
    next(iterator)
    assert drawn == [4, 5]


def test_reading_twice_gives_the_same_epoch_and_moves_nothing():
    microbatches = make(seed=None)
    microbatches.plan(2, 5)
    assert list(microbatches) == list(microbatches)
    assert microbatches.sampler.position == 0


def test_an_iterator_keeps_to_its_plan():
    microbatches = make()
    microbatches.plan(0, 3)
    expected = list(microbatches)
    iterator = iter(microbatches)
    microbatches.plan(3, 9)
    assert list(iterator) == expected


def test_offset_shifts_the_trainer_s_numbering():
    microbatches = make()
    plan = microbatches.plan(7, 2, offset=10)
    assert [microbatches.microbatch(10 + index) for index in range(len(plan))] == plan
    for batch_idx in (9, 10 + len(plan), 0):
        with pytest.raises(ConfigurationError, match=rf"batch_idx must be in \[10, .*got {batch_idx}"):
            microbatches.microbatch(batch_idx)
    microbatches.plan(7, 2)
    assert microbatches.microbatch(0) == plan[0]


def test_plan_that_was_handed_out_can_be_changed_by_its_owner():
    microbatches = make()
    plan = microbatches.plan(0, 3)
    expected = list(microbatches)
    plan.clear()
    assert list(microbatches) == expected


@pytest.mark.parametrize("use", [iter, len, lambda sampler: sampler.microbatch(0)])
@pytest.mark.parametrize("copied", [False, True])
def test_without_a_plan_the_error_says_what_to_call(use, copied):
    microbatches = make(seed=None)
    if copied:
        microbatches.plan(0, 3)
        microbatches = pickle.loads(pickle.dumps(microbatches))
    with pytest.raises(ConfigurationError, match=r"call plan\(first_step, num_steps\)"):
        use(microbatches)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader_delivers_the_plan_whatever_its_workers(workers):
    microbatches = make(seed=3)
    microbatches.plan(0, 6)
    loader = DataLoader(torch.arange(40), batch_sampler=microbatches, num_workers=workers)
    assert len(loader) == len(microbatches)
    assert [batch.tolist() for batch in loader] == list(microbatches)
    assert [batch.tolist() for batch in loader] == list(microbatches)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(microbatch_size=0), "microbatch_size must be a whole number >= 1, got 0"),
        (lambda: make().plan(-1, 3), "first_step must be a whole number >= 0, got -1"),
        (lambda: make().plan(0, 1.5), "num_steps must be a whole number >= 0, got 1.5"),
        (lambda: make().plan(0, 3, offset=-2), "offset must be a whole number >= 0, got -2"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


def test_microbatch_cannot_be_changed():
    entry = Microbatch(step=0, size=1, closes_step=True, empty=False)
    with pytest.raises(AttributeError):
        entry.size = 2
    assert not hasattr(entry, "__dict__")
