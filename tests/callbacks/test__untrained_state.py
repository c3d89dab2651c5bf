"""What training leaves in a checkpoint past the gradients is a caveat, however it got there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn

from lightning_privacy._lightning import Callback
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks._untrained_state import UntrainedState


def _running(module: Any, batch: Any) -> None:
    module.mean.data.mul_(0.5).add_(batch[0].mean(0).float() * 0.5)


def _numpy(module: Any, batch: Any) -> None:
    module.mean.numpy()[:] = batch[0].mean(0)


def _another(module: Any, batch: Any) -> None:
    module.mean.data = batch[0].mean(0).float()


def _frozen(module: Any, batch: Any) -> None:
    module.frozen.weight.data.copy_(batch[0].mean(0)[None])


def _metric(module: Any, batch: Any) -> None:
    module.metric.update(batch[0].sum(0))


def _listed(module: Any, batch: Any) -> None:
    module.listed.update(batch[0].sum(0))


def _extra(module: Any, batch: Any) -> None:
    module.extra.kept = batch[0].mean(0)


class Extra(nn.Module):
    """A part with an extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = torch.zeros(3)

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


def _keeping(tiny: Any, *, write: Any, hook: str, persistent: bool = True) -> Any:
    """A module that writes something about its batch into what no gradient trains, in one of its hooks."""

    class Keeping(tiny.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))
            self.frozen = nn.Embedding(1, 3).requires_grad_(False)
            self.metric, self.listed, self.extra = torchmetrics.MeanMetric(), torchmetrics.CatMetric(), Extra()
            self.metric.persistent(persistent)
            self.listed.persistent(persistent)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.last = batch
            if hook == "training_step":
                write(self, batch)
            loss: Tensor = super().training_step(batch, batch_idx)
            return loss

    if hook != "training_step":
        setattr(Keeping, hook, lambda self, *_: write(self, self.last))
    return Keeping()


@pytest.mark.filterwarnings("ignore:'metric.weight', which no gradient trains")
@pytest.mark.filterwarnings("ignore:Encountered .nan. values")  # in the probe's batches
@pytest.mark.parametrize("hook", ["training_step", "on_train_end"])
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (_running, "mean"),
        (_numpy, "mean"),
        (_another, "mean"),
        (_frozen, "frozen.weight"),
        (_metric, "metric.mean_value"),
        (_listed, "listed.value"),
        (_extra, "extra._extra_state"),
    ],
    ids=["data", "numpy", "another", "frozen", "metric", "metric-list", "extra-state"],
)
def test_p33_what_is_written_past_the_tensor_is_a_caveat(tiny: Any, write: Any, name: str, hook: str) -> None:
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    with pytest.warns(UserWarning, match=f"'{name}', which no gradient trains, changed"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(_keeping(tiny, write=write, hook=hook), tiny.loader(12, 4))
    assert any(f"'{name}', which no gradient trains" in caveat for caveat in privacy.ledger.caveats)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_train_end", "on_fit_end"])
def test_p33_what_is_written_after_the_last_step_is_a_caveat(tiny: Any, hook: str) -> None:
    def in_place(module: Any, batch: Any) -> None:
        module.mean.copy_(batch[0].mean(0))

    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    module = _keeping(tiny, write=in_place, hook=hook)
    with pytest.warns(UserWarning, match="'mean', which no gradient trains, changed"):
        tiny.trainer(max_steps=1, callbacks=[privacy]).fit(module, tiny.loader(12, 4))
    assert any("'mean', which no gradient trains" in caveat for caveat in privacy.ledger.caveats)


def test_p33_a_checkpoint_made_within_an_epoch_has_the_caveat(tiny: Any, tmp_path: Path) -> None:
    class Saving(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                trainer.save_checkpoint(tmp_path / "early.ckpt")
                assert any("'mean', which no gradient" in caveat for caveat in privacy.ledger.caveats)

    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    module = _keeping(tiny, write=_running, hook="training_step")
    with pytest.warns(UserWarning, match="'mean', which no gradient trains, changed"):
        tiny.trainer(max_epochs=1, callbacks=[privacy, Saving()]).fit(module, tiny.loader(12, 4))
    saved = torch.load(tmp_path / "early.ckpt", weights_only=True)
    assert "'mean', which no gradient trains" in str(saved["callbacks"])


def test_an_interrupted_fit_has_the_caveat(tiny: Any) -> None:
    def failing(module: Any, batch: Any) -> None:
        _running(module, batch)
        if module.trainer.global_step == 1:
            raise ValueError("over")

    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    module = _keeping(tiny, write=failing, hook="training_step")
    with (
        pytest.warns(UserWarning, match="'mean', which no gradient trains, changed"),
        pytest.raises(ValueError, match="over"),
    ):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(module, tiny.loader(12, 4))
    assert any("'mean', which no gradient trains" in caveat for caveat in privacy.ledger.caveats)


class Averaging(Callback):
    """Validates with an average of the weights, and leaves it in the module at the end; in the usual way of EMA."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.average = {name: value.clone() for name, value in pl_module.state_dict().items() if "extra" not in name}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        for name, value in pl_module.state_dict().items():
            if name in self.average:
                self.average[name].lerp_(value, 0.1)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        for name, value in pl_module.state_dict().items():
            if name in self.average:
                value.data.copy_(self.average[name])

    on_train_end = on_train_epoch_end


def test_sound_runs_have_no_caveat_and_no_warning(tiny: Any) -> None:
    def sound(module: Any, batch: Any) -> None:
        module.metric.update(batch[0].sum(0))
        module.listed.update(batch[0].sum(0))
        module.steps.data += 1
        module.extra.kept = {"steps": int(module.steps)}

    module = _keeping(tiny, write=sound, hook="training_step", persistent=False)
    module.extra.kept = {"steps": 0}
    module.register_buffer("steps", torch.zeros((), dtype=torch.long), persistent=False)
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*which no gradient trains")
        tiny.trainer(max_epochs=2, callbacks=[Averaging(), privacy, Averaging()]).fit(module, tiny.loader(12, 4))
    assert int(module.steps) > 0
    assert not any("which no gradient trains" in caveat for caveat in privacy.ledger.caveats)


def test_every_caveat_is_there_before_a_warning_that_is_an_error() -> None:
    module = nn.Module()
    module.register_buffer("first", torch.zeros(2))
    module.register_buffer("second", torch.zeros(2))
    ledger = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0).ledger
    state = UntrainedState(module, ledger)
    module.first.data += 1
    module.second.data += 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="'first'"):
            state.compare()
    assert [caveat[:8] for caveat in ledger.caveats] == ["'first',", "'second'"]
