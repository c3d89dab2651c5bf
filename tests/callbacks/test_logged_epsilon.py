"""The epsilon that is logged and shown while training."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import Callback, LightningModule, Trainer
from lightning_privacy.callbacks import DifferentialPrivacy


class Linear(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Shown(Callback):
    def __init__(self):
        self.values = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.values.append(float(trainer.callback_metrics["privacy/epsilon"]))


def test_what_is_shown_is_never_above_the_budget_nor_below_what_was_spent(tmp_path):
    privacy, shown = DifferentialPrivacy(epsilon=8.0, delta=1e-5, probe=False), Shown()
    trainer = Trainer(
        max_epochs=3,
        callbacks=[privacy, shown],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Linear(), DataLoader(TensorDataset(torch.randn(300, 2)), batch_size=20))
    spent = privacy.ledger.epsilon(exact=True)
    assert spent <= shown.values[-1] * (1 + 1e-6)
    assert max(shown.values) <= 8.0
    assert shown.values == sorted(shown.values)
