"""Lines where the output is kept, a bar where a person watches."""

from __future__ import annotations

import functools
import io

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import Trainer, pl
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.models import MLP, Classifier
from lightning_privacy.report import ProgressLines, make_progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _lines(progress: ProgressLines, output: io.StringIO, **limits: int) -> list[str]:
    model = Classifier(MLP(2, 2), num_classes=2, optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    loader = DataLoader(TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), batch_size=2)
    trainer = Trainer(
        callbacks=[progress],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **limits,
    )
    trainer.fit(model, loader, loader)
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
    assert isinstance(make_progress(_Terminal()), pl.callbacks.TQDMProgressBar)
    assert isinstance(make_progress(io.StringIO()), ProgressLines)


def test_the_number_of_lines_is_checked():
    with pytest.raises(ConfigurationError, match="lines must be a whole number >= 1, got 0"):
        ProgressLines(lines=0)
