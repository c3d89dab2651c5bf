"""The parts of training in several processes that one process can test, and what is refused."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from lightning_privacy._lightning import DDPStrategy, SingleDeviceStrategy, pl
from lightning_privacy.accounting import GaussianRelease
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks import _trainer_loader as loading
from lightning_privacy.callbacks._agreement import fingerprint
from lightning_privacy.callbacks._handover import Address, Parcel
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks._strategy_support import check_strategy
from lightning_privacy.callbacks._train_loader import examine, undivided
from lightning_privacy.errors import UnsupportedError


class Averaging(DDPStrategy):
    """A strategy of somebody's own."""


def made(kind: type, **attributes: Any) -> Any:
    """An instance of a strategy whose constructor wants a machine or package that is not here."""
    strategy = object.__new__(kind)
    vars(strategy).update(attributes)
    return SimpleNamespace(strategy=strategy, world_size=2)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (pl.strategies.FSDPStrategy, r"FSDPStrategy with 2 process\(es\).*shards.*strategy='ddp'"),
        (pl.strategies.ModelParallelStrategy, "ModelParallelStrategy.*shards.*strategy='ddp'"),
        (pl.strategies.DeepSpeedStrategy, "DeepSpeedStrategy.*engine of its own.*strategy='ddp'"),
        (pl.strategies.XLAStrategy, "XLAStrategy.*XLA defers.*strategy='ddp'"),
        (pl.strategies.SingleDeviceXLAStrategy, "SingleDeviceXLAStrategy.*XLA defers.*devices=1"),
        (Averaging, "Averaging.*may average weights or gradients.*strategy='ddp'"),
        (SingleDeviceStrategy, r"SingleDeviceStrategy with 2 process\(es\)"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_p28_strategies_that_are_not_ddp_are_refused_by_name(kind: type, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        check_strategy(made(kind, _layer_sync=None))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"model_averaging_period": 4}, r"DDPStrategy\(model_averaging_period=4\).*Remove model_averaging_period"),
        ({"ddp_comm_hook": fp16_compress_hook}, r"ddp_comm_hook=fp16_compress_hook.*Remove ddp_comm_hook"),
        ({"ddp_comm_state": "local sgd"}, "ddp_comm_state='local sgd'.*Remove ddp_comm_state"),
        ({"ddp_comm_wrapper": fp16_compress_hook}, "ddp_comm_wrapper=.*Remove ddp_comm_wrapper"),
    ],
)
def test_p28_options_of_ddp_that_change_the_exchange_are_refused(option: dict[str, Any], words: str) -> None:
    check_strategy(SimpleNamespace(strategy=DDPStrategy(static_graph=True), world_size=2))
    with pytest.raises(UnsupportedError, match=words):
        check_strategy(SimpleNamespace(strategy=DDPStrategy(**option), world_size=2))


def test_p03_batch_norm_over_all_processes_is_refused(tiny: Any) -> None:
    module = tiny.Module()
    trainer = tiny.trainer(
        strategy="ddp", sync_batchnorm=True, callbacks=[DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)]
    )
    try:
        with pytest.raises(UnsupportedError, match=r"sync_batchnorm=True.*GroupNorm"):
            trainer.fit(module, tiny.loader(24))
    finally:
        torch.distributed.destroy_process_group()
    assert module.seen == []


# The loader of the user


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_distributed_sampler_is_taken_for_the_whole_set(tiny: Any, shuffle: bool, drop_last: bool) -> None:
    data = tiny.dataset(21)
    loader = DataLoader(data, 4, sampler=DistributedSampler(data, 2, 1, shuffle=shuffle), drop_last=drop_last)
    whole = undivided(loader, processes=2)
    assert len(whole) == len(DataLoader(data, 4, drop_last=drop_last))
    assert type(whole.sampler) is (RandomSampler if shuffle else SequentialSampler)
    assert sorted(index for batch in whole.batch_sampler for index in batch)[:4] == [0, 1, 2, 3] or shuffle
    assert examine(whole, accumulate=1).num_examples == 21
    assert isinstance(loader.sampler, DistributedSampler)
    assert len(loader) < len(whole)


def test_other_samplers_are_left_to_be_refused(tiny: Any) -> None:
    data, other = tiny.dataset(21), tiny.dataset(10)
    loaders = [
        DataLoader(data, 4, sampler=DistributedSampler(data, 4, 1)),  # other processes hold the rest
        DataLoader(data, 4, sampler=DistributedSampler(other, 2, 1)),
        DataLoader(data, 4, sampler=SubsetRandomSampler(range(21))),
        DataLoader(data, batch_sampler=BatchSampler(DistributedSampler(data, 2, 0), 4, False), batch_size=1),
    ]
    for loader in loaders:
        assert undivided(loader, processes=2) is loader
        with pytest.raises(UnsupportedError):
            examine(loader, accumulate=1)
    assert undivided([loaders[0]], processes=2) == [loaders[0]]


class Held(Dataset[Any]):
    """Keeps its examples in arrays, as MNIST does."""

    def __init__(self, order: Any, array: bool) -> None:
        values = torch.arange(200.0)[order]
        self.data = values.numpy() if array else values
        self.labels = [int(value) for value in values]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an example was fetched")


@pytest.mark.parametrize("array", [True, False])
def test_p19_fingerprint_tells_order_and_choice(array: bool) -> None:
    order = torch.arange(200)
    turned = torch.from_numpy(np.random.default_rng(0).permutation(200))
    same, again, other = Held(order, array), Held(order.clone(), array), Held(turned, array)
    assert fingerprint(same) == fingerprint(again) != fingerprint(other)
    assert fingerprint(Subset(same, range(20))) == fingerprint(Subset(again, list(range(20))))
    assert fingerprint(Subset(same, range(20))) != fingerprint(Subset(same, range(1, 21)))
    assert fingerprint(Subset(same, range(20))) != fingerprint(Subset(other, range(20)))
    assert fingerprint(ConcatDataset([same, other])) != fingerprint(ConcatDataset([other, same]))
    assert fingerprint(TensorDataset(order)) != fingerprint(TensorDataset(turned))


# What Lightning does to train loaders, and how it is kept from it


def test_shield_keeps_train_loaders_whole_and_is_lifted(tiny: Any) -> None:
    trainer = tiny.trainer(strategy="ddp")
    loader, source = tiny.loader(24), trainer.fit_loop._data_source
    source.instance = loader
    seen: list[Any] = []
    shield = loading.shield_train_loader(trainer, lambda given: seen.append(given) or given)
    assert not trainer._accelerator_connector.use_distributed_sampler
    assert not trainer._data_connector._requires_distributed_sampler(loader)
    assert loading.request_train_loader(trainer) is loader
    assert seen == [loader]
    loading.lift_shield(trainer, shield)
    assert trainer._accelerator_connector.use_distributed_sampler
    assert trainer._data_connector._requires_distributed_sampler(loader)
    assert source.dataloader() is loader
    assert seen == [loader]


def test_a_fit_that_fails_early_lifts_the_shield(tiny: Any) -> None:
    module = tiny.Module()
    module.configure_optimizers = lambda: 1 / 0
    trainer = tiny.trainer(callbacks=[DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)])
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, tiny.loader(24))
    assert trainer._accelerator_connector.use_distributed_sampler
    assert "dataloader" not in vars(trainer.fit_loop._data_source)


# What was spent, back in the program that started the processes


class Account:
    def __init__(self) -> None:
        self.spent = 0
        self.address = Address(self.receive)

    def receive(self, state: dict[str, Any]) -> None:
        self.spent = state["spent"]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.address.moved(self.receive)


def send(number: str, spent: int) -> None:
    pickle.loads(pickle.dumps(Parcel(number, {"spent": spent})))


def test_p26_parcels_reach_the_object_and_not_its_copies() -> None:
    original = Account()
    duplicate = copy.deepcopy(original)
    send(original.address.number, 3)
    assert (original.spent, duplicate.spent) == (3, 0)
    send(duplicate.address.number, 5)
    assert (original.spent, duplicate.spent) == (3, 5)
    number = original.address.number
    del original
    with pytest.warns(UserWarning, match="sent back what it has spent.*last checkpoint"):
        send(number, 7)


def test_p26_a_callback_takes_over_what_its_processes_spent() -> None:
    there, here = (DifferentialPrivacy(delta=0.01, noise_multiplier=1.0) for _ in range(2))
    there.ledger.charge(GaussianRelease(4.0), 3)
    pickle.loads(pickle.dumps(Parcel(here._address.number, there.state_dict())))
    assert here.ledger.history == there.ledger.history


def test_gradients_of_public_parts_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(1.0))  # the other has ones
    first, second, third = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (3,), (1,)))
    first.grad, third.grad = torch.full((2, 2), 3.0), torch.zeros(1)
    held = first.grad
    Processes(count=2, rank=0).average_gradients([first, second, third])
    assert first.grad is held
    assert first.grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert second.grad is not None
    assert second.grad.tolist() == [0.5] * 3
    assert third.grad.tolist() == [0.5]
    Processes(count=1, rank=0).average_gradients([first])
    assert first.grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]
