"""The user's step, as the local loop of a client calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_privacy._lightning import LightningModule, Precision, Trainer
from lightning_privacy.callbacks._trainer import move_batch
from lightning_privacy.callbacks._trainer_rounds import set_logged_batch, takes_batch_number, transfers_plainly
from lightning_privacy.errors import ConfigurationError

__all__ = ["ClientStep", "gradient_clip", "loss_in"]


class ClientStep:
    """Maps a batch as the loader gives it to the loss of the unmodified ``training_step``.

    Hooks of callbacks around batches and gradients are those of rounds and are not called here; transfer hooks are.

    Args:
        trainer: The trainer, when the fit is set up.
        module: The user's module.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer = trainer
        self._module = module
        self._precision = trainer.precision_plugin
        self._on_device = transfers_plainly(trainer, module) and trainer.strategy.root_device.type == "cpu"
        # Full precision neither converts a batch nor has a context around the step.
        self._plain = type(self._precision) is Precision
        self._with_number = takes_batch_number(trainer, ())

    def __call__(self, batch: Any, index: int) -> Tensor | None:
        """Return the loss, or None where ``training_step`` returned None."""
        if not self._on_device:
            batch = move_batch(self._trainer, self._module, batch)
        elif not self._plain:
            batch = self._precision.convert_input(batch)
        set_logged_batch(self._trainer, batch)
        if self._plain:
            output = self._step(batch, index)
        else:
            with self._precision.train_step_context():
                output = self._step(batch, index)
        return loss_in(output)

    def _step(self, batch: Any, index: int) -> Any:
        return self._module.training_step(batch, index) if self._with_number else self._module.training_step(batch)


def loss_in(output: Any) -> Tensor | None:
    """The loss in what ``training_step`` returned.

    Raises:
        ConfigurationError: There is none.
    """
    if output is None or isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
        loss: Tensor = output["loss"]
        return loss
    raise ConfigurationError(
        f"training_step must return a loss tensor, a dict with the key 'loss', or None, got {type(output).__name__}"
    )


def gradient_clip(
    module: LightningModule, value: float | None, algorithm: str | None
) -> Callable[[Optimizer], None] | None:
    """What clips a client's gradients before its step, as ``Trainer(gradient_clip_val=...)`` says; None for nothing.

    Args:
        module: Whose ``configure_gradient_clipping`` is called.
        value: Of the trainer.
        algorithm: Of the trainer.
    """
    if not value and type(module).configure_gradient_clipping is LightningModule.configure_gradient_clipping:
        return None

    def clip(optimizer: Optimizer) -> None:
        module.configure_gradient_clipping(optimizer, gradient_clip_val=value, gradient_clip_algorithm=algorithm)

    return clip
