"""Trials of the independence probe: which example is replaced, by what, and in which batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_privacy.gradients.probe_examples import lengths_differ
from lightning_privacy.gradients.probe_trials import Trial, hard_trials, large_trial, trials


def data(count: int = 8, size: int = 4) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(size, generator=generator), number % 3) for number in range(count)]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_trial_replaces_one_example_and_leaves_the_others(place: int) -> None:
    batch = tuple(object() for _ in range(4))
    other = object()
    expected = list(batch)
    expected[place] = other
    assert list(Trial(batch, other, place).replaced) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_pool_gives_as_many_trials_as_are_asked_for(count: int) -> None:
    pool = data(count)
    found = trials(pool, 11)
    assert len(found) == 11
    for trial in found:
        assert len(trial.batch) == 4
        assert all(any(item is one for one in pool) for item in trial.batch)
        assert not trial.made
    again = next(number for number, trial in enumerate(found[1:], 1) if trial is found[0]) if count < 8 else 11
    assert all(found[number] is found[number % again] for number in range(11)), "not from the first again"


def test_replacements_keep_to_the_range_and_differ_in_class_first() -> None:
    pool = [(torch.rand(3), number % 2) for number in range(8)]
    values = torch.stack([x for x, _ in pool])
    made = trials(pool, 10)
    assert len(made) == 10
    assert made[0].replacement[1] != made[0].batch[0][1]
    for trial in made:
        assert values.min() <= trial.replacement[0].min()
        assert trial.replacement[0].max() <= values.max()
        kept = [one is two for one, two in zip(trial.replaced, trial.batch, strict=True)]
        assert kept == [number != trial.place for number in range(4)]


def test_replacements_leave_the_padded_length_as_it_is() -> None:
    pool = [torch.arange(length) for length in (2, 5, 3, 7, 4, 7, 2, 6)]
    assert lengths_differ(pool)
    lengths = set()
    for trial in trials(pool, 10):
        assert max(map(len, trial.replaced)) == max(map(len, trial.batch)) == 7
        lengths.add(len(trial.replacement))
    assert len(lengths) > 1


def test_one_example_is_enough_for_a_trial() -> None:
    (trial, *_) = trials([(torch.ones(2), 1)], 3)
    assert len(trial.batch) == 4


def test_p03_made_trials_hold_pairs_other_labels_and_extremes() -> None:
    pairs = [trial for trial in hard_trials(data()) if trial.place]
    assert [trial.place for trial in pairs] == [1, 2]
    for trial in pairs:
        labels = [y for _, y in trial.batch]
        assert trial.replacement[1] == labels[trial.place] == labels[0]
        assert not torch.equal(trial.replacement[0], trial.batch[trial.place][0])
    of_one = [(torch.tensor([float(number), 0.5]), torch.tensor([0, number % 2])) for number in range(6)]
    made = [trial for trial in hard_trials(of_one) if not trial.place]
    assert made[0].replacement[1].tolist() == [1, made[0].batch[0][1][1]]
    assert made[1].replacement[0].isnan().all()
    assert made[2].replacement[0].tolist() == [5e4, 5e4]
    assert next(trial.replacement[1] for trial in hard_trials([(torch.rand(2), 1)] * 3) if not trial.place) == 0


def test_a_large_trial_has_more_of_the_examples_around_the_same_one() -> None:
    pool = data(8)
    small = trials(pool, 2)[1]
    large = large_trial(small, pool, 9)
    assert (len(large.batch), large.batch[:4], large.place, large.made) == (9, small.batch, small.place, True)
    assert large.replaced[: len(small.batch)] == small.replaced
    # The one that is replaced, and its replacement, are there once: no other row may change with them.
    assert sum(item is small.batch[small.place] for item in large.batch) == 1
    assert not any(item is small.replacement for item in large.batch)
    assert len({id(item) for item in large.batch}) == 7
    assert large_trial(small, pool, 4).batch == small.batch


def test_a_large_trial_keeps_to_the_length_of_its_batch() -> None:
    pool = [torch.ones(length) for length in (2, 3, 9, 4, 5, 6)]
    small = Trial((pool[0], pool[1], pool[3], pool[4]), pool[5], place=0)
    large = large_trial(small, pool, 9)
    assert {len(item) for item in large.batch[4:]} == {3, 4, 5}
