"""Training metrics are a caveat; one that something acts on is a warning too."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from lightning_privacy._lightning import ModelCheckpoint, pl
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks import _trainer as internals

EarlyStopping = pl.callbacks.EarlyStopping


def private() -> DifferentialPrivacy:
    return DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)


def fit(tiny: Any, module: Any, *callbacks: Any, validate: bool = False, epochs: int = 2) -> tuple[str, ...]:
    """The caveats of a short private run."""
    privacy = private()
    trainer = tiny.trainer(
        max_epochs=epochs,
        callbacks=[*callbacks, privacy],
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    )
    trainer.fit(module, tiny.loader(24, 4), tiny.loader(4, shuffle=False) if validate else None)
    assert trainer.global_step > 0
    assert all(caveat in privacy.ledger.summary() for caveat in privacy.ledger.caveats)
    return privacy.ledger.caveats


def silent(tiny: Any) -> Any:
    class Silent(tiny.Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.loss(batch)

    return Silent()


def test_p31_a_training_metric_is_a_caveat_and_no_warning(tiny: Any) -> None:
    (caveat,) = fit(tiny, tiny.Module())
    assert caveat.startswith("Logged while training: train_loss. ")


def test_p31_what_is_not_logged_has_no_caveat(tiny: Any) -> None:
    assert fit(tiny, silent(tiny)) == ()


@pytest.mark.parametrize(
    ("watcher", "name"),
    [
        (lambda path: EarlyStopping("train_loss", patience=9), "EarlyStopping"),
        (lambda path: ModelCheckpoint(path, monitor="train_loss"), "ModelCheckpoint"),
    ],
    ids=["EarlyStopping", "ModelCheckpoint"],
)
def test_p31_a_callback_on_a_training_metric_is_told_once(tiny: Any, tmp_path: Any, watcher: Any, name: str) -> None:
    with pytest.warns(UserWarning, match=f"{name} acts on 'train_loss'.*Monitor a metric of a validation set") as told:
        caveats = fit(tiny, tiny.Module(), watcher(tmp_path), epochs=3)
    assert sum("train_loss" in str(warning.message) for warning in told) == 1
    assert [caveat for caveat in caveats if caveat.startswith(f"{name} acts on 'train_loss'")] == [caveats[0]]
    assert caveats[1].startswith("Logged while training: train_loss")


def test_p31_a_plateau_scheduler_on_a_training_metric_is_told(tiny: Any) -> None:
    class Plateau(tiny.Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = self.loss(batch)
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss_epoch"}}

    with pytest.warns(UserWarning, match="ReduceLROnPlateau acts on 'loss'"):
        fit(tiny, Plateau())


@pytest.mark.parametrize("epochs", [1, 2])
def test_p31_a_metric_of_the_epochs_end_is_told(tiny: Any, epochs: int) -> None:
    class AtEnd(tiny.Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.loss(batch)

        def on_train_epoch_end(self) -> None:
            self.log("train_acc", 0.5)

    with pytest.warns(UserWarning, match="EarlyStopping acts on 'train_acc'"):
        fit(tiny, AtEnd(), EarlyStopping("train_acc", patience=9), epochs=epochs)


def test_p31_validation_metrics_and_private_gradients_are_not_told(tiny: Any, tmp_path: Any) -> None:
    class Norms(tiny.Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.loss(batch)

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            self.log("gradient_norm", sum(p.grad.norm() for p in self.parameters()))

    watchers = (EarlyStopping("val_loss"), ModelCheckpoint(tmp_path, monitor="val_loss"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*acts? on")
        assert fit(tiny, Norms(), *watchers, validate=True) == ()


def test_training_metrics_are_those_of_the_training_loop_with_their_keys(tiny: Any) -> None:
    class Both(tiny.Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = self.loss(batch)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

    trainer = tiny.trainer(max_epochs=1)
    trainer.fit(Both(), tiny.loader(8, 4), tiny.loader(4, shuffle=False))
    (metric,) = internals.training_metrics(trainer)
    assert metric == internals.LoggedMetric(
        "training_step", "train_loss", ("train_loss", "train_loss_step", "train_loss_epoch")
    )
    assert set(metric.keys) | {"val_loss"} == set(trainer.callback_metrics)
