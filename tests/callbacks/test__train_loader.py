from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_privacy.callbacks._balance import wanted_balance
from lightning_privacy.callbacks._train_loader import examine, sampler_of, undivided, with_batch_sampler
from lightning_privacy.callbacks.private_balance import PrivateBalance
from lightning_privacy.data.augmentation.batches import keyed_loader
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.sampling import BalancedBatchSampler, BalancedSampler, ResumableDataLoader, resample

DATA = TensorDataset(torch.arange(10.0))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(range(3))


class Unsized(Dataset[Any]):
    def __getitem__(self, index: int) -> int:
        return index


class OwnIteration(DataLoader[Any]):
    def __iter__(self) -> Any:
        return super().__iter__()


class OwnDefaults(DataLoader[Any]):
    def __init__(self, dataset: Dataset[Any]) -> None:
        super().__init__(dataset, batch_size=5)


@pytest.mark.parametrize("loader", [DataLoader(DATA, 3), DataLoader(DATA, 3, shuffle=True), OwnDefaults(DATA)])
def test_p12_sample_rate_is_exact(loader: DataLoader[Any]) -> None:
    facts = examine(loader, accumulate=2)
    assert facts.num_examples == 10
    assert facts.expected_batch_size == 2 * (loader.batch_size or 0)
    assert facts.sample_rate == facts.expected_batch_size / 10
    assert facts.loader_batches == len(loader)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (DataLoader(Stream(), 2), "Stream is iterable"),
        (DataLoader(Unsized(), sampler=range(3), batch_size=2), "Unsized has no length"),
        (DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 2, False)), "batch_sampler"),
        (DataLoader(DATA, batch_sampler=[[0, 1], [2]]), "batch_sampler"),
        (DataLoader(DATA, batch_size=None), "batch_size=None"),
        (OwnIteration(DATA, 2), "OwnIteration overrides DataLoader.__iter__"),
        ([DataLoader(DATA, 2), DataLoader(DATA, 2)], "got list"),
        ({"a": DataLoader(DATA, 2)}, "got dict"),
        ([1, 2, 3], "one torch DataLoader"),
        (None, "got NoneType"),
    ],
)
def test_p20_loader_that_has_no_sample_rate_is_refused(loader: object, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        examine(loader, accumulate=1)


@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler(DATA, replacement=True),
        RandomSampler(DATA, num_samples=5),
        SubsetRandomSampler(range(5)),
        DistributedSampler(DATA, num_replicas=2, rank=0),
    ],
)
def test_p15_sampler_with_a_choice_of_its_own_is_refused(sampler: Any) -> None:
    with pytest.raises(UnsupportedError, match=rf"sampler {type(sampler).__name__}.*shuffle=True"):
        examine(DataLoader(DATA, 2, sampler=sampler), accumulate=1)


@pytest.mark.parametrize(
    "sampler", [WeightedRandomSampler([1.0] * 10, 10), BalancedSampler([0] * 6 + [1] * 4)], ids=["torch", "own"]
)
def test_p15_what_a_balancing_sampler_asks_for_is_not_lost(sampler: Any) -> None:
    loader = DataLoader(DATA, 2, sampler=sampler)
    assert examine(loader, accumulate=1).loader_batches == 5
    assert sampler_of(loader) is sampler
    wanted = wanted_balance(sampler, PrivateBalance(public_counts=True), num_examples=10)
    assert wanted is not None
    assert len(wanted.cells) == 10


@pytest.mark.parametrize(
    "hidden",
    [
        lambda drawn: DataLoader(drawn, 2),
        lambda drawn: DataLoader(Subset(drawn, range(4)), 2),
        lambda drawn: DataLoader(ConcatDataset([DATA, drawn]), 2),
        lambda drawn: keyed_loader(DataLoader(drawn, 2)),
        lambda drawn: keyed_loader(DataLoader(ConcatDataset([DATA, Subset(drawn, range(4))]), 2)),
    ],
    ids=["itself", "subset", "joined", "augmented", "all of it"],
)
def test_p15_a_resampled_data_set_is_refused_wherever_it_stands(hidden: Any) -> None:
    with pytest.raises(UnsupportedError, match="is resampled"):
        examine(hidden(resample(DATA, [0] * 6 + [1] * 4)), accumulate=1)


def test_a_resumable_loader_is_sampled_privately_as_others_and_batches_of_exact_shares_are_refused() -> None:
    labels = [0] * 6 + [1] * 4
    assert examine(ResumableDataLoader(DATA, 2, sampler=BalancedSampler(labels)), accumulate=1).loader_batches == 5
    with pytest.raises(UnsupportedError, match=r"BalancedBatchSampler.*sampler=BalancedSampler"):
        examine(DataLoader(DATA, batch_sampler=BalancedBatchSampler(labels, 2)), accumulate=1)


@pytest.mark.parametrize("processes", [1, 3])
def test_p19_a_balanced_epoch_counts_as_a_whole_whatever_the_processes(processes: int) -> None:
    sampler = BalancedSampler([0] * 6 + [1] * 4, num_replicas=processes, rank=0)
    loader = undivided(DataLoader(DATA, 2, sampler=sampler), processes=processes)
    assert len(loader) == 5
    assert sampler_of(loader) is sampler
    assert examine(loader, accumulate=1).loader_batches == 5


def test_empty_data_set_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        examine(DataLoader(Subset(DATA, []), 2), accumulate=1)


def test_data_set_smaller_than_a_step_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"10 examples.*batch of 12 .batch_size=4 times .*=3"):
        examine(DataLoader(DATA, 4), accumulate=3)
    assert examine(DataLoader(DATA, 5), accumulate=2).sample_rate == 1.0


def double(items: list[Any]) -> Any:
    return torch.stack([item[0] for item in items]) * 2


def mark_worker(worker_id: int) -> None:
    np.random.seed(worker_id)


def test_everything_but_the_batches_is_kept() -> None:
    generator = torch.Generator()
    loader = DataLoader(
        DATA, 4, num_workers=1, collate_fn=double, timeout=7, worker_init_fn=mark_worker, generator=generator,
        prefetch_factor=3, persistent_workers=True, multiprocessing_context="fork", in_order=False, drop_last=True,
    )  # fmt: skip
    batches = BatchSampler(SequentialSampler(DATA), 2, False)
    private = with_batch_sampler(loader, batches)
    for name in (
        "dataset", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "generator",
        "prefetch_factor", "persistent_workers", "in_order",
    ):  # fmt: skip
        assert getattr(private, name) is getattr(loader, name), name
    assert private.multiprocessing_context.get_start_method() == "fork"
    assert private.batch_sampler is batches
    plain = with_batch_sampler(DataLoader(DATA, 4, pin_memory=True), batches)
    assert plain.pin_memory
    assert plain.num_workers == 0
