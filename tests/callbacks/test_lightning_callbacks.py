"""Lightning's own callbacks next to DifferentialPrivacy: they do what they do in a plain run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_privacy._lightning import CSVLogger, ModelCheckpoint, pl
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.errors import ConfigurationError

pytestmark = pytest.mark.filterwarnings("ignore:noise_multiplier=0", "ignore:delta=0.01 is not below")


def exact() -> DifferentialPrivacy:
    return DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9)


def private() -> DifferentialPrivacy:
    return DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pl.callbacks.WeightAveraging(),
        lambda: pl.callbacks.EMAWeightAveraging(decay=0.9),
        lambda: pl.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2, annealing_epochs=1),
    ],
    ids=["WeightAveraging", "EMAWeightAveraging", "StochasticWeightAveraging"],
)
@pytest.mark.parametrize("first", [False, True])
def test_p27_averages_of_weights_equal_those_of_a_plain_run(tiny: Any, make: Any, first: bool) -> None:
    plain, module = tiny.Module(), tiny.Module()
    tiny.trainer(max_epochs=6, callbacks=[make()]).fit(plain, tiny.loader(12, 12, shuffle=False))
    callbacks = [exact(), make()] if first else [make(), exact()]
    tiny.trainer(max_epochs=6, accumulate_grad_batches=3, callbacks=callbacks).fit(module, tiny.loader(12, 4))
    torch.testing.assert_close(module.weights(), plain.weights(), rtol=1e-12, atol=1e-13)


def test_model_checkpoint_counts_steps_and_is_loadable(tiny: Any, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    best = ModelCheckpoint(tmp_path / "best", monitor="val_loss", save_last=True)
    module = tiny.Module()
    trainer = tiny.trainer(
        max_epochs=2,
        accumulate_grad_batches=2,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        callbacks=[saver, best, private()],
    )
    trainer.fit(module, tiny.loader(40, 4), tiny.loader(4, shuffle=False))
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=3.ckpt", "step=6.ckpt", "step=9.ckpt"]
    state = torch.load(best.last_model_path, weights_only=True)
    assert state["callbacks"]["DifferentialPrivacy"]["ledger"]["releases"][0]["count"] == 10
    trainer.test(module, tiny.loader(4, shuffle=False), ckpt_path=best.best_model_path, verbose=False)


def test_early_stopping_stops_and_the_ledger_has_what_ran(tiny: Any) -> None:
    stop = pl.callbacks.EarlyStopping("val_loss", patience=0, divergence_threshold=-1.0)
    privacy = private()
    trainer = tiny.trainer(max_epochs=50, callbacks=[stop, privacy])
    trainer.fit(tiny.Module(), tiny.loader(24), tiny.loader(4, shuffle=False))
    assert trainer.current_epoch == 1
    assert privacy.ledger.history[0][1] == trainer.global_step == 6


def test_p23_learning_rate_monitor_and_log_interval_count_steps(tiny: Any, tmp_path: Path) -> None:
    columns = []
    for callbacks in ([], [private()]):
        logger = CSVLogger(tmp_path / str(len(columns)))
        trainer = tiny.trainer(
            max_epochs=4,
            accumulate_grad_batches=2,
            log_every_n_steps=2,
            logger=logger,
            callbacks=[pl.callbacks.LearningRateMonitor("step"), *callbacks],
        )
        trainer.fit(tiny.Module(one_cycle=True), tiny.loader(24, 4))
        lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
        names = lines[0].split(",")
        rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
        rates = {(row["step"], row["lr-SGD"]) for row in rows if row["lr-SGD"]}
        columns.append((rates, {row["step"] for row in rows if row["train_loss"]}))
    assert columns[0] == columns[1]


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_progress_bars_show_epsilon(tiny: Any, bar: str, capsys: pytest.CaptureFixture[str]) -> None:
    progress = getattr(pl.callbacks, bar)()
    trainer = tiny.trainer(max_epochs=2, enable_progress_bar=True, callbacks=[progress, private()])
    trainer.fit(tiny.Module(), tiny.loader(24))
    assert "privacy/epsilon" in trainer.progress_bar_metrics
    assert "privacy/epsilon" in "".join(capsys.readouterr())


def test_backbone_finetuning_unfreezes_into_private_training(tiny: Any) -> None:
    class Freeze(pl.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.net[0])

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=0.05)

    class Partial(tiny.Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05)

    module = Partial()
    before = module.net[0].weight.detach().clone()
    tiny.trainer(max_epochs=2, callbacks=[Freeze(), private()]).fit(module, tiny.loader(24))
    assert not torch.equal(before, module.net[0].weight)


def test_p07_a_layer_unfrozen_after_the_batch_started_is_taken_in(tiny: Any) -> None:
    class Late(tiny.Module):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step == 1:
                self.net[0].requires_grad_(True)

    weights = []
    for callbacks in ([], [exact()]):
        module = Late()
        module.net[0].requires_grad_(False)
        tiny.trainer(max_epochs=5, callbacks=callbacks).fit(module, tiny.loader(24, batch_size=24, shuffle=False))
        weights.append(module.weights())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-9)


def test_timer_saves_and_validates_between_micro_batches(tiny: Any, tmp_path: Path) -> None:
    from datetime import timedelta

    saver = ModelCheckpoint(tmp_path, train_time_interval=timedelta(seconds=0), filename="{step}", save_top_k=-1)
    module = tiny.Module()
    trainer = tiny.trainer(
        max_epochs=1,
        accumulate_grad_batches=4,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        val_check_interval=timedelta(seconds=0),
        callbacks=[saver, private()],
    )
    trainer.fit(module, tiny.loader(24, 3), tiny.loader(4, shuffle=False))
    assert trainer.global_step == 2
    assert len(module.validated_at) == len(module.seen)


@pytest.mark.parametrize("before", [0, 1])
def test_p26_a_trainer_that_took_steps_without_privacy_is_refused(tiny: Any, before: int) -> None:
    privacy, module, loader = private(), tiny.Module(), tiny.loader(24)
    trainer = tiny.trainer(max_epochs=before, callbacks=[privacy])
    trainer.fit(module, loader)
    trainer.callbacks.remove(privacy)
    trainer.fit_loop.max_epochs = before + 1
    trainer.fit(module, loader)
    trainer.callbacks.append(privacy)
    trainer.fit_loop.max_epochs = before + 2
    with pytest.raises(ConfigurationError, match="were not private"):
        trainer.fit(module, loader)
