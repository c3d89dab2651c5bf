"""Fits of a balanced sampler in two processes, started by test_balanced_ddp.py in a process of their own.

``python ddp_balanced.py FOLDER`` forks two; what each was given in each fit is in ``FOLDER/RANK.json``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from lightning_privacy._lightning import DDPStrategy, LightningModule, Trainer
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling import BalancedBatchSampler, BalancedSampler

LABELS = np.repeat([0, 1], [60, 20])
DATA = torch.arange(80.0)


class Seen(LightningModule):
    def __init__(self, loader: Any = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.loader = loader
        self.seen: list[list[int]] = []

    def train_dataloader(self) -> Any:
        return self.loader()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.int().tolist())
        return self.weight * batch.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(loader: Any, folder: Path, *, in_hook: bool) -> list[list[int]]:
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    module = Seen(loader)
    trainer.fit(module, None if in_hook else loader())
    return module.seen


def sampled() -> DataLoader[Any]:
    return DataLoader(DATA, batch_size=5, sampler=BalancedSampler(LABELS, seed=2))


def batched() -> DataLoader[Any]:
    return DataLoader(DATA, batch_sampler=BalancedBatchSampler(LABELS, 4, seed=2, replacement=False))


def process(rank: int, folder: Path) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    seen: dict[str, Any] = {
        "sampler in train_dataloader": fit(sampled, folder, in_hook=True),
        "sampler passed to fit": fit(sampled, folder, in_hook=False),
        "batches in train_dataloader": fit(batched, folder, in_hook=True),
    }
    try:
        fit(batched, folder, in_hook=False)
    except ConfigurationError as error:
        seen["error"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=process, args=(rank, Path(sys.argv[1]))) for rank in range(2)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(120)
        each.kill()
    sys.exit(max(abs(each.exitcode or 0) for each in processes))
