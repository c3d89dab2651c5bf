"""What both sides share: the model, how it is trained, and which silo holds which digits."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_privacy import FederatedStrategy, IIDPartition
from lightning_privacy.federated.server import FedAvgM

SILOS = IIDPartition(2)


def strategy() -> FederatedStrategy:
    """How rounds go; the same for server and clients, and for a simulation in one process."""
    return FederatedStrategy(partition=SILOS, local_epochs=2, server_optimizer=FedAvgM(momentum=0.5), seed=7)


class Classifier(LightningModule):
    """A small network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the accuracy of a batch."""
        accuracy = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val_accuracy", accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of a client."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Digits(LightningDataModule):
    """The digits of a silo, or of both.

    Args:
        silo: 0 or 1; None for the examples of both, as a simulation needs them.
    """

    def __init__(self, silo: int | None = None) -> None:
        super().__init__()
        self.silo = silo

    def setup(self, stage: str) -> None:
        """Read the digits that come with scikit-learn."""
        digits = load_digits()
        inputs = torch.tensor(digits.data / 16.0, dtype=torch.float32)
        labels = torch.tensor(digits.target)
        self.train: TensorDataset | Subset = TensorDataset(inputs[:1500], labels[:1500])
        self.validation = TensorDataset(inputs[1500:], labels[1500:])
        if self.silo is not None:
            self.train = Subset(self.train, SILOS.split(None, 1500, seed=7)[self.silo])

    def train_dataloader(self) -> DataLoader:
        """Batches of 32 in a random order."""
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """All validation digits at once."""
        return DataLoader(self.validation, batch_size=297)
