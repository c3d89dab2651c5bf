"""What stands behind a data set is found, however it is put around."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

from lightning_privacy.data.augmentation.batches import KeyedDataset
from lightning_privacy.data.nested import is_resampled, nested
from lightning_privacy.sampling import BalancedSampler, ResampledDataset

PEOPLE = TensorDataset(torch.arange(6.0), torch.tensor([0, 1] * 3))
RESAMPLED = ResampledDataset(PEOPLE, BalancedSampler([0, 1] * 3))
WRAPPINGS = {
    "nothing": lambda inner: inner,
    "a subset": lambda inner: Subset(inner, [0, 1]),
    "a part of a sum": lambda inner: ConcatDataset([[1, 2], inner]),
    "a column": lambda inner: StackDataset(inner, inner),
    "a named column": lambda inner: StackDataset(one=inner),
    "a proxy": KeyedDataset,
    "a subset of a proxy of a sum": lambda inner: Subset(KeyedDataset(ConcatDataset([inner])), [0]),
}


@pytest.mark.parametrize("wrapped", WRAPPINGS.values(), ids=WRAPPINGS)
def test_what_is_inside_is_found_once(wrapped):
    found = list(nested(wrapped(PEOPLE)))
    assert sum(each is PEOPLE for each in found) == 1
    assert not is_resampled(wrapped(PEOPLE))


@pytest.mark.parametrize("wrapped", WRAPPINGS.values(), ids=WRAPPINGS)
def test_resampled_examples_are_found(wrapped):
    assert is_resampled(wrapped(RESAMPLED))


def test_a_data_set_that_has_itself_inside_ends():
    class Around(list):
        dataset = property(lambda self: self)

    assert len(list(nested(Around()))) == 1
    assert list(nested(None)) == []


class _Made:
    """Makes what is inside of it whenever it is asked, and keeps nothing of it."""

    def __init__(self, inner, depth):
        self._inner, self._depth = inner, depth

    @property
    def dataset(self):
        return _Made(self._inner, self._depth - 1) if self._depth else self._inner


@pytest.mark.parametrize("depth", range(8))
def test_data_sets_that_are_made_for_the_asking_are_looked_into(depth):
    found = list(nested(_Made(RESAMPLED, depth)))
    assert [type(each) for each in found[: depth + 2]] == [_Made] * (depth + 1) + [ResampledDataset]
    assert is_resampled(_Made(RESAMPLED, depth))
