"""Lines where the output is kept, a bar where a person watches."""

from __future__ import annotations

import functools
import io

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import Trainer, pl
from lightning_privacy.callbacks import DifferentialPrivacy, PrivacyProgressBar, ProgressLines, make_progress
from lightning_privacy.callbacks._run_clock import RunClock, duration
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.models import MLP, Classifier


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _fit(*callbacks: pl.Callback, **limits: int) -> Trainer:
    model = Classifier(MLP(2, 2), num_classes=2, optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    loader = DataLoader(TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), batch_size=2)
    trainer = Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **limits,
    )
    trainer.fit(model, loader, loader)
    return trainer


def _lines(progress: ProgressLines, output: io.StringIO, **limits: int) -> list[str]:
    _fit(progress, **limits)
    return output.getvalue().splitlines()


def test_about_as_many_lines_as_asked_and_the_last_epoch_among_them():
    output = io.StringIO()
    lines = _lines(ProgressLines(output, lines=3), output, max_epochs=7)
    assert [line.split("  ")[:2] for line in lines] == [
        ["epoch 2", "step 4"],
        ["epoch 4", "step 8"],
        ["epoch 6", "step 12"],
        ["epoch 7", "step 14"],
    ]
    assert all("train/loss 0." in line for line in lines)


def test_a_run_limited_in_steps_prints_its_end():
    output = io.StringIO()
    lines = _lines(ProgressLines(output), output, max_steps=3)
    assert lines[-1].split("  ")[1] == "step 3"


def test_disabled_it_prints_nothing():
    output = io.StringIO()
    progress = ProgressLines(output)
    progress.disable()
    assert _lines(progress, output, max_epochs=2) == []
    progress.enable()
    assert progress.is_enabled


def test_a_terminal_gets_a_bar_and_a_file_gets_lines():
    assert isinstance(make_progress(_Terminal()), PrivacyProgressBar)
    assert isinstance(make_progress(io.StringIO()), ProgressLines)


def test_the_number_of_lines_is_checked():
    with pytest.raises(ConfigurationError, match="lines must be a whole number >= 1, got 0"):
        ProgressLines(lines=0)


def _left(line: str) -> dict[str, str]:
    """What a line says is left: name to value."""
    return {
        name: part.removeprefix(name).strip()
        for part in line.split("  ")
        for name in ("epsilon left", "time left")
        if part.startswith(name)
    }


def _private() -> DifferentialPrivacy:
    return DifferentialPrivacy(epsilon=3.0, delta=1e-3, probe=False)


@pytest.mark.filterwarnings("ignore:Logged while training.*")
def test_a_private_run_says_what_is_left_of_budget_and_time():
    output = io.StringIO()
    privacy = _private()
    _fit(ProgressLines(output), privacy, max_epochs=4)
    lines = [_left(line) for line in output.getvalue().splitlines()]
    left = [float(line["epsilon left"].removesuffix(" of 3")) for line in lines]
    assert left == sorted(left, reverse=True)
    assert left[-1] == pytest.approx(3.0 - privacy.ledger.epsilon(), abs=0.01)
    # Of the time something is told while there is some left.
    assert ["time left" in line for line in lines] == [True, True, True, False]


def test_a_run_without_privacy_has_no_budget_to_tell_of():
    output = io.StringIO()
    lines = [_left(line) for line in _lines(ProgressLines(output), output, max_epochs=3)]
    assert [set(line) for line in lines] == [{"time left"}, {"time left"}, set()]


class _SeenBar(PrivacyProgressBar):
    """Keeps what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[dict[str, object]] = []

    def get_metrics(self, trainer, pl_module):
        shown = super().get_metrics(trainer, pl_module)
        self.shown.append(shown)
        return shown


@pytest.mark.filterwarnings("ignore:Logged while training.*")
def test_the_bar_shows_epsilon_and_what_is_left():
    bar = _SeenBar()
    _fit(bar, _private(), max_epochs=3)
    last = [shown for shown in bar.shown if "time left" in shown][-1]
    assert 0 < last["privacy/epsilon"] < 3.0
    assert str(last["epsilon left"]).endswith("of 3")
    assert last["time left"].count(":") == 1


def test_the_clock_leaves_the_first_step_out_and_knows_the_end():
    clock = RunClock(total=20, done=10, now=0.0)
    assert clock.seconds_left(10, now=1.0) is None
    clock.step(11, now=100.0)  # slow: the probe
    assert clock.seconds_left(11, now=100.0) is None
    clock.step(13, now=104.0)
    assert clock.seconds_left(13, now=104.0) == 14.0
    assert clock.seconds_left(25, now=104.0) == 0.0
    endless = RunClock(total=None, done=0, now=0.0)
    endless.step(1, now=1.0)
    assert endless.seconds_left(2, now=2.0) is None


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:01"), (61, "1:01"), (3599.5, "1:00:00"), (90_000, "25:00:00")])
def test_a_duration_reads_as_hours_minutes_seconds(seconds, text):
    assert duration(seconds) == text
