"""Lightning internals which are not public API: nothing touches them but this file and ``_trainer_*.py``.

Each function reads or sets one thing, and ``tests/callbacks/test__trainer.py`` pins each to the
versions of Lightning in ``pyproject.toml``: an upgrade that moves one of them fails there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning_privacy._lightning import (
    DDPStrategy,
    LightningModule,
    Strategy,
    Trainer,
)

__all__ = [
    "EpochPosition",
    "LoggedMetric",
    "batch_position",
    "ddp_extras",
    "elsewhen",
    "epoch_position",
    "hand_over_results",
    "is_compiled",
    "launches_elsewhere",
    "loaded_checkpoint",
    "lower_minimum",
    "move_batch",
    "raise_minimum",
    "restore_validation_interval",
    "set_epoch_batches",
    "set_validation_due",
    "starts_copies",
    "step_arguments",
    "synchronises_batch_norm",
    "training_metrics",
    "unwrap_model",
    "uses_dataloader_iter",
    "validation_interval",
    "validation_metrics",
]


@dataclass(frozen=True)
class EpochPosition:
    """Where in an epoch the training loop is about to start.

    Args:
        continues: Whether it goes on in the middle of an epoch, after a checkpoint was loaded.
        finished: Whether the checkpoint was taken at the last batch of an epoch, so that a new one begins.
        batches_done: Batches of the epoch (this one, or the finished one) that are done.
    """

    continues: bool
    finished: bool
    batches_done: int


@dataclass(frozen=True)
class LoggedMetric:
    """A metric that was given to ``self.log`` while training or validating.

    Args:
        hook: The hook or step it was logged from.
        name: The name it was logged under.
        keys: The names under which ``trainer.callback_metrics`` has it.
        loader: Number of the loader whose batches it was logged at; None where there is one, or at none of them.
    """

    hook: str
    name: str
    keys: tuple[str, ...]
    loader: int | None = None


def epoch_position(trainer: Trainer) -> EpochPosition:
    """Where the epoch that is about to run starts; call at its start, before any of its batches."""
    epoch_loop = trainer.fit_loop.epoch_loop
    if not epoch_loop.restarting:
        return EpochPosition(continues=False, finished=False, batches_done=0)
    progress = epoch_loop.batch_progress
    at_batch_end = epoch_loop.restarted_on_train_batch_end
    finished = at_batch_end and progress.is_last_batch
    done = progress.current.completed + int(at_batch_end)
    return EpochPosition(continues=not finished, finished=finished, batches_done=done)


def set_epoch_batches(trainer: Trainer, batches: float) -> None:
    """Set the number of batches of the present epoch; infinity where it isn't decided yet."""
    trainer.fit_loop.max_batches = batches


def batch_position(trainer: Trainer) -> tuple[int, int]:
    """Batches started in this epoch, and over all epochs; the present one included."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.current.ready, progress.total.ready


@contextmanager
def elsewhen(trainer: Trainer, *, epoch: int, step: int) -> Iterator[None]:
    """Let ``current_epoch`` and ``global_step`` say something else in the block, in which nothing may be trained.

    Args:
        trainer: The trainer.
        epoch: What ``trainer.current_epoch`` is.
        step: What ``trainer.global_step`` is.
    """
    loop = trainer.fit_loop.epoch_loop
    epochs = trainer.fit_loop.epoch_progress.current
    steps = loop.automatic_optimization.optim_progress.optimizer.step.total
    if not trainer.lightning_module.automatic_optimization:
        steps = loop.manual_optimization.optim_step_progress.total
    before = epochs.completed, steps.completed
    epochs.completed, steps.completed = epoch, step
    try:
        yield
    finally:
        epochs.completed, steps.completed = before


def validation_interval(trainer: Trainer) -> int | None:
    """Loader batches between validations, as Lightning worked it out; ``None`` when there is no such count."""
    interval = trainer.val_check_batch
    return None if interval is None or interval == float("inf") else int(interval)


def set_validation_due(trainer: Trainer, *, due: bool) -> None:
    """Make Lightning validate after the batch that was started last, or not.

    Lightning validates when ``trainer.val_check_batch`` divides its count of batches.
    """
    current, total = batch_position(trainer)
    count = total if trainer.check_val_every_n_epoch is None else current
    trainer.val_check_batch = 1 if due else count + 1


def restore_validation_interval(trainer: Trainer, interval: int) -> None:
    """Undo :func:`set_validation_due`."""
    trainer.val_check_batch = interval


def lower_minimum(trainer: Trainer) -> tuple[int | None, int | None]:
    """Drop ``min_epochs`` and ``min_steps``, so that ``trainer.should_stop`` is obeyed; returns both."""
    fit_loop = trainer.fit_loop
    before = fit_loop.min_epochs, fit_loop.epoch_loop.min_steps
    fit_loop.min_epochs, fit_loop.epoch_loop.min_steps = None, None
    return before


def raise_minimum(trainer: Trainer, before: tuple[int | None, int | None]) -> None:
    """Undo :func:`lower_minimum`."""
    trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = before


def loaded_checkpoint(trainer: Trainer) -> dict[str, Any]:
    """The checkpoint a fit resumes from, as loaded; empty when it starts anew. Only until training starts."""
    return trainer._checkpoint_connector._loaded_checkpoint


def ddp_extras(strategy: DDPStrategy) -> dict[str, Any]:
    """The arguments of DDP that change what the processes exchange, by name; None where not given."""
    return {
        "ddp_comm_hook": strategy._ddp_comm_hook,
        "ddp_comm_state": strategy._ddp_comm_state,
        "ddp_comm_wrapper": strategy._ddp_comm_wrapper,
        "model_averaging_period": strategy._model_averaging_period,
    }


def synchronises_batch_norm(trainer: Trainer) -> bool:
    """Whether batch norm layers are turned into ones with statistics over all processes."""
    return getattr(trainer.strategy, "_layer_sync", None) is not None


def unwrap_model(strategy: Strategy) -> None:
    """Let the strategy run the module itself, for the rest of a fit, and not DistributedDataParallel around it.

    The wrapper has done its work once it was made: weights and buffers are those of the first process. Private
    gradients are summed once a step; its own reducer would wait for gradients that no parameter gets, and its forward
    would broadcast buffers. Lightning takes the wrapper off at the end of a fit anyway.
    """
    strategy.model = strategy.lightning_module


def launches_elsewhere(trainer: Trainer) -> bool:
    """Whether ``fit`` starts processes that are copies of the present one and does not train in it itself."""
    return starts_copies(trainer.strategy.launcher)


def starts_copies(launcher: object) -> bool:
    """Whether a strategy's launcher starts copies of the process that has it, which train in its place."""
    return hasattr(launcher, "get_extra_results")


def hand_over_results(trainer: Trainer, extra: Callable[[], Any]) -> None:
    """Send what ``extra`` returns along with the results a started process gives back to the one that started it.

    It is called when the fit is over, and need only be something that can be pickled: unpickling it is what happens
    in the other process.
    """
    launcher: Any = trainer.strategy.launcher
    own = launcher.get_extra_results

    def with_extra(trainer: Trainer) -> dict[str, Any]:
        results = own(trainer)
        return {**results, f"lightning_privacy_{len(results)}": extra()}

    launcher.get_extra_results = with_extra


def is_compiled(module: LightningModule) -> bool:
    """Whether the module went through ``torch.compile`` as a whole before it was given to the trainer."""
    return module._compiler_ctx is not None


def uses_dataloader_iter(trainer: Trainer) -> bool:
    """Whether ``training_step`` takes a ``dataloader_iter`` and fetches its batches itself."""
    return type(trainer.fit_loop._data_fetcher).__name__ == "_DataLoaderIterDataFetcher"


def move_batch(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """What the training loop makes of a batch before the step: converted, on the device, after the transfer hooks.

    Args:
        trainer: The trainer.
        module: Whose hooks are called, in place of those of the trainer's own module.
        batch: As the loader gives it.
    """
    selector = trainer._data_connector._datahook_selector

    def call(name: str, *arguments: Any) -> Any:
        owner = selector.get_instance(name) if selector is not None else module
        return getattr(owner if owner is not trainer.lightning_module else module, name)(*arguments)

    batch = trainer.precision_plugin.convert_input(batch)
    batch = call("on_before_batch_transfer", batch, 0)
    batch = call("transfer_batch_to_device", batch, trainer.strategy.root_device, 0)
    return call("on_after_batch_transfer", batch, 0)


def step_arguments(trainer: Trainer, batch: Any, batch_idx: int) -> list[Any]:
    """The positional arguments of ``training_step``, which may leave out the number of the batch."""
    return list(trainer.fit_loop.epoch_loop._build_kwargs(OrderedDict(), batch, batch_idx).values())


def training_metrics(trainer: Trainer) -> list[LoggedMetric]:
    """What was logged in the training loop of this fit so far; validation has a collection of its own."""
    collected = []
    for metric in trainer.fit_loop.epoch_loop._results.values():
        name = metric.meta.name
        forks = (f"{name}_step", f"{name}_epoch") if metric.meta.forked else ()
        collected.append(LoggedMetric(hook=metric.meta.fx, name=name, keys=(name, *forks)))
    return collected


def validation_metrics(trainer: Trainer) -> list[LoggedMetric]:
    """What was logged in the validations of this fit so far, the one for checking its sanity included."""
    collected = []
    for metric in trainer.fit_loop.epoch_loop.val_loop._results.values():
        meta = metric.meta
        suffix = (
            f"/dataloader_idx_{meta.dataloader_idx}"
            if meta.add_dataloader_idx and meta.dataloader_idx is not None
            else ""
        )
        names = (meta.name, f"{meta.name}_step", f"{meta.name}_epoch") if meta.forked else (meta.name,)
        keys = tuple(name + suffix for name in names)
        hook = meta.fx.partition(".")[0]
        collected.append(LoggedMetric(hook=hook, name=keys[0], keys=keys, loader=meta.dataloader_idx))
    return collected
