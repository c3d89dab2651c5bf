"""BalancedBatchSampler: the shares hold in each batch, in any process, with and without replacement."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.sampling import BalancedBatchSampler

LABELS = np.repeat([0, 1, 2, 3], [900, 300, 60, 40])


def _batches(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return np.array(list(sampler))


def _counts(sampler, batches):
    """Members of each cell in each batch, shape (batches, cells)."""
    held = sampler.sampler
    return np.stack([np.bincount(held.cells[batch], minlength=len(held.counts)) for batch in batches])


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize(
    ("weighting", "exact"),
    [
        ("inverse", [5, 5, 5, 5]),
        ({0: 0.1, 1: 0.3, 2: 0.6, 3: 0}, [2, 6, 12, 0]),
        ({0: 0, 1: 1, 2: 0, 3: 0}, [0, 20, 0, 0]),
    ],
    ids=["equal", "given", "one"],
)
def test_every_batch_has_the_shares_exactly(replacement, weighting, exact):
    sampler = BalancedBatchSampler(LABELS, 20, weighting=weighting, replacement=replacement)
    for epoch in range(2):
        batches = _batches(sampler, epoch)
        assert (_counts(sampler, batches) == exact).all()
        assert len(batches) == len(sampler) > 1
        if not replacement:
            assert len(np.unique(batches)) == batches.size


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.integers(1, 17),
    st.booleans(),
    st.sampled_from(["inverse", "sqrt"]),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_a_cell_is_never_more_than_one_off_its_share(counts, batch_size, replacement, weighting, epoch):
    labels = np.repeat(np.arange(len(counts)), counts)
    try:
        sampler = BalancedBatchSampler(labels, batch_size, replacement=replacement, weighting=weighting)
    except ConfigurationError as error:
        assert "make it smaller" in str(error) or "less than one example" in str(error)  # noqa: PT017 - either will do
        return
    batches = _batches(sampler, epoch)
    ideal = sampler.sampler.shares * batch_size
    got = _counts(sampler, batches)
    assert (abs(got - ideal) < 1).all()
    # Over an epoch the surplus evens out, much better than it would by chance.
    assert (abs(got.sum(0) - ideal * len(batches)) < 4).all()
    if not replacement:
        assert len(np.unique(batches)) == batches.size
        # Not more is left out than the rounding of a batch or two costs.
        assert len(batches) >= (np.array(counts) / sampler.sampler.shares).min() // batch_size - 3 * len(counts)


def test_members_of_a_cell_are_equally_likely():
    """By the range of 400 counts with mean 500: beyond 6 standard deviations with probability below 1e-6."""
    labels = np.repeat([0, 1], [390, 10])
    batches = np.concatenate([_batches(BalancedBatchSampler(labels, 40, seed=seed)) for seed in range(50)])
    drawn = np.bincount(batches.reshape(-1), minlength=400)
    expected = batches.size / 2 / np.where(labels, 10, 390)
    assert (abs(drawn - expected) < 6 * np.sqrt(expected)).all()


def test_places_in_a_batch_and_surplus_are_shuffled():
    sampler = BalancedBatchSampler(LABELS, 6, num_samples=600)
    batches = _batches(sampler)
    cells = LABELS[batches]
    assert all(len(np.unique(column)) == 4 for column in cells.T)
    extra = _counts(sampler, batches) == 2
    assert (abs(extra.mean(0) - 0.5) < 0.03).all()
    short = BalancedBatchSampler(LABELS, 6, num_samples=6)
    sizes = np.concatenate([_counts(short, _batches(short, epoch)) for epoch in range(40)])
    assert (abs(sizes.mean(0) - 1.5) < 0.1).all(), "with one batch an epoch the surplus must go round all the same"


@pytest.mark.parametrize("replacement", [True, False])
def test_p19_processes_take_whole_batches_of_one_sequence(replacement):
    options = {"batch_size": 8, "replacement": replacement, "num_samples": 160, "seed": 5}
    whole = _batches(BalancedBatchSampler(LABELS, **options), 2)
    for replicas in (2, 4, 3):
        parts = []
        for rank in range(replicas):
            sampler = BalancedBatchSampler(LABELS, num_replicas=replicas, rank=rank, **options)
            parts.append(_batches(sampler, 2))
            assert len(parts[-1]) == len(sampler) == 20 // replicas
            assert (_counts(sampler, parts[-1]) == 2).all()
        together = np.stack(parts, 1).reshape(-1, 8)
        assert (together == whole[: len(together)]).all()


def test_blocks_of_the_sequence_do_not_show():
    whole = _batches(BalancedBatchSampler([0, 1, 2], 30_000, num_samples=210_000))
    parts = [
        _batches(BalancedBatchSampler([0, 1, 2], 30_000, num_samples=210_000, num_replicas=3, rank=rank))
        for rank in range(3)
    ]
    assert (np.stack(parts, 1).reshape(-1, 30_000) == whole[:6]).all()


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("taken", [0, 1, 9, 20])
def test_a_saved_place_is_gone_on_from(replacement, taken):
    options = {"batch_size": 8, "replacement": replacement, "num_samples": 160}
    sampler, resumed = (BalancedBatchSampler(LABELS, **options) for _ in range(2))
    whole = _batches(sampler, 4).tolist()
    sampler.set_epoch(4)
    batches = iter(sampler)
    for _ in range(taken):
        next(batches)
    state = json.loads(json.dumps(sampler.state_dict()))
    assert state == sampler.state_dict(position=taken)
    resumed.load_state_dict(state)
    if taken < 20:
        assert list(resumed) == whole[taken:]
    assert list(resumed) == _batches(sampler, 5).tolist()
    with pytest.raises(CheckpointError, match="batch_size 8, this one has 4"):
        BalancedBatchSampler(LABELS, **options | {"batch_size": 4}).load_state_dict(state)


def test_a_loader_takes_it_as_it_is():
    sampler = BalancedBatchSampler(LABELS, 8, num_samples=80)
    loader = DataLoader(range(len(LABELS)), batch_sampler=pickle.loads(pickle.dumps(sampler)))
    assert [batch.tolist() for batch in loader] == list(sampler)
    assert len(loader) == 10


def test_processes_can_be_taken_from_another_sampler():
    """What Lightning passes when it makes the loader anew for several devices."""
    theirs = DistributedSampler(range(10), num_replicas=2, rank=1)
    ours = BalancedBatchSampler(LABELS, 8, num_replicas=2, rank=1)
    given = BalancedBatchSampler(LABELS, 8, sampler=theirs)
    assert _batches(given).tolist() == _batches(ours).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LABELS, 0), "batch_size must be a whole number >= 1"),
        ((LABELS, 2000), "batch_size=2000 is more than the 1300 samples"),
        ((DistributedSampler(range(3), num_replicas=1, rank=0), 8), "make the DataLoader in train_dataloader"),
    ],
    ids=["size 0", "size above the epoch", "made anew"],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        BalancedBatchSampler(*arguments)


def test_too_large_a_batch_without_replacement_and_several_classes_are_named():
    with pytest.raises(ConfigurationError, match="or set replacement=True"):
        BalancedBatchSampler(LABELS, 200, replacement=False)
    with pytest.raises(ConfigurationError, match="one class per example"):
        BalancedBatchSampler([[0, 1], [1, 1]], 2, weighting="repeat_factor")
