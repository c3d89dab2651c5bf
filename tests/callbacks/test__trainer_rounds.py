"""Pins each use of a Lightning internal by federated rounds: an upgrade of Lightning that moves one fails here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_privacy._lightning import Callback, LightningDataModule
from lightning_privacy.callbacks import _trainer_rounds as internals


class In(Callback):
    """Calls a function in a hook of the fit and keeps what it returns."""

    def __init__(self, hook: str, look: Any) -> None:
        self.seen: list[Any] = []
        setattr(self, hook, lambda trainer, *args, **kwargs: self.seen.append(look(trainer)))


def looked(tiny: Any, hook: str, look: Any, module: Any = None, data: Any = None, **options: Any) -> list[Any]:
    probe = In(hook, look)
    trainer = tiny.trainer(**({"max_epochs": 1} | options), callbacks=[probe])
    trainer.fit(module or tiny.Module(), data or tiny.loader(8, shuffle=False))
    return probe.seen


def test_the_train_loader_is_replaced_when_it_is_asked_for_and_comes_back(tiny: Any) -> None:
    given, undo = [], []

    class First:
        def __init__(self, loader: Any) -> None:
            self.batches = list(loader)[:1]

        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Any:
            return iter(self.batches)

    def first(loader: Any) -> Any:
        given.append(loader)
        return First(loader)

    loader, module = tiny.loader(8, shuffle=False), tiny.Module()
    probe = In("setup", lambda trainer: undo.append(internals.replace_train_loader(trainer, first)))
    trainer = tiny.trainer(max_epochs=1, callbacks=[probe])
    trainer.fit(module, loader)
    assert given
    assert all(each is loader for each in given)
    assert module.seen == [[0, 1, 2, 3]]
    undo[0]()
    assert trainer.fit_loop._data_source.dataloader() is loader


def test_batches_of_one_type_are_kept_from_transfer_hooks(tiny: Any) -> None:
    class Round(list):  # type: ignore[type-arg]
        pass

    class Module(tiny.Module):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return "changed"

    found = []

    def look(trainer: Any) -> None:
        module = trainer.lightning_module
        internals.pass_untouched(module, Round)
        kept = Round()
        found.append(module._on_before_batch_transfer(kept) is kept)
        found.append(module._on_before_batch_transfer([1]))
        internals.stop_passing(module)
        found.append(module._on_before_batch_transfer(kept))
        internals.stop_passing(module)
        trainer.should_stop = True

    class Plain(Module):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

    looked(tiny, "on_train_start", look, Plain())
    assert found == [True, "changed", "changed"]


def test_what_is_logged_counts_by_the_size_of_the_batch_that_was_set(tiny: Any) -> None:
    class Module(tiny.Module):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            for size, value in ((1, 4.0), (3, 0.0)):
                internals.set_logged_batch(self.trainer, [torch.zeros(size)])
                self.log("weighed", value, on_epoch=True, on_step=False)
            return self.loss(batch)

    trainer = tiny.trainer(max_epochs=1)
    trainer.fit(Module(), tiny.loader(8))
    assert float(trainer.callback_metrics["weighed"]) == pytest.approx(1.0)


@pytest.mark.parametrize("with_number", [True, False])
def test_whether_a_step_takes_the_number_of_the_batch(tiny: Any, with_number: bool) -> None:
    class Module(tiny.Module):
        def training_step(self, batch: list[Tensor]) -> Tensor:  # type: ignore[override]
            return self.loss(batch)

    module = tiny.Module() if with_number else Module()
    found = looked(tiny, "on_train_start", lambda trainer: internals.takes_batch_number(trainer, ()), module)
    assert found == [with_number]


@pytest.mark.parametrize("where", ["nowhere", "module", "data module"])
@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"])
def test_hooks_around_the_transfer_are_found(tiny: Any, where: str, hook: str) -> None:
    def own(self: Any, batch: Any, *args: Any) -> Any:
        return batch

    class Module(tiny.Module):
        pass

    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return tiny.loader(8)

    if where != "nowhere":
        setattr(Module if where == "module" else Data, hook, own)
    for data in [None] if where == "module" else [Data()]:
        found = looked(
            tiny,
            "on_train_start",
            lambda trainer: internals.transfers_plainly(trainer, trainer.lightning_module),
            Module(),
            data,
        )
        assert found == [where == "nowhere"]


class Logging:
    """Modules that log in several ways, and what another process would know of it."""

    @staticmethod
    def module(tiny: Any, also: Any) -> Any:
        class Module(tiny.Module):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                self.log("shared", 2.0, on_step=True, on_epoch=True, sync_dist=True)
                self.log("own", 3.0, on_step=False, on_epoch=True, sync_dist=False)
                also(self)
                return self.loss(batch)

        return Module()


def test_logged_keys_are_those_of_this_epoch(tiny: Any) -> None:
    def once(module: Any) -> None:
        if module.trainer.current_epoch == 0:
            module.log("first", torch.tensor(1.0, dtype=torch.float64), on_epoch=True, on_step=False, reduce_fx="max")

    keys = looked(
        tiny, "on_train_batch_end", lambda t: internals.logged_keys(t), Logging.module(tiny, once), max_epochs=2
    )
    by_name = [{name: (fx, dtype, options) for fx, name, dtype, options in each} for each in keys]
    assert by_name[0].keys() == {"shared", "own", "first"}
    assert by_name[-1].keys() == {"shared", "own"}
    fx, dtype, options = by_name[0]["first"]
    assert (fx, dtype) == ("training_step", torch.float64)
    assert options["reduce_fx"] is torch.max
    # Lightning notes sync_dist where there are several processes only: test_federated_processes.py has both kinds.
    assert not options["sync_dist"]
    assert (by_name[0]["shared"][2]["on_step"], by_name[0]["own"][2]["on_step"]) == (True, False)


@pytest.mark.parametrize("reduce_fx", ["mean", "sum", "min", "max"])
def test_a_process_without_a_client_logs_the_same_names_and_changes_no_value(tiny: Any, reduce_fx: str) -> None:
    """What one fit logged is told to another that logged less: the names agree, and its own values stay."""

    def more(module: Any) -> None:
        module.log("more", 7.0, on_step=False, on_epoch=True, reduce_fx=reduce_fx, sync_dist=True)

    theirs = looked(
        tiny, "on_train_batch_end", lambda t: internals.logged_keys(t), Logging.module(tiny, more), max_epochs=1
    )[-1]
    orders = []

    def align(trainer: Any) -> None:
        mine = internals.logged_keys(trainer)
        internals.log_alike(trainer, theirs + mine)
        orders.append([name for _, name, _, _ in internals.logged_keys(trainer)])

    probe = In("on_train_batch_end", align)
    trainer = tiny.trainer(max_epochs=1, callbacks=[probe])
    trainer.fit(Logging.module(tiny, lambda module: None), tiny.loader(8))
    assert orders == [sorted(["shared", "own", "more"])] * 2
    found = trainer.callback_metrics
    assert {"shared_epoch", "own", "more"} <= found.keys()
    assert (float(found["shared_epoch"]), float(found["own"])) == (2.0, 3.0)
    if reduce_fx in ("sum", "min", "max"):
        # The neutral element: it changes nothing in a reduction with a process that logged a value.
        assert float(found["more"]) == {"sum": 0.0, "min": float("inf"), "max": float("-inf")}[reduce_fx]
