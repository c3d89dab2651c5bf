"""What the callbacks have in common that make one loss of the losses of a batch's examples.

The module says what the loss of each example is, in one of two ways:

    return F.cross_entropy(logits, labels, reduction="none")            # for training with such a callback only
    return {"loss": losses.mean(), "losses": losses}                    # for training with and without

Example:
    >>> import torch
    >>> losses_of({"loss": torch.tensor(2.0), "losses": torch.tensor([1.0, 3.0])}, "Module")
    tensor([1., 3.])
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_privacy._lightning import Callback, LightningModule, Trainer, check_trainer
from lightning_privacy.callbacks._step_wrap import unwrap_training_step, wrap_training_step
from lightning_privacy.errors import ConfigurationError, UnsupportedError

__all__ = ["ObjectiveCallback", "losses_of"]

_WAYS = (
    'return the loss of each example: {"loss": losses.mean(), "losses": losses}, with '
    'losses = F.cross_entropy(logits, labels, reduction="none") or the like'
)


def losses_of(output: Any, name: str) -> Tensor:
    """Return the losses of the examples from what a training step returned.

    Args:
        output: A vector, or a mapping with a vector under ``"losses"``.
        name: The module's class, for the message.

    Returns:
        Shape ``(B,)``.

    Raises:
        ConfigurationError: There is no such vector.
    """
    found = output.get("losses") if isinstance(output, Mapping) else output
    if isinstance(found, Tensor) and found.dim() == 1:
        return found
    if isinstance(output, Mapping):
        got = f"a mapping with the keys {', '.join(map(repr, output))}"
        got += f" and losses of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
    else:
        got = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else repr(output)
    raise ConfigurationError(f"training_step of {name} must {_WAYS}; it returned {got}")


class ObjectiveCallback(Callback):
    """Makes the loss that is trained of the losses of the examples; derived classes say how.

    The module is not changed: its step is wrapped from the start of a fit to its end.
    """

    @abstractmethod
    def reduce(self, trainer: Trainer, losses: Tensor, batch: Any) -> Tensor:
        """Return the loss to train on.

        Args:
            trainer: The trainer.
            losses: Of the examples, shape ``(B,)``, with a graph.
            batch: As the training step got it.

        Returns:
            A scalar with a graph.
        """

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_trainer(trainer)
        if not pl_module.automatic_optimization:
            raise UnsupportedError(
                f"{type(self).__name__} changes the loss that training_step returns, and {type(pl_module).__name__} "
                "optimizes manually, where nobody uses it: call the objective of lightning_privacy.fairness in the step"
            )
        name = type(pl_module).__name__

        def transform(_module: LightningModule, batch: Any, output: Any) -> Any:
            losses = losses_of(output, name)
            loss = self.reduce(trainer, losses, batch)
            # What else holds a graph would stay in memory with it as long as callbacks may look at the output.
            return {**output, "losses": losses.detach(), "loss": loss} if isinstance(output, Mapping) else loss

        wrap_training_step(pl_module, transform)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        unwrap_training_step(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        unwrap_training_step(pl_module)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        unwrap_training_step(pl_module)
