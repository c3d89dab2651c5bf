"""The network, as it was before: a LightningModule that knows nothing of privacy."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer


class DigitsNet(pl.LightningModule):
    """Two convolutions and a linear layer for images of 8x8 pixels.

    Args:
        channels: Of the first convolution.
        lr: Learning rate of Adam.
    """

    def __init__(self, channels: int = 16, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * channels, 10),
        )
        self.lr = lr

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the ten classes."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        self._log_accuracy("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        self._log_accuracy("test", batch)

    def _log_accuracy(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        self.log(f"{stage}/acc", (self(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)
