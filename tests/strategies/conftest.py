"""A small regression in double precision, its clients, and the loops written by hand that fits are compared with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import LightningModule, Trainer

LIGHTNINGS_OWN = (
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:Found .* module.s. in eval mode",
    "ignore:.*is smaller than the logging interval",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/strategies" in str(item.path):
            for text in LIGHTNINGS_OWN:
                item.add_marker(pytest.mark.filterwarnings(text))


def linear_data(num_examples: int = 24, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_examples, 3, generator=generator, dtype=torch.float64)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + 0.1
    return TensorDataset(inputs, targets)


class Regression(LightningModule):
    """Two layers; every step's batch size and round are kept."""

    def __init__(
        self, optimizer: Callable[[Any], Any] | None = None, *, norm: bool = False, dropout: float = 0
    ) -> None:
        super().__init__()
        torch.manual_seed(3)
        middle: list[nn.Module] = [nn.BatchNorm1d(4)] if norm else []
        self.net = nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 1)).double()
        self.make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss.detach(), on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def quiet_trainer(**options: Any) -> Trainer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"max_epochs": 5, "enable_checkpointing": False, "devices": 1} | options,
        )


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def parts_of(partition: Any, dataset: TensorDataset, seed: int = 0) -> list[np.ndarray]:
    labels = dataset.tensors[1].numpy()[:, 0] if partition.needs_labels else None
    return partition.split(labels, len(dataset), seed)


class Tools:
    """What the tests of this folder share."""

    Regression = Regression
    data = staticmethod(linear_data)
    trainer = staticmethod(quiet_trainer)
    flat = staticmethod(flat)
    parts = staticmethod(parts_of)

    @staticmethod
    def fit(
        strategy: Any, module: LightningModule, dataset: Any = None, *, batch_size: int = 64, **options: Any
    ) -> Any:
        trainer = quiet_trainer(strategy=strategy, **options)
        trainer.fit(module, DataLoader(dataset or linear_data(), batch_size=batch_size, shuffle=True))
        return trainer


@pytest.fixture
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits write beside the folder they run in."""
    monkeypatch.chdir(tmp_path)
