"""Losses of single examples, as the module's own ``training_step`` gives them, without leaving a trace.

The step runs on a copy of the module that is in evaluation mode, logs nothing and has optimizers that do not step. An
example is a batch of its own, made and moved as the trainer makes and moves batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.callbacks._rehearsing import Rehearsing, rehearsing_copy
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.probe_randomness import untouched_generators

__all__ = ["losses_of"]

# What stands for a loss that is no number any more: worse than any other.
_WORST = 1e9


def losses_of(
    trainer: Trainer, module: LightningModule, loader: DataLoader[Any], batches: Sequence[Sequence[Any]]
) -> NDArray[np.float64]:
    """The loss of each of some small batches.

    Args:
        trainer: The trainer, while it fits.
        module: Its module.
        loader: Whose function makes batches.
        batches: Examples of each, as the data set gives them; for the loss of an example, one.

    Returns:
        Shape ``(len(batches),)``; finite, and 0 for a batch of no examples.

    Raises:
        UnsupportedError: ``training_step`` returns no loss.
        ConfigurationError: The module can't be copied.
    """
    copied = rehearsing_copy(trainer, module, loader)
    copied.trainer = trainer
    copied.eval()
    for part in copied.modules():
        if isinstance(part, Rehearsing):
            part._backward = False
    devices = sorted({p.device for p in module.parameters() if p.device.type != "cpu"}, key=str)
    losses = np.empty(len(batches))
    with untouched_generators(devices), torch.no_grad(), trainer.precision_plugin.train_step_context():
        for number, examples in enumerate(batches):
            if not examples:
                losses[number] = 0.0
                continue
            batch = internals.move_batch(trainer, copied, loader.collate_fn(list(examples)))
            output = copied.training_step(*internals.step_arguments(trainer, batch, 0))
            loss = output.get("loss") if isinstance(output, Mapping) else output
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise UnsupportedError(
                    f"training_step of {type(module).__name__} returned {type(output).__name__} and no loss, by which "
                    "canaries are told apart: return the loss, also with manual optimization, or audit a private "
                    "run by its gradients, with canaries='gradients'"
                )
            losses[number] = float(loss)
    return np.nan_to_num(losses, nan=_WORST, posinf=_WORST, neginf=-_WORST)
