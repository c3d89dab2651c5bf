"""Buffers that training changes are told about."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.gradients.buffer_watch import BufferWatch


def test_in_place_changes_and_replacements_are_told_once() -> None:
    module = torch.nn.Module()
    module.register_buffer("mean", torch.zeros(2))
    module.register_buffer("bank", torch.zeros(2))
    module.register_buffer("count", torch.zeros((), dtype=torch.long))
    watch = BufferWatch(module)
    assert watch.changed() == []
    module.count += 1
    module.mean.mul_(2)
    module.bank = torch.ones(2)
    assert watch.changed() == ["mean", "bank"]
    module.mean.mul_(2)
    assert watch.changed() == []


def test_a_buffer_replaced_twice_between_questions_is_told() -> None:
    module = torch.nn.Module()
    module.register_buffer("mean", torch.zeros(1000))
    watch = BufferWatch(module)
    module.mean = module.mean + 1
    module.mean = module.mean + 1  # where the first one was in memory, were it not kept
    assert watch.changed() == ["mean"]


def test_p33_a_statistic_kept_in_a_buffer_is_a_caveat(tiny: Any) -> None:
    class Running(tiny.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running", torch.zeros(()))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.running.add_(1.0)
            return super().training_step(batch, batch_idx)

    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    with pytest.warns(UserWarning, match="'running', which no gradient trains, changed"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Running(), tiny.loader(12, 4))
    assert "'running', which no gradient trains" in privacy.ledger.summary()


def test_a_model_that_leaves_its_buffers_alone_has_no_caveat(tiny: Any) -> None:
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(tiny.Module(), tiny.loader(12, 4))
    assert not any("changed during training" in caveat for caveat in privacy.ledger.caveats)


def test_p33_class_counts_and_weights_written_by_hand_are_noticed() -> None:
    module = torch.nn.Linear(2, 2)
    module.register_buffer("counts", torch.zeros(3, dtype=torch.long))
    module.weight.requires_grad_(False)
    watch = BufferWatch(module)
    module.counts += 1
    with torch.no_grad():
        module.weight.mul_(2)
    assert sorted(watch.changed()) == ["counts", "weight"]
    with torch.no_grad():
        module.bias.mul_(2)
    assert watch.changed() == []
