"""Lightning internals that a federated round needs: the second part of ``_trainer.py``, pinned in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._lightning import LightningModule, Trainer

__all__ = [
    "LoggedKey",
    "log_alike",
    "logged_keys",
    "pass_untouched",
    "replace_train_loader",
    "set_logged_batch",
    "stop_passing",
    "takes_batch_number",
    "transfers_plainly",
]

LoggedKey = tuple[str, str, torch.dtype, dict[str, Any]]
"""Hook, name, type of the sum so far, and the arguments of ``self.log``: what must be equal on all processes."""

_LOG_OPTIONS = ("prog_bar", "logger", "on_step", "on_epoch", "reduce_fx", "add_dataloader_idx", "metric_attribute")


def replace_train_loader(trainer: Trainer, replace: Callable[[Any], Any]) -> Callable[[], None]:
    """Make the fit loop train on what ``replace`` makes of the user's train loader, whenever it asks for it.

    Lightning changes the sampler of a DataLoader where several processes train; an object of another type is taken as
    it is.

    Args:
        trainer: The trainer, before anybody asked for the loader of this fit.
        replace: From the user's loader to another.

    Returns:
        Undoes it.
    """
    fit_loop = trainer.fit_loop
    source = fit_loop._data_source
    requested = source.dataloader
    vars(source)["dataloader"] = lambda: replace(requested())
    fit_loop._combined_loader = None

    def undo() -> None:
        vars(source).pop("dataloader", None)
        fit_loop._combined_loader = None

    return undo


def pass_untouched(module: LightningModule, kind: type) -> None:
    """Keep batches of type ``kind`` from the module's and data module's ``on_before_batch_transfer``."""
    usual = module._on_before_batch_transfer

    def transfer(batch: Any, dataloader_idx: int = 0) -> Any:
        return batch if isinstance(batch, kind) else usual(batch, dataloader_idx)

    vars(module)["_on_before_batch_transfer"] = transfer


def stop_passing(module: LightningModule) -> None:
    """Undo :func:`pass_untouched`."""
    vars(module).pop("_on_before_batch_transfer", None)


def set_logged_batch(trainer: Trainer, batch: Any) -> None:
    """Say that what is logged from now on is of ``batch``, whose size weighs it in means over an epoch."""
    connector = trainer._logger_connector
    if connector._first_loop_iter is not False:
        connector.on_batch_start(batch)
        return
    # The same, without looking up which loop is active: this is called for every local batch.
    results = trainer.fit_loop.epoch_loop._results
    results.batch, results.batch_size, results.dataloader_idx = batch, None, None


def takes_batch_number(trainer: Trainer, batch: Any) -> bool:
    """Whether ``training_step`` has an argument for the number of the batch."""
    return len(trainer.fit_loop.epoch_loop._build_kwargs({}, batch, 0)) > 1  # type: ignore[arg-type]


def transfers_plainly(trainer: Trainer, module: LightningModule) -> bool:
    """Whether no transfer hook of the module or the data module does anything but move tensors to the device."""
    selector = trainer._data_connector._datahook_selector
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    own = {getattr(LightningModule, name) for name in hooks}
    for name in hooks:
        instance = selector.get_instance(name) if selector is not None else module
        function = getattr(type(instance), name)
        if function not in own and function is not getattr(_plain_data_hooks(), name):
            return False
    return True


def _plain_data_hooks() -> type:
    return next(kind for kind in LightningModule.__mro__ if "transfer_batch_to_device" in vars(kind))


def logged_keys(trainer: Trainer) -> list[LoggedKey]:
    """What was logged in the training loop in this epoch."""
    results = trainer.fit_loop.epoch_loop._results
    return [
        (
            metric.meta.fx,
            metric.meta.name,
            metric.value.dtype,
            {name: getattr(metric.meta, name) for name in _LOG_OPTIONS} | {"sync_dist": metric.meta.sync.should},
        )
        for metric in results.values()
        if metric.is_tensor and not metric.has_reset
    ]


def log_alike(trainer: Trainer, keys: list[LoggedKey]) -> None:
    """Log without weight what other processes logged and this one did not, and put all of it in one order.

    Lightning reduces what was logged at the end of an epoch, one after the other: every process must have the same.

    Args:
        trainer: The trainer.
        keys: Of all processes.
    """
    results = trainer.fit_loop.epoch_loop._results
    for fx, name, dtype, options in keys:
        known = results.get(f"{fx}.{name}")
        if known is not None and not known.has_reset:
            continue
        reduction = getattr(options["reduce_fx"], "__name__", "mean")
        neutral = {"min": float("inf"), "max": float("-inf")}.get(reduction, 0.0)
        value: Tensor = torch.tensor(neutral, dtype=dtype, device=trainer.strategy.root_device)
        results.log(fx, name, value, **options, sync_dist_fn=trainer.strategy.reduce, batch_size=0)
    ordered = sorted(results.items())
    results.clear()
    results.update(ordered)
