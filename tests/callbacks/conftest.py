"""Tiny modules, data and trainers for the tests of the callbacks."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning

sys.path.insert(0, str(Path(__file__).parent))  # helper modules of this folder; importlib mode puts nothing there

LIGHTNINGS_OWN = (
    "ignore:.*does not have many workers",
    "ignore:.*is smaller than the logging interval",
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:.*`tensorboardX` has been removed",
    "ignore:The .*val_dataloader.* does not have many workers",
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:Found .* module.s. in eval mode",
    "ignore:.*`max_epochs` was not set",
    "ignore:You are using the `dataloader_iter`",
    "ignore:Found `dataloader_iter` argument",
    "ignore:The dirpath has changed",
    "ignore:Be aware that when using `ckpt_path`, callbacks used",
    "ignore:Total length of .* across ranks is zero",
    "ignore:`training_step` returned `None`",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/callbacks" in str(item.path):
            for text in LIGHTNINGS_OWN:
                item.add_marker(pytest.mark.filterwarnings(text))


class TinyModule(LightningModule):
    """A two-layer regression in double precision that remembers what reached it."""

    def __init__(self, optimizer: str = "sgd", one_cycle: bool = False, lr: float = 0.05) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        self.optimizer, self.one_cycle, self.lr = optimizer, one_cycle, lr
        self.seen: list[list[int]] = []
        self.steps_at_batch: list[int] = []
        self.validated_at: list[int] = []
        self.learning_rates: list[float] = []
        self.total_steps: float | None = None

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch[2].tolist())
        self.steps_at_batch.append(self.trainer.global_step)
        self.learning_rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        loss = self.loss(batch)
        self.log("train_loss", loss.detach())
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self.validated_at.append(self.trainer.global_step)
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        self.total_steps = self.trainer.estimated_stepping_batches
        if self.optimizer == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        else:
            momentum = 0.0 if self.optimizer == "plain" else 0.9
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=momentum)
        if not self.one_cycle:
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=int(self.total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def weights(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters()]).clone()


def make_dataset(size: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    return TensorDataset(features, features.sum(1, keepdim=True).sin(), torch.arange(size))


def make_loader(size: int, batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    options.setdefault("shuffle", True)
    return DataLoader(make_dataset(size), batch_size=batch_size, **options)


def make_trainer(**options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(defaults | options))


def seeded_noise(seed: int = 3) -> NoiseSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed)


class Tiny:
    """What the tests build from."""

    Module = TinyModule
    dataset = staticmethod(make_dataset)
    loader = staticmethod(make_loader)
    trainer = staticmethod(make_trainer)
    noise = staticmethod(seeded_noise)


@pytest.fixture
def tiny(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> type[Tiny]:
    monkeypatch.chdir(tmp_path)  # nothing a trainer writes by default lands in the repository
    return Tiny
