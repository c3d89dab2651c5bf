"""The Classifier trains, logs per-example means and knows nothing about privacy."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import lightning_privacy.models
from lightning_privacy._lightning import Trainer
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.models import MLP, Classifier

SGD = functools.partial(torch.optim.SGD, lr=0.5)


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        max_epochs=3,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )


def _loader(batch_size: int, count: int = 30) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 4, generator=generator)
    return DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=batch_size)


def test_figures_are_means_over_examples_when_batches_differ_in_length(trainer):
    """Seven batches of 4 and one of 2: a mean over batches would weigh the last one double."""
    torch.manual_seed(0)
    model = Classifier(MLP(4, 2), num_classes=2, optimizer=SGD)
    loader = _loader(batch_size=4)
    (logged,) = trainer.test(model, dataloaders=loader, verbose=False)
    inputs, labels = loader.dataset.tensors
    with torch.no_grad():
        logits = model(inputs)
    assert logged["test/loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert logged["test/acc"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()), rel=1e-6)


def test_training_lowers_the_loss_and_logs_it(trainer):
    torch.manual_seed(0)
    model = Classifier(MLP(4, 2), num_classes=2, optimizer=SGD)
    (before,) = trainer.test(model, dataloaders=_loader(10), verbose=False)
    trainer.fit(model, _loader(10), _loader(10))
    logged = set(trainer.callback_metrics)
    (after,) = trainer.test(model, dataloaders=_loader(10), verbose=False)
    assert after["test/loss"] < before["test/loss"]
    assert {"train/loss", "train/acc", "val/loss", "val/acc"} <= logged


def test_a_scheduler_is_stepped_as_asked():
    scheduler = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    model = Classifier(MLP(4, 2), num_classes=2, optimizer=SGD, scheduler=scheduler, scheduler_interval="step")
    configured = model.configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    assert configured["lr_scheduler"]["scheduler"].optimizer is configured["optimizer"]


def test_a_bad_argument_is_named():
    with pytest.raises(ConfigurationError, match="scheduler_interval must be one of 'epoch', 'step', got 'batch'"):
        Classifier(MLP(4, 2), num_classes=2, optimizer=SGD, scheduler_interval="batch")
    with pytest.raises(ConfigurationError, match="num_classes must be a whole number >= 1, got 0"):
        Classifier(MLP(4, 2), num_classes=0, optimizer=SGD)


def test_no_model_mentions_a_room_of_privacy():
    for path in Path(lightning_privacy.models.__file__).parent.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        for room in ("accounting", "callbacks", "gradients", "mechanisms", "sampling"):
            assert f"lightning_privacy.{room}" not in source
