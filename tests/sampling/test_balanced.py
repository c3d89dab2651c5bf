"""BalancedSampler: shares as asked, one sequence for any number of processes, and an exact place in it.

Statistical checks run on fixed seeds, so their outcome is fixed; ``ERROR`` is the probability with which one named
check would fail for a fresh seed.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.sampling import BalancedSampler
from lightning_privacy.sampling.weighting import cell_shares

ERROR = 1e-6
LABELS = np.repeat([0, 1, 2], [700, 250, 50])
GROUPS = np.arange(1000) % 3


def _drawn(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return np.array(list(sampler))


def _chi_square(observed, expected):
    """The check whose probability of failing is ERROR."""
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > ERROR


@pytest.mark.parametrize("weighting", ["inverse", "sqrt", "effective_number"])
@pytest.mark.parametrize("balance", ["class", "group", "class*group"])
def test_classes_and_groups_come_as_often_as_asked(balance, weighting):
    groups = None if balance == "class" else GROUPS
    sampler = BalancedSampler(LABELS, groups=groups, balance=balance, weighting=weighting, num_samples=200_000)
    np.testing.assert_allclose(sampler.shares, cell_shares(sampler.counts, weighting))
    drawn = _drawn(sampler)
    _chi_square(np.bincount(sampler.cells[drawn]), sampler.shares)
    # Within a cell no example is preferred.
    _chi_square(np.bincount(drawn, minlength=1000), (sampler.shares / sampler.counts)[sampler.cells])


def test_shares_at_ten_million():
    """Ten long-tailed classes, and within them 64 equal parts each, in two chi-square tests of error ERROR.

    The share of a class that is off by 0.1% of itself fails for the smallest of these classes.
    """
    size, classes, parts = 10_000_000, 10, 64
    counts = (size * 2.0 ** -np.arange(1, classes + 1)).astype(np.int64)
    counts[0] += size - counts.sum()
    sampler = BalancedSampler(np.repeat(np.arange(classes, dtype=np.uint8), counts), seed=1)
    assert len(sampler) == size > 2**23
    starts = np.cumsum(counts) - counts
    observed = np.zeros((classes, parts), np.int64)
    for block in sampler._blocks(0, 0):
        cells = np.searchsorted(starts, block, side="right") - 1
        part = (block - starts[cells]) * parts // counts[cells]
        observed += np.bincount(cells * parts + part, minlength=classes * parts).reshape(classes, parts)
    assert observed.sum() == size
    _chi_square(observed.sum(1), np.ones(classes))
    edges = -(-np.arange(parts + 1) * counts[:, None] // parts)
    _chi_square(observed.reshape(-1), (np.diff(edges) / counts[:, None]).reshape(-1))


def test_more_examples_than_float32_can_count():
    """2^24 is where torch's multinomial ends; the last examples must be as likely as the first."""
    size = 2**24 + 5000
    labels = np.zeros(size, np.uint8)
    labels[-5000:] = 1
    sampler = BalancedSampler(labels, num_samples=20_000)
    drawn = _drawn(sampler)
    _chi_square(np.bincount(drawn >= size - 5000), np.ones(2))
    assert np.unique(drawn[drawn >= size - 5000]).size > 4000


@pytest.mark.parametrize(
    "weights",
    [
        np.random.default_rng(0).random(1000) ** 4,
        np.repeat([1.0, 3.0, 0.0, 1e-3], 250),
        2.0 ** -(np.arange(1000) % 40),
        np.full(1000, 7.0),
    ],
    ids=["all different", "few", "powers of two", "all equal"],
)
def test_given_weights_are_the_odds_of_an_example(weights):
    sampler = BalancedSampler(LABELS, weights=weights, num_samples=400_000)
    drawn = np.bincount(_drawn(sampler), minlength=1000)
    assert (drawn[weights == 0] == 0).all()
    np.testing.assert_allclose(sampler.shares, np.bincount(LABELS, weights=weights) / weights.sum())
    expected = weights / weights.sum()
    rare = expected * 400_000 < 20
    observed = np.append(drawn[~rare], drawn[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    _chi_square(observed[expected > 0], expected[expected > 0])


def test_draws_with_replacement_are_independent():
    """Neighbouring draws: all pairs of cells as often as the product of the shares says."""
    sampler = BalancedSampler(LABELS, weighting={0: 0.6, 1: 0.3, 2: 0.1}, num_samples=200_000)
    cells = sampler.cells[_drawn(sampler)]
    pairs = np.bincount(cells[::2] * 3 + cells[1::2], minlength=9)
    _chi_square(pairs, np.outer(sampler.shares, sampler.shares).reshape(-1))


def test_repeat_factors_of_several_classes_per_example():
    """An image with a rare class comes more often; an epoch is as long as the factors add up to."""
    generator = np.random.default_rng(0)
    labels = generator.random((20_000, 3)) < [0.5, 0.2, 0.0002]
    sampler = BalancedSampler(labels, weighting="repeat_factor")
    factor = np.sqrt(0.001 / labels[:, 2].mean())
    assert sampler.weights[labels[:, 2]] == pytest.approx(factor)
    assert len(sampler) == round(np.where(labels[:, 2], factor, 1.0).sum()) > 20_000
    rare = sum(labels[_drawn(sampler, epoch), 2].sum() for epoch in range(50))
    expected = 50 * factor * labels[:, 2].sum()
    assert abs(rare - expected) < 5 * np.sqrt(expected)  # error below 1e-6
    assert sampler.cell_names == ["all"]
    single = BalancedSampler(np.repeat([0, 1], [9999, 1]), weighting="repeat_factor")
    assert len(single) == round(9999 + 0.001**0.5 / 0.0001**0.5)


def test_labels_that_can_be_read_once_only():
    sampler = BalancedSampler((label for label in LABELS), groups=iter(GROUPS), balance="class*group")
    assert len(sampler.counts) == 9


SMALL = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40)


@given(
    SMALL,
    st.sampled_from(["class", "group", "class*group"]),
    st.sampled_from(["inverse", "sqrt", "effective_number", "repeat_factor"]),
    st.booleans(),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_what_holds_for_any_labels(pairs, balance, weighting, replacement, epoch):
    labels, groups = zip(*pairs, strict=True)
    given_groups = None if balance == "class" else groups
    options = {"groups": given_groups, "balance": balance, "replacement": replacement, "weighting": weighting}
    sampler = BalancedSampler(labels, **options)
    keys = [{"class": label, "group": group}.get(balance, (label, group)) for label, group in pairs]
    assert [sampler.cell_names[cell] for cell in sampler.cells] == keys
    assert dict(zip(sampler.cell_names, sampler.counts.tolist(), strict=True)) == Counter(keys)
    assert sampler.shares.sum() == pytest.approx(1)
    drawn = _drawn(sampler, epoch)
    assert len(drawn) == len(sampler) == sampler.num_samples
    assert ((drawn >= 0) & (drawn < len(pairs))).all()
    assert _drawn(BalancedSampler(labels, **options), epoch).tolist() == drawn.tolist()
    if replacement:
        assert len(drawn) == len(pairs)
    else:
        assert len(set(drawn)) == len(drawn)
        got = np.bincount(sampler.cells[drawn], minlength=len(sampler.counts))
        assert (abs(got - sampler.shares * len(drawn)) < 1).all()
        # One more example would be more than a cell has: nothing is wasted.
        with pytest.raises(ConfigurationError, match="without replacement needs"):
            BalancedSampler(labels, num_samples=len(drawn) + len(sampler.counts) + 1, **options)


def test_without_replacement_every_class_is_cut_to_the_scarcest():
    sampler = BalancedSampler(LABELS, replacement=False)
    assert len(sampler) == 150
    seen = set()
    for epoch in range(60):
        drawn = _drawn(sampler, epoch)
        assert len(set(drawn)) == 150
        assert np.bincount(LABELS[drawn]).tolist() == [50, 50, 50]
        seen |= set(drawn.tolist())
    # Each epoch takes other examples; one is left out of all 60 with probability 650/700 each: 1.2% of 700.
    assert len(seen) > 950


def test_without_replacement_a_share_can_be_of_any_size():
    sampler = BalancedSampler(LABELS, replacement=False, weighting={0: 0.9, 1: 0.1, 2: 0}, num_samples=600)
    assert np.bincount(LABELS[_drawn(sampler)], minlength=3).tolist() == [540, 60, 0]
    assert len(BalancedSampler(LABELS, replacement=False, weighting=lambda n: np.ones(3))) == 1000


def test_without_replacement_and_by_weight_the_heavy_come_first():
    """The first of the order in which examples are drawn has the odds of the weights, and none comes twice."""
    weights = np.array([1.0, 2.0, 5.0, 0.0])
    sampler = BalancedSampler(None, weights=weights, replacement=False, num_samples=1)
    first = np.bincount([_drawn(sampler, epoch)[0] for epoch in range(8000)], minlength=4)
    assert first[3] == 0
    _chi_square(first[:3], weights[:3])
    three = BalancedSampler(None, weights=weights, replacement=False, num_samples=3)
    assert {tuple(sorted(_drawn(three, epoch).tolist())) for epoch in range(20)} == {(0, 1, 2)}


@pytest.mark.parametrize(
    "options",
    [{}, {"replacement": False}, {"weights": np.arange(1000.0)}, {"groups": GROUPS, "balance": "class*group"}],
    ids=["with replacement", "without", "weights", "groups"],
)
@pytest.mark.parametrize("num_samples", [None, 148])
def test_p19_any_number_of_processes_shares_one_sequence(options, num_samples):
    whole = _drawn(BalancedSampler(LABELS, num_samples=num_samples, **options), epoch=3)
    for replicas in (2, 4, 3):
        parts = []
        for rank in range(replicas):
            sampler = BalancedSampler(LABELS, num_samples=num_samples, num_replicas=replicas, rank=rank, **options)
            parts.append(_drawn(sampler, epoch=3))
            assert len(sampler) == len(parts[-1]) == len(whole) // replicas
        # Place by place: no example of one process is another's, and together they are the sequence of one.
        together = np.stack(parts, 1).reshape(-1)
        assert together.tolist() == whole[: len(together)].tolist()
        assert len(whole) - len(together) < replicas


def test_blocks_of_the_sequence_do_not_show():
    """Longer than two of the blocks it is drawn in, and divided by numbers that don't divide their length."""
    labels = np.arange(5)
    whole = _drawn(BalancedSampler(labels, num_samples=150_001))
    for replicas in (3, 7):
        parts = [
            _drawn(BalancedSampler(labels, num_samples=150_001, num_replicas=replicas, rank=rank))
            for rank in range(replicas)
        ]
        together = np.stack(parts, 1).reshape(-1)
        assert together.tolist() == whole[: len(together)].tolist()


def test_seed_and_epoch_say_what_is_drawn():
    sampler = BalancedSampler(LABELS)
    first = _drawn(sampler, 0).tolist()
    assert _drawn(sampler, 1).tolist() != first == _drawn(sampler, 0).tolist()
    assert _drawn(BalancedSampler(LABELS, seed=1)).tolist() != first
    torch.manual_seed(3)
    np.random.seed(3)  # the global generators have no part in it
    assert _drawn(BalancedSampler(LABELS)).tolist() == first
    # A loop that never calls set_epoch does not see the same order again.
    loop = BalancedSampler(LABELS)
    assert [list(loop), list(loop)] == [first, _drawn(sampler, 1).tolist()]
    assert loop.epoch == 1


def test_the_process_group_is_looked_up_when_it_is_needed(monkeypatch):
    """A sampler that was made before there was a group must not give every process everything."""
    sampler = BalancedSampler(LABELS)
    assert (sampler.num_replicas, sampler.rank, len(sampler)) == (1, 0, 1000)
    whole = _drawn(sampler)
    for name, value in (("is_initialized", True), ("get_world_size", 4), ("get_rank", 1)):
        monkeypatch.setattr(dist, name, lambda value=value: value)
    assert (sampler.num_replicas, sampler.rank, len(sampler), sampler.total_size) == (4, 1, 250, 1000)
    assert _drawn(sampler).tolist() == whole[1::4].tolist()
    assert len(BalancedSampler(LABELS, num_replicas=1, rank=0)) == 1000
    assert isinstance(sampler, DistributedSampler)


@pytest.mark.parametrize("options", [{}, {"replacement": False}, {"weights": np.arange(1000.0)}], ids=["a", "b", "c"])
@pytest.mark.parametrize("taken", [0, 1, 7, 149, 150])
def test_a_saved_place_is_gone_on_from(options, taken):
    options = options | {"num_samples": 150, "seed": 4}
    sampler, resumed = BalancedSampler(LABELS, **options), BalancedSampler(LABELS, **options)
    whole = _drawn(sampler, 2).tolist()
    sampler.set_epoch(2)
    assert list(islice(sampler, taken)) == whole[:taken]
    assert sampler.position == taken
    state = json.loads(json.dumps(sampler.state_dict()))
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.position) == (2, taken)
    assert resumed.state_dict() == state
    following = _drawn(sampler, 3).tolist()
    if taken < 150:
        assert list(resumed) == whole[taken:]
    assert list(resumed) == following


def test_a_trainer_that_names_the_epoch_again_changes_nothing():
    sampler, resumed = BalancedSampler(LABELS), BalancedSampler(LABELS)
    whole = _drawn(sampler, 2).tolist()
    sampler.set_epoch(2)
    list(islice(sampler, 400))
    for epoch, expected in ((2, whole[400:]), (3, _drawn(BalancedSampler(LABELS), 3).tolist())):
        resumed.load_state_dict(sampler.state_dict())
        waiting = iter(resumed)  # Lightning makes the iterator before it names the epoch
        resumed.set_epoch(epoch)
        assert list(waiting) == expected


def test_a_place_saved_by_four_processes_is_gone_on_from_by_two():
    whole = _drawn(BalancedSampler(LABELS), 1)
    four = BalancedSampler(LABELS, num_replicas=4, rank=2)
    four.set_epoch(1)
    list(islice(four, 100))
    parts = []
    for rank in range(2):
        two = BalancedSampler(LABELS, num_replicas=2, rank=rank)
        two.load_state_dict(four.state_dict())
        parts.append(list(two))
    assert np.stack(parts, 1).reshape(-1).tolist() == whole[400:].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_loader_has_fetched_ahead_is_not_skipped(workers):
    sampler = BalancedSampler(LABELS, num_samples=96)
    loader = DataLoader(range(1000), batch_size=8, sampler=sampler, num_workers=workers)
    whole = _drawn(BalancedSampler(LABELS, num_samples=96)).tolist()
    batches = iter(loader)
    used = [index for _ in range(3) for index in next(batches).tolist()]
    state = sampler.state_dict(position=3 * 8)
    assert sampler.position >= 24
    del batches
    resumed = BalancedSampler(LABELS, num_samples=96)
    resumed.load_state_dict(state)
    assert used + list(resumed) == whole


@pytest.mark.parametrize("change", [{"seed": 1}, {"num_samples": 999}, {"replacement": False}, {"weighting": "sqrt"}])
def test_a_state_of_other_draws_is_refused(change):
    state = BalancedSampler(LABELS, num_samples=150).state_dict()
    other = BalancedSampler(LABELS, **{"num_samples": 150} | change)
    with pytest.raises(CheckpointError, match="resume with the same data and arguments"):
        other.load_state_dict(state)


def test_a_state_of_other_labels_or_none_is_refused():
    sampler = BalancedSampler(LABELS)
    with pytest.raises(CheckpointError, match="checksum of labels"):
        BalancedSampler(LABELS[::-1].copy()).load_state_dict(sampler.state_dict())
    for state in ({}, sampler.state_dict() | {"position": -1}, sampler.state_dict() | {"epoch": None}):
        with pytest.raises(CheckpointError):
            sampler.load_state_dict(state)


def test_a_copy_and_an_unpickled_sampler_draw_the_same():
    sampler = BalancedSampler(LABELS)
    passing = iter(sampler)
    next(passing)
    for other in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert other.position == 1
        assert _drawn(other, 5).tolist() == _drawn(sampler, 5).tolist()


def test_describe_is_plain_and_complete():
    sampler = BalancedSampler(LABELS, groups=GROUPS, balance="class*group", weighting="sqrt")
    described = json.loads(json.dumps(sampler.describe()))
    assert described["cells"]["2*1"]["count"] == sampler.counts[sampler.cell_names.index((2, 1))]
    assert sum(cell["share"] for cell in described["cells"].values()) == pytest.approx(1)
    assert described["weighting"] == "sqrt"
    assert BalancedSampler(LABELS, weights=np.ones(1000)).describe()["weighting"] == "weights"
    assert "3 cells" in repr(BalancedSampler(LABELS))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1, float("nan")], {}, "labels must have a value for each example"),
        (Stream(), {}, "iterable data set Stream"),
        ([0, 1, 1], {"groups": [0, 1], "balance": "group"}, "one length, got 3 labels and 2 groups"),
        ([0, 1, 1], {"weights": [1.0, -1.0, 1.0]}, "finite numbers >= 0, got -1.0"),
        ([0, 1, 1], {"weights": [1.0, 1.0]}, "for each of 3 examples"),
        ([0, 1, 1], {"weighting": {0: 0.4, 1: 0.4, 2: 0.2}}, "for 2, which no example belongs to"),
        ([0, 1, 1], {"replacement": False, "num_samples": 3}, "needs 2 examples of 0, which has 1"),
        ([0, 1, 1], {"replacement": False, "weights": [1, 1, 0], "num_samples": 3}, "at most the 2 examples"),
        ([0, 1, 1], {"replacement": False, "weights": [1, 1, 1]}, "num_samples must be given"),
        ([0, 1, 1], {"replacement": False, "weighting": {0: 0.01, 1: 0.99}}, None),
        ([0, 1, 1], {"weighting": "sqrt", "weights": [1, 1, 1]}, "can't both be given"),
        ([[0, 1], [1, 0]], {"weighting": "repeat_factor", "groups": [0, 1], "balance": "group"}, "several classes"),
        ([0, 1, 1], {"num_samples": 0}, "num_samples must be a whole number >= 1"),
        ([0, 1, 1], {"num_samples": 2.5}, "num_samples must be a whole number >= 1"),
        ([0, 1, 1], {"seed": -1}, "seed must be a whole number >= 0"),
        ([0, 1, 1], {"rank": 0}, "num_replicas and rank must be given together"),
        ([0, 1, 1], {"rank": 2, "num_replicas": 2}, "rank must be below num_replicas=2"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bad_input_is_named(labels, options, message):
    if message is None:
        assert len(BalancedSampler(labels, **options)) == 2
        return
    with pytest.raises(ConfigurationError, match=message):
        BalancedSampler(labels, **options)


def test_too_few_samples_for_all_processes_are_an_error():
    sampler = BalancedSampler([0, 1], num_replicas=4, rank=0)
    with pytest.raises(ConfigurationError, match="leaves nothing for one of 4 processes"):
        len(sampler)
    with pytest.raises(ConfigurationError, match="leaves nothing for one of 4 processes"):
        list(sampler)
    with pytest.raises(ConfigurationError, match="epoch must be a whole number"):
        sampler.set_epoch(-1)
