"""The checkpoints of the command: the best one, and the last state, whether or not it is a better one."""

from __future__ import annotations

import warnings

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import LightningModule, Trainer


class Still(LightningModule):
    """A network whose validation says the same after every epoch."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", 0.5)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(config, *, epochs, ckpt_path=None):
    callbacks = [instantiate(entry) for entry in config.callbacks.values()]
    loader = DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=4)
    trainer = Trainer(
        max_epochs=epochs, callbacks=callbacks, logger=False, accelerator="cpu", num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Still(), loader, loader, ckpt_path=ckpt_path)


@pytest.mark.parametrize("option", ["checkpoint", "checkpoint_last"])
def test_the_last_checkpoint_is_the_last_state_where_the_best_was_the_first(tmp_path, option):
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        config = compose("config", overrides=[f"callbacks={option}", f"paths.output_dir={tmp_path}"])
    folder = tmp_path / "checkpoints"
    _fit(config, epochs=3)
    files = ["last.ckpt"] if option == "checkpoint_last" else ["best.ckpt", "last.ckpt"]
    assert sorted(path.name for path in folder.iterdir()) == files
    steps = {name: torch.load(folder / name, weights_only=True)["global_step"] for name in files}
    assert steps == {"best.ckpt": 2, "last.ckpt": 6} if option == "checkpoint" else {"last.ckpt": 6}
    _fit(config, epochs=5, ckpt_path=folder / "last.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == files
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 10
