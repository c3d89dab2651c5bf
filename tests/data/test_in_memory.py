"""A gathered batch is the batch the examples one by one would make."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Subset, default_collate

from lightning_privacy.data import InMemoryDataset
from lightning_privacy.data.in_memory import collate
from lightning_privacy.errors import ConfigurationError


@pytest.fixture
def dataset():
    return InMemoryDataset(torch.arange(20.0).reshape(10, 2), torch.arange(10))


@pytest.mark.parametrize("indices", [[0], [3, 1, 1], [9, 0, 5, 2]])
def test_a_batch_equals_its_examples(dataset, indices):
    gathered = collate(dataset.__getitems__(indices))
    one_by_one = default_collate([dataset[index] for index in indices])
    assert len(gathered) == len(one_by_one) == 2
    for left, right in zip(gathered, one_by_one, strict=True):
        assert torch.equal(left, right)


def test_examples_one_by_one_can_be_collated_too(dataset):
    """What wraps a data set may ask for single examples and keep the collate function."""
    inputs, labels = collate([dataset[4], dataset[2]])
    assert labels.tolist() == [4, 2]
    assert inputs.tolist() == [[8.0, 9.0], [4.0, 5.0]]


def test_a_gathered_batch_is_a_sequence_of_its_examples(dataset):
    """As torch says of ``__getitems__``: whoever asks for several may look at them one by one."""
    batch = dataset.__getitems__([4, 2])
    assert len(batch) == 2
    assert [int(label) for _, label in batch] == [4, 2]
    assert batch[1][0].tolist() == [4.0, 5.0]


def test_a_loader_and_a_subset_give_every_example_once(dataset):
    for source, expected in ((dataset, range(10)), (Subset(dataset, [7, 3, 5]), [3, 5, 7])):
        loader = DataLoader(source, batch_size=4, shuffle=True, collate_fn=collate)
        assert sorted(torch.cat([labels for _, labels in loader]).tolist()) == list(expected)


def test_an_empty_batch_has_the_shape_of_one(dataset):
    inputs, labels = collate(dataset.__getitems__([]))
    assert inputs.shape == (0, 2)
    assert labels.shape == (0,)


@pytest.mark.parametrize("tensors", [(), (torch.zeros(3), torch.zeros(2))])
def test_lengths_that_differ_are_refused(tensors):
    with pytest.raises(ConfigurationError, match="tensors must be given and be of one length"):
        InMemoryDataset(*tensors)
