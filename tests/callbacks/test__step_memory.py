"""The memory of a step against numbers counted by hand, and against what a run really keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import Callback, LightningModule, Trainer
from lightning_privacy.callbacks._step_memory import StepMemory, optimizer_bytes, row_bytes, tensor_bytes


class _Network(LightningModule):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class _Measure(Callback):
    """Asks when a fit has started."""

    def __init__(self) -> None:
        self.rows: dict[bool, float] = {}
        self.state = 0

    def on_train_start(self, trainer, pl_module):
        loader = trainer.train_dataloader
        self.rows = {private: row_bytes(trainer, pl_module, loader, private=private) for private in (False, True)}
        self.state = optimizer_bytes(trainer.optimizers)


@pytest.fixture(scope="module")
def measured():
    measure = _Measure()
    trainer = Trainer(
        callbacks=[measure], accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(torch.randn(40, 100), torch.arange(40) % 10), batch_size=8)
    trainer.fit(_Network(), loader)
    return measure, trainer


def test_a_row_of_a_plain_step_is_what_autograd_keeps_of_it(measured):
    # Input, output of ReLU (which is the input of the next layer), log-probabilities, label.
    assert measured[0].rows[False] == 4 * 100 + 4 * 200 + 4 * 10 + 8


def test_a_private_row_also_keeps_the_gradients_of_the_outputs(measured):
    assert measured[0].rows[True] - measured[0].rows[False] == 4 * 200 + 4 * 10


def test_the_state_that_is_foreseen_is_the_state_there_is_after_a_step(measured):
    measure, trainer = measured
    steps = 4 * len(list(trainer.model.parameters()))  # Adam counts its steps for each parameter
    assert measure.state == optimizer_bytes(trainer.optimizers) - steps


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1),
        (lambda p: torch.optim.Adagrad(p), 1),
        (lambda p: torch.optim.RMSprop(p), 1),
        (lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True), 3),
        (lambda p: torch.optim.AdamW(p), 2),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), 3),
        (lambda p: torch.optim.Adadelta(p), 2),
    ],
    ids=["sgd", "momentum", "adagrad", "rmsprop", "rmsprop-all", "adamw", "amsgrad", "adadelta"],
)
def test_the_numbers_an_optimizer_holds(make, numbers):
    weight = nn.Parameter(torch.zeros(1000))
    optimizer = make([weight])
    before = optimizer.state.get(weight, {})
    if not before:  # some make their state at once
        assert optimizer_bytes([optimizer]) == 4000 * numbers
    weight.grad = torch.ones(1000)
    optimizer.step()
    assert optimizer_bytes([optimizer]) // 4000 == numbers


def test_the_sum():
    memory = StepMemory(weights=100, gradients=50, optimizer=25, row=10.0, rows=4)
    assert memory.model == 175
    assert memory.total == 215
    assert StepMemory(weights=1, gradients=1, optimizer=1, row=None, rows=4).total is None
    assert tensor_bytes([torch.zeros(3), torch.zeros(2, dtype=torch.float64)]) == 28
