"""Trains in processes which Lightning's launcher starts: ``launched_training.py STRATEGY PLUGIN FOLDER``.

It says how the weights changed, and what of all that was written holds a plain checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.plugins import AtomicCheckpointIO, EncryptedCheckpointIO
from lightning_privacy.security import Key


class _Seen:
    """Keeps what is written under the name of a launcher's file, in the process that writes it."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)  # type: ignore[misc] # of the other base
        if Path(path).name == ".temp.ckpt":
            Path(tempfile.gettempdir(), "seen").write_bytes(Path(path).read_bytes())


class Atomic(_Seen, AtomicCheckpointIO):
    pass


class Encrypted(_Seen, EncryptedCheckpointIO):
    pass


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(strategy: str, plugin: Any, folder: Path, *, private: bool) -> dict[str, Any]:
    temporary = folder / f"temporary_{private}"
    temporary.mkdir(parents=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)  # of this process, and of those that it spawns
    privacy = DifferentialPrivacy(epsilon=8.0, delta=1e-3)
    module, data = Module(), TensorDataset(torch.rand(64, 4), torch.arange(64) % 2)
    before = module.layer.weight.detach().clone()
    trainer = Trainer(
        accelerator="cpu", strategy=strategy, devices=2, max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[privacy] if private else [],
        plugins=[plugin],
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=8))
    return {
        "moved": float((module.layer.weight - before).abs().max()),
        "finished": trainer.state.finished,
        "epsilon": privacy.ledger.epsilon() if private else None,
        "plain": b"layer.weight" in (temporary / "seen").read_bytes(),
        "left": [str(path) for path in temporary.rglob("*.ckpt*")],
        "saved": [path.name for path in folder.rglob("epoch*.ckpt") if b"layer.weight" in path.read_bytes()],
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    strategy, plugin, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    Key.generate().save(folder / "key")  # one from a file goes to processes that are spawned
    writer = Atomic() if plugin == "atomic" else Encrypted(Key.from_file(folder / "key"))
    found = {str(private): trained(strategy, writer, folder, private=private) for private in (False, True)}
    (folder / "found.json").write_text(json.dumps(found))
