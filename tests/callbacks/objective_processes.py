"""Trains with each objective in one process and in two that share each batch; prints how far the weights are apart."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_privacy._lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning_privacy.callbacks import AdversarialDebiasing, GroupDRO, Reweighing

BATCH = 6


class Net(LightningModule):
    """A linear classifier that returns losses and logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Linear(3, 2).double()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.layer(batch[0])
        losses = nn.functional.cross_entropy(logits, batch[1], reduction="none")
        return {"loss": losses.mean(), "losses": losses, "logits": logits}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Shared(LightningDataModule):
    """Every other example for each process, in order, so that both together see the batches of one."""

    def __init__(self, devices: int) -> None:
        super().__init__()
        self.devices = devices

    def train_dataloader(self) -> Any:
        x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        groups = torch.arange(24) % 5 % 3
        dataset = TensorDataset(x, ((x[:, 0] + 0.5 * groups) > 0.6).long(), groups)
        sampler = DistributedSampler(dataset, shuffle=False) if self.devices > 1 else None
        return DataLoader(dataset, batch_size=BATCH // self.devices, sampler=sampler)


def trained(callback: Callback, devices: int) -> torch.Tensor:
    """Weights after two epochs."""
    module = Net()
    trainer = Trainer(
        max_epochs=2,
        callbacks=[callback],
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=Shared(devices))
    return module.layer.weight.detach()


def objectives() -> dict[str, Callback]:
    """One of each."""
    return {
        "group_dro": GroupDRO(groups=2, num_groups=3, step_size=0.7),
        "reweighing": Reweighing(groups=2, num_groups=3),
        "adversary": AdversarialDebiasing(groups=2, num_groups=3),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", message=".*sync_dist=True")  # what is logged must be the same in both
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # the adversary's weights too
    alone = {name: trained(callback, 1) for name, callback in objectives().items()}
    both = {name: trained(callback, 2) for name, callback in objectives().items()}
    sys.stdout.write(json.dumps({name: float((alone[name] - both[name]).abs().max()) for name in alone}) + "\n")
