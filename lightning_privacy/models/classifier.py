"""A LightningModule for classification that knows nothing about privacy.

It is what a working Lightning project has already: a network, a cross-entropy, an optimizer. Private training
adds a callback to the trainer and leaves this as it is.

Example:
    >>> import functools, torch
    >>> from lightning_privacy.models import MLP, Classifier
    >>> adam = functools.partial(torch.optim.Adam, lr=1e-3)
    >>> model = Classifier(MLP(in_features=4, num_classes=3), num_classes=3, optimizer=adam)
    >>> model(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_privacy._lightning import LightningModule
from lightning_privacy._validate import one_of, positive_int

__all__ = ["Classifier"]


class MakeScheduler(Protocol):
    """What builds a learning-rate scheduler: a class of ``torch.optim.lr_scheduler``, partial."""

    def __call__(self, optimizer: Optimizer) -> Any:
        """Return the scheduler."""
        ...


class Classifier(LightningModule):
    """Cross-entropy training of a network, with loss and accuracy logged per stage.

    A batch is inputs and labels; what follows them, such as groups, is for callbacks.

    Logs ``train/loss``, ``train/acc``, ``val/loss``, ``val/acc``, ``test/loss`` and ``test/acc``, each as the
    mean over the examples of an epoch.

    Args:
        backbone: Maps a batch of inputs to logits of shape ``(batch, num_classes)``.
        num_classes: Number of classes.
        optimizer: Builds the optimizer from the parameters, such as
            ``functools.partial(torch.optim.Adam, lr=1e-3)``; in a config, ``_partial_: true``.
        scheduler: Builds a learning-rate scheduler from the optimizer; none by default.
        scheduler_interval: ``"epoch"`` or ``"step"``: how often the scheduler steps.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> import functools
        >>> sgd = functools.partial(torch.optim.SGD, lr=0.1)
        >>> model = Classifier(nn.Linear(4, 3), num_classes=3, optimizer=sgd)
        >>> type(model.configure_optimizers()).__name__
        'SGD'
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        num_classes: int,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: MakeScheduler | None = None,
        scheduler_interval: str = "epoch",
    ) -> None:
        super().__init__()
        positive_int(num_classes=num_classes)
        one_of(("epoch", "step"), scheduler_interval=scheduler_interval)
        self.backbone = backbone
        self.num_classes = num_classes
        self._make_optimizer = optimizer
        self._make_scheduler = scheduler
        self._scheduler_interval = scheduler_interval
        self._accuracies = nn.ModuleDict(
            # "train" itself would hide nn.Module.train.
            {f"{stage}_acc": MulticlassAccuracy(num_classes, average="micro") for stage in ("train", "val", "test")}
        )

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of shape ``(batch, num_classes)``."""
        logits: torch.Tensor = self.backbone(inputs)
        return logits

    def _step(self, batch: Sequence[torch.Tensor], stage: str) -> dict[str, torch.Tensor]:
        inputs, labels = batch[0], batch[1]
        logits = self(inputs)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        if losses.ndim > 1:  # several labels per example, such as those of a text
            losses = losses.flatten(1).mean(1)
        loss = losses.mean()
        accuracy: Any = self._accuracies[f"{stage}_acc"]
        accuracy(logits.detach(), labels)
        # Batches may differ in length; with their sizes the mean over an epoch is one over examples.
        per_epoch: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(labels), "sync_dist": True}
        self.log(f"{stage}/loss", loss.detach(), prog_bar=stage == "train", **per_epoch)
        self.log(f"{stage}/acc", accuracy, prog_bar=stage != "train", **per_epoch)
        return {"loss": loss, "losses": losses}

    @override
    def training_step(self, batch: Sequence[torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """The loss, and the loss of each example for callbacks that weigh them."""
        return self._step(batch, "train")

    @override
    def validation_step(self, batch: Sequence[torch.Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    @override
    def test_step(self, batch: Sequence[torch.Tensor], batch_idx: int) -> None:
        self._step(batch, "test")

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self._make_optimizer(self.parameters())
        if self._make_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self._make_scheduler(optimizer), "interval": self._scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
