"""Pins each use of a Lightning internal: an upgrade of Lightning that moves one fails here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from lightning_privacy._lightning import LIGHTNING_VERSION, Callback
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.callbacks import _trainer_loader as loading


class Probe(Callback):
    """Calls a function in a hook and keeps what it returns."""

    def __init__(self, hook: str, look: Any) -> None:
        self.seen: list[Any] = []
        setattr(self, hook, lambda trainer, *args, **kwargs: self.seen.append(look(trainer)))


def probed(tiny: Any, hook: str, look: Any, **options: Any) -> list[Any]:
    probe = Probe(hook, look)
    arguments = options.pop("fit", {})
    module = options.pop("module", None) or tiny.Module()
    tiny.trainer(**({"max_epochs": 2} | options), callbacks=[probe]).fit(module, tiny.loader(24), **arguments)
    return probe.seen


def test_version_is_one_the_internals_were_read_in() -> None:
    assert LIGHTNING_VERSION.startswith("2.6.")


@pytest.mark.parametrize(
    ("options", "batches"),
    [({}, 6), ({"limit_train_batches": 4}, 4), ({"limit_train_batches": 0.5}, 3), ({"limit_train_batches": 0}, 0)],
)
@pytest.mark.parametrize("early", [False, True])
def test_loader_batches_are_counted_as_lightning_does(
    tiny: Any, options: dict[str, Any], batches: int, early: bool
) -> None:
    module = tiny.Module()
    if not early:  # reading estimated_stepping_batches sets up the data before on_fit_start
        module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1)
    counted = probed(
        tiny, "on_fit_start", lambda trainer: loading.count_loader_batches(trainer, 6), module=module, **options
    )
    assert counted == [batches]


def test_interval_out_of_range_is_still_refused_in_the_users_numbers(tiny: Any) -> None:
    with pytest.raises(ValueError, match=r"`val_check_interval` \(7\).*training batches \(6\)"):
        probed(
            tiny,
            "on_fit_start",
            lambda trainer: loading.count_loader_batches(trainer, 6),
            val_check_interval=7,
            fit={"val_dataloaders": tiny.loader(4, shuffle=False)},
        )


def test_train_loader_is_asked_for_once(tiny: Any) -> None:
    made = []

    class Own(tiny.Module):
        def train_dataloader(self) -> Any:
            made.append(tiny.loader(24))
            return made[-1]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def install(trainer: Any) -> None:
        loader = loading.request_train_loader(trainer)
        assert loader is made[0]
        loading.count_loader_batches(trainer, len(loader))
        loading.install_train_loader(trainer, DataLoader(loader.dataset, 12), user_loader=loader)
        internals.set_epoch_batches(trainer, 2)
        loading.start_iterating(trainer)

    probe = Probe("on_fit_start", install)
    trainer = tiny.trainer(max_epochs=2, callbacks=[probe])
    trainer.fit(Own())
    assert len(made) == 1
    assert trainer.global_step == 4
    assert trainer.train_dataloader.batch_size == 12


def test_installed_loader_trains_and_the_users_comes_back(tiny: Any) -> None:
    loader = tiny.loader(24)
    replacement = DataLoader(loader.dataset, batch_sampler=BatchSampler(SequentialSampler(loader.dataset), 8, False))
    kept: dict[str, Any] = {}

    class Swap(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            loading.count_loader_batches(trainer, len(loader))
            kept["installed"] = loading.install_train_loader(trainer, replacement, user_loader=loader)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            internals.set_epoch_batches(trainer, 3)
            loading.start_iterating(trainer)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            loading.uninstall_train_loader(trainer, kept["installed"])

    module = tiny.Module()
    trainer = tiny.trainer(max_epochs=2, callbacks=[Swap()])
    trainer.fit(module, loader)
    assert [len(ids) for ids in module.seen] == [8] * 6
    assert trainer.train_dataloader is loader
    assert trainer.fit_loop._data_source.instance is loader


def test_epoch_start_is_told_to_the_sampler_of_the_batch_sampler(tiny: Any, tmp_path: Path) -> None:
    """Before every epoch's batches, also when a run goes on in the middle of one."""
    told: list[tuple[str, int]] = []

    class Told(SequentialSampler):
        def set_epoch(self, epoch: int) -> None:
            told.append(("epoch", epoch))

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            told.append(("batch", batch_idx))
            if (trainer.current_epoch, batch_idx) == (1, 0):
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    def loader() -> Any:
        data = tiny.dataset(24)
        return DataLoader(data, batch_sampler=BatchSampler(Told(data), 12, False))

    tiny.trainer(max_epochs=2, callbacks=[Save()]).fit(tiny.Module(), loader())
    assert told == [("epoch", 0), ("batch", 0), ("batch", 1), ("epoch", 1), ("batch", 0), ("batch", 1)]
    told.clear()
    with pytest.warns(UserWarning, match="dataloader is not resumable"):
        tiny.trainer(max_epochs=2, callbacks=[Save()]).fit(tiny.Module(), loader(), ckpt_path=tmp_path / "mid.ckpt")
    assert told[:2] == [("epoch", 1), ("batch", 1)]


@pytest.mark.parametrize(
    ("moment", "position"),
    [
        ((0, 1, "on_train_batch_end"), internals.EpochPosition(continues=True, finished=False, batches_done=2)),
        ((0, 5, "on_train_batch_end"), internals.EpochPosition(continues=False, finished=True, batches_done=6)),
        ((1, 0, "on_train_batch_end"), internals.EpochPosition(continues=True, finished=False, batches_done=1)),
        ((0, None, "on_train_epoch_end"), internals.EpochPosition(continues=False, finished=False, batches_done=0)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*dataloader is not resumable")
def test_position_of_a_resumed_epoch(tiny: Any, tmp_path: Path, moment: Any, position: Any) -> None:
    epoch, batch, hook = moment

    class Save(Callback):
        pass

    def save(trainer: Any, pl_module: Any, outputs: Any = None, data: Any = None, batch_idx: int | None = None) -> None:
        if (trainer.current_epoch, batch_idx) == (epoch, batch):
            trainer.save_checkpoint(tmp_path / "now.ckpt")

    saver = Save()
    setattr(saver, hook, save)
    tiny.trainer(max_epochs=2, callbacks=[saver]).fit(tiny.Module(), tiny.loader(24))
    seen = probed(tiny, "on_train_start", internals.epoch_position, fit={"ckpt_path": tmp_path / "now.ckpt"})
    assert seen == [position]
    loaded = probed(tiny, "on_fit_start", internals.loaded_checkpoint, fit={"ckpt_path": tmp_path / "now.ckpt"})
    assert loaded[0]["global_step"] > 0
    assert probed(tiny, "on_fit_start", internals.loaded_checkpoint) == [{}]


def test_positions_count_the_batch_that_was_started(tiny: Any) -> None:
    seen = probed(tiny, "on_train_batch_start", internals.batch_position, limit_train_batches=2)
    assert seen == [(1, 1), (2, 2), (1, 3), (2, 4)]


@pytest.mark.parametrize("every", [1, None])
def test_validation_comes_where_it_is_due_and_nowhere_else(tiny: Any, every: int | None) -> None:
    def mark(trainer: Any) -> None:
        if trainer.global_step == 0:
            assert internals.validation_interval(trainer) == 6
        internals.set_validation_due(trainer, due=trainer.global_step in (1, 2, 9))

    module = tiny.Module()
    probed(
        tiny,
        "on_train_batch_start",
        mark,
        module=module,
        val_check_interval=6,
        check_val_every_n_epoch=every,
        fit={"val_dataloaders": tiny.loader(4, shuffle=False)},
    )
    assert module.validated_at == [2, 3, 10]


def test_interval_is_put_back(tiny: Any) -> None:
    trainer = tiny.trainer()
    internals.restore_validation_interval(trainer, 5)
    assert internals.validation_interval(trainer) == 5
    trainer.val_check_batch = float("inf")
    assert internals.validation_interval(trainer) is None
    trainer.val_check_batch = None
    assert internals.validation_interval(trainer) is None


def test_p23_changing_accumulation_between_batches_decides_where_a_step_ends(tiny: Any) -> None:
    from lightning_privacy.callbacks._schedule import accumulation_value

    closing = {2, 3, 6}

    class Accumulate(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            ready = batch_idx + 1
            trainer.accumulate_grad_batches = accumulation_value(ready, closes_step=ready in closing)

    module = tiny.Module()
    trainer = tiny.trainer(max_epochs=1, callbacks=[Accumulate()])
    trainer.fit(module, tiny.loader(24))
    assert trainer.global_step == 3
    assert module.steps_at_batch == [0, 0, 1, 2, 2, 2]


def test_minimum_is_lowered_and_raised(tiny: Any) -> None:
    kept: dict[str, Any] = {}

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 2:
                kept["before"] = internals.lower_minimum(trainer)
                trainer.should_stop = True

    trainer = tiny.trainer(max_epochs=3, min_epochs=2, min_steps=7, callbacks=[Stop()])
    trainer.fit(tiny.Module(), tiny.loader(24))
    assert trainer.global_step == 2
    internals.raise_minimum(trainer, kept["before"])
    assert (trainer.min_epochs, trainer.min_steps) == (2, 7)


def test_compiled_module_is_recognised(tiny: Any) -> None:
    module = tiny.Module()
    assert not internals.is_compiled(module)
    compiled = torch.compile(tiny.Module())
    trainer = tiny.trainer(limit_train_batches=0, max_epochs=1)
    trainer.fit(compiled, tiny.loader(8))
    assert internals.is_compiled(trainer.lightning_module)


def test_step_that_takes_an_iterator_is_recognised(tiny: Any) -> None:
    assert probed(tiny, "on_train_start", internals.uses_dataloader_iter) == [False]

    class Fetches(tiny.Module):
        def training_step(self, dataloader_iter: Any) -> Any:
            return self.loss(next(dataloader_iter)[0])

    assert probed(tiny, "on_train_start", internals.uses_dataloader_iter, module=Fetches()) == [True]


def test_batches_go_through_the_hooks_of_the_module_that_is_asked(tiny: Any) -> None:
    class Hooked(tiny.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.called = name, []

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.called.append("before")
            return [*batch, self.name]

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.called.append("after")
            return batch

    other = Hooked("other")
    own = Hooked("own")
    own.training_step = lambda batch, batch_idx: own.loss(batch)
    moved = probed(
        tiny,
        "on_train_start",
        lambda trainer: internals.move_batch(trainer, other, [torch.ones(2, dtype=torch.float64)]),
        module=own,
    )
    assert moved[0][1] == "other"
    assert torch.equal(moved[0][0], torch.ones(2, dtype=torch.float64))
    assert other.called == ["before", "after"]


def test_arguments_of_a_step_that_takes_no_number_of_the_batch(tiny: Any) -> None:
    class Short(tiny.Module):
        def training_step(self, batch: Any) -> Any:
            return self.loss(batch)

    def arguments(trainer: Any) -> Any:
        return internals.step_arguments(trainer, "batch", 3)

    assert probed(tiny, "on_train_start", arguments) == [["batch", 3]]
    assert probed(tiny, "on_train_start", arguments, module=Short()) == [["batch"]]


@pytest.mark.parametrize("manual", [False, True])
def test_another_time_is_shown_in_the_block_only(tiny: Any, manual: bool) -> None:
    def look(trainer: Any) -> Any:
        module = trainer.lightning_module
        with internals.elsewhen(trainer, epoch=7, step=23):
            inside = trainer.current_epoch, trainer.global_step, module.current_epoch, module.global_step
        return inside, (trainer.current_epoch, trainer.global_step)

    class ByHand(tiny.Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = not manual

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if manual:
                self.optimizers().step()
            return loss

    seen = probed(tiny, "on_train_batch_start", look, module=ByHand(), limit_train_batches=2)
    assert seen == [((7, 23, 7, 23), now) for now in ((0, 0), (0, 1), (1, 2), (1, 3))]
