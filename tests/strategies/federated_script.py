"""Federated fits in processes of their own: run with the number of processes, a folder and the kinds of fit.

With ``LP_KILL=rank:round`` in the environment that process is killed in that round. With ``LP_RESUMABLE=1`` a
checkpoint is written after each round, and a fit goes on from the one it finds in the folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import LightningModule, ModelCheckpoint, Trainer
from lightning_privacy.federated.aggregation import CoordinateMedian
from lightning_privacy.federated.algorithms import Scaffold
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.example_privacy import ExamplePrivacy
from lightning_privacy.federated.partitions import QuantityPartition
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.strategies import FederatedStrategy


class Model(LightningModule):
    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        middle: list[nn.Module] = [nn.Tanh()] if plain else [nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.2)]
        self.net = nn.Sequential(nn.Linear(3, 4), *middle, nn.Linear(4, 1)).double()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if os.environ.get("LP_KILL") == f"{self.global_rank}:{self.trainer.global_step}":
            os.kill(os.getpid(), signal.SIGKILL)
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss.detach(), on_step=True, on_epoch=True, sync_dist=True)
        self.log("error", loss.detach().sqrt(), on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def data(num_examples: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(num_examples)
    inputs = torch.randn(num_examples, 3, generator=generator, dtype=torch.float64)
    return TensorDataset(inputs, inputs.sum(1, keepdim=True))


STRATEGIES: dict[str, dict[str, Any]] = {
    "mean": {"cohort_size": 5},
    "exact": {"cohort_size": 5, "deterministic": True},
    "one": {"cohort_size": 1},  # one process has no client to train
    "scaffold": {"cohort_size": 5, "algorithm": Scaffold()},
    "median": {"cohort_size": 5, "aggregator": CoordinateMedian()},
    "personal": {"cohort_size": 5, "personal": ["net.4"], "persistent_optimizer": True},
    "private": {"cohort_size": 3, "client_sampling": "poisson"},
    "secure": {"secure_sum": SecureSum()},
    "examples": {"cohort_size": 5},
    "vectorized": {"cohort_size": 5, "vectorize": 2},
}
PLAIN = ("examples", "vectorized")  # without layers that these refuse


def fit(kind: str, devices: int, folder: Path) -> dict[str, Any]:
    options = dict(STRATEGIES[kind])
    if kind == "private":
        options["client_privacy"] = ClientPrivacy(
            delta=1e-5, noise_multiplier=1.0, max_delta_norm=0.1, noise=NoiseSource(seed=1), adaptive=True
        )
    if kind == "examples":
        options["example_privacy"] = ExamplePrivacy(
            delta=1e-5, noise_multiplier=1.0, noise=NoiseSource(seed=1), probe=False
        )
    torch.manual_seed(0)
    model = Model(plain=kind in PLAIN)
    strategy = FederatedStrategy(
        partition=QuantityPartition(9, alpha=1.0, min_examples=3), seed=2, local_epochs=2, **options
    )
    resumable = "LP_RESUMABLE" in os.environ
    saver = ModelCheckpoint(folder, filename="{epoch}", save_last=True, save_on_train_epoch_end=True)
    last = folder / "last.ckpt"
    trainer = Trainer(
        callbacks=[saver] if resumable else [],
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=resumable,
        default_root_dir=folder,
    )
    trainer.fit(
        model,
        DataLoader(data(80), batch_size=3, shuffle=True, drop_last=True),
        DataLoader(data(12), batch_size=4),
        ckpt_path=last if resumable and last.exists() else None,
    )
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "seconds" not in name}
    weights = torch.cat([tensor.double().reshape(-1) for tensor in model.state_dict().values()])
    privacy, examples = options.get("client_privacy"), options.get("example_privacy")
    return {
        "weights": weights.tolist(),
        "metrics": metrics,
        "clients": [entry["client"] for entry in strategy.history],
        "epsilon": None if privacy is None else privacy.ledger.epsilon(exact=True),
        "charged": None if privacy is None else sum(count for _, count, _ in privacy.ledger.history),
        "steps": None if examples is None else [examples.ledger(client).history[0][1] for client in examples.clients],
        "rank": trainer.global_rank,
    }


if __name__ == "__main__":
    devices, folder = int(sys.argv[1]), Path(sys.argv[2])
    results = {kind: fit(kind, devices, folder) for kind in sys.argv[3:] or STRATEGIES}
    rank = next(iter(results.values()))["rank"]
    (folder / f"results_{devices}_{rank}.json").write_text(json.dumps(results))
