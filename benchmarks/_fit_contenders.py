"""Fits with and without privacy, and the bare steps they are compared with."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from _dp_contenders import CONTENDERS, OURS
from _dp_networks import NETWORKS
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy import DifferentialPrivacy

__all__ = ["bare_steps", "seconds_per_step"]

_SEED = 20260701
_BATCH = 256
_WARM = 5  # steps before the clock starts


class _Classifier(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, classes = batch
        return F.cross_entropy(self.network(images), classes)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class _Clock(pl.Callback):
    """Time from the end of the first steps to the end of the epoch."""

    def __init__(self) -> None:
        self.start: tuple[float, float, int] | None = None
        self.found = (float("nan"), float("nan"))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.start is None and trainer.global_step == _WARM:
            self.start = time.perf_counter(), time.process_time(), trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.start is None:
            return
        steps = trainer.global_step - self.start[2]
        self.found = (time.perf_counter() - self.start[0]) / steps, (time.process_time() - self.start[1]) / steps


def _sizes(network: str, quick: bool) -> tuple[Any, int]:
    sizes = NETWORKS[network].sizes(quick=quick)
    return sizes, 8 if quick else _BATCH


def bare_steps(network: str, *, quick: bool) -> dict[str, Callable[[], object]]:
    """Return a whole step without and with privacy, on one batch.

    Args:
        network: a name of the table of networks.
        quick: tiny sizes.
    """
    torch.manual_seed(_SEED)
    sizes, batch = _sizes(network, quick)
    model = NETWORKS[network].build(sizes)
    inputs, targets = NETWORKS[network].data(type(sizes)(batch, sizes.width, sizes.positions))
    plain, private = (
        CONTENDERS[name](copy.deepcopy(model), inputs, targets, noise_multiplier=1.0) for name in ("plain", OURS)
    )
    return {"plain": plain.step, "private": private.step}


def seconds_per_step(network: str, *, private: bool, steps: int, quick: bool) -> tuple[float, float]:
    """Return seconds on the clock and of processors that a step of a fit takes.

    Args:
        network: a name of the table of networks.
        private: with the callback.
        steps: how many are timed.
        quick: tiny sizes.
    """
    torch.manual_seed(_SEED)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    sizes, batch = _sizes(network, quick)
    inputs, targets = NETWORKS[network].data(type(sizes)(batch * (steps + _WARM), sizes.width, sizes.positions))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=batch, shuffle=True)
    clock = _Clock()
    callbacks: list[pl.Callback] = [clock]
    if private:
        callbacks.append(DifferentialPrivacy(delta=1e-5, noise_multiplier=1.0))
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Classifier(NETWORKS[network].build(sizes)), loader)
    return clock.found
