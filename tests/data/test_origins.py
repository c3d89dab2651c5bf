"""Which data sets have examples in common, seen through what is around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from lightning_privacy.data.augmentation.batches import KeyedDataset
from lightning_privacy.data.origins import repeated, shares_examples


def numbers(size: int = 6) -> TensorDataset:
    return TensorDataset(torch.arange(float(size)))


class Made(Dataset[Any]):
    """Makes the data set behind it for the asking, another one each time."""

    @property
    def dataset(self) -> Any:
        return [object()] * 4

    def __len__(self) -> int:
        return 4


class Endless(IterableDataset[Any]):
    """Says that it has no length when it is asked."""

    def __init__(self, dataset: Any = None) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        raise TypeError("no end")

    def __iter__(self) -> Iterator[Any]:
        return iter(self.dataset)


class Some(Dataset[Any]):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize("size", [6, 2_000_000])
def test_indices_that_do_not_overlap_share_nothing(size: int) -> None:
    places = np.random.default_rng(0).permutation(size)
    data, half = numbers(size), size // 2
    assert not shares_examples(Subset(data, places[:half]), Subset(data, places[half:]))
    assert shares_examples(Subset(data, places[: half + 1]), Subset(data, places[half:]))


@pytest.mark.parametrize("kind", [list, tuple, np.asarray, torch.tensor], ids=["list", "tuple", "numpy", "tensor"])
def test_indices_of_any_kind_are_read(kind: Any) -> None:
    data = list(range(5))
    assert shares_examples(Subset(data, kind([0, 4])), Subset(data, kind([1, -1])))
    assert not shares_examples(Subset(data, kind([0, 4])), Subset(data, kind([1, 3])))


def test_what_stands_behind_proxies_is_found() -> None:
    data = numbers()
    assert shares_examples(KeyedDataset(Subset(KeyedDataset(data), [1])), data)
    assert not shares_examples(KeyedDataset(Subset(KeyedDataset(data), [1])), Subset(data, [2]))


def test_what_has_some_examples_shares_them_with_what_has_all() -> None:
    data = numbers()
    assert shares_examples(Some(data), data)
    assert shares_examples(data, ConcatDataset([numbers(), Some(Some(data))]))
    assert shares_examples(ConcatDataset([Subset(data, [0, 2, 4]), Subset(data, [1, 3, 5])]), Some(data))
    assert not shares_examples(Some(data), Subset(data, [0, 1, 2, 3, 4]))
    assert not shares_examples(Some(data), Some(data))


def test_data_sets_without_a_length_or_examples_are_taken() -> None:
    data = numbers()
    assert not shares_examples(Endless(), data)
    assert shares_examples(Endless(data), data)
    assert not shares_examples(Subset(data, []), data)
    assert not shares_examples(TensorDataset(torch.empty(4, 0)), TensorDataset(torch.empty(4, 0)))


def test_data_sets_that_are_made_for_the_asking_are_not_one() -> None:
    assert not any(shares_examples(Made(), Made()) for _ in range(20))


def test_tensors_without_a_place_for_each_example_are_told_apart_by_their_data_set() -> None:
    sparse = torch.eye(4).to_sparse()
    data, others = TensorDataset(sparse), TensorDataset(torch.zeros(1).expand(4))
    assert shares_examples(data, Subset(data, [1]))
    assert not shares_examples(data, TensorDataset(sparse.clone()))
    assert not shares_examples(Subset(others, [0]), Subset(others, [1]))
    assert repeated(ConcatDataset([data, data]), label=0) == 4
