"""A client's batches: each of its examples once an epoch, as the user's loader would put them together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.federated.batches import GatheredBatches, LoadedBatches, batch_source

OWN = np.array([7, 2, 11, 5, 3, 13, 0])


class Items(Dataset[Any]):
    """The same examples as the tensors below, one by one or a batch at a time."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index), 2.0 * index]), index


class ItemsAtOnce(Items):
    """Where a data set has ``__getitems__`` it is asked for a whole batch."""

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        return [self[index] for index in indices]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return super().__getitem__(index)


def tensors(length: int = 16) -> TensorDataset:
    rows = torch.arange(length)
    return TensorDataset(torch.stack([rows.float(), 2.0 * rows], 1), rows)


def numbers(source: Any, seed: int = 0, own: Any = OWN) -> list[list[int]]:
    found = []
    for inputs, indices in source.epoch(own, torch.Generator().manual_seed(seed)):
        torch.testing.assert_close(inputs, torch.stack([indices.float(), 2.0 * indices], 1))
        found.append(indices.tolist())
    return found


SOURCES = {
    "gathered": lambda **options: DataLoader(tensors(), **options),
    "part": lambda **options: DataLoader(Subset(tensors(20), range(16)), **options),
    "items": lambda **options: DataLoader(Items(16), **options),
    "at once": lambda **options: DataLoader(ItemsAtOnce(16), **options),
    "workers": lambda **options: DataLoader(Items(16), num_workers=1, multiprocessing_context="fork", **options),
}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("kind", SOURCES)
def test_an_epoch_has_each_of_the_client_s_examples_once_in_the_same_random_order(kind):
    source = batch_source(SOURCES[kind](batch_size=3))
    found = numbers(source)
    assert [len(batch) for batch in found] == [3, 3, 1]
    assert sorted(index for batch in found for index in batch) == sorted(OWN)
    # However they are read, the order is that of the generator.
    assert found == numbers(batch_source(SOURCES["gathered"](batch_size=3)))
    assert numbers(source, seed=1) != found
    assert source.count(len(OWN)) == 3


def test_tensors_are_gathered_only_where_that_is_what_the_loader_does():
    assert isinstance(batch_source(SOURCES["gathered"](batch_size=2)), GatheredBatches)
    assert isinstance(batch_source(SOURCES["part"](batch_size=2)), GatheredBatches)

    class Doubled(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            return tuple(2 * part for part in super().__getitem__(index))

    doubled = batch_source(DataLoader(Doubled(torch.arange(4)), batch_size=4))
    assert isinstance(doubled, LoadedBatches)
    ((batch,),) = doubled.epoch(np.arange(4), torch.Generator())
    assert sorted(batch.tolist()) == [0, 2, 4, 6]
    own = batch_source(DataLoader(tensors(), batch_size=4, collate_fn=len))
    assert isinstance(own, LoadedBatches)
    assert list(own.epoch(OWN, torch.Generator())) == [4, 3]


@pytest.mark.parametrize("kind", ["gathered", "items"])
@pytest.mark.parametrize(("held", "sizes"), [(7, [3, 3]), (6, [3, 3]), (3, [3]), (2, [2]), (1, [1])])
def test_a_smaller_last_batch_is_dropped_but_never_the_only_one(kind, held, sizes):
    source = batch_source(SOURCES[kind](batch_size=3, drop_last=True))
    assert [len(batch) for batch in numbers(source, own=OWN[:held])] == sizes
    assert source.count(held) == len(sizes)


@pytest.mark.parametrize("kind", ["gathered", "items", "at once"])
def test_batches_that_somebody_else_chose_come_as_chosen(kind):
    source = batch_source(SOURCES[kind](batch_size=3))
    chosen = [torch.tensor([4, 4, 1]), torch.tensor([9])]
    assert [indices.tolist() for _, indices in source.batches(chosen)] == [[4, 4, 1], [9]]


def test_examples_that_are_gathered_are_copies():
    data = tensors()
    (batch, *_) = batch_source(DataLoader(data, batch_size=7)).epoch(OWN, torch.Generator())
    batch[0].zero_()
    assert torch.equal(data.tensors[0], tensors().tensors[0])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(range(3))


@pytest.mark.parametrize(
    ("loader", "said"),
    [([DataLoader(Items(3))], "got list"), (DataLoader(Stream()), "Stream has no length")],
    ids=["several", "stream"],
)
def test_examples_that_cannot_be_shared_out_are_refused(loader, said):
    with pytest.raises(UnsupportedError, match=said):
        batch_source(loader)
