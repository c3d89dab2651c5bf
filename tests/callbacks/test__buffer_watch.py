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


def test_p33_what_is_written_past_the_tensor_is_found_by_its_values() -> None:
    module = torch.nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    for name in ("mean", "bank", "other", "kept"):
        module.register_buffer(name, torch.zeros(2))
    watch = BufferWatch(module, values=True)
    module.mean.data.mul_(0.5).add_(1)
    module.bank.numpy()[:] = 1
    module.other.data = torch.ones(2)
    module.weight.data.copy_(torch.ones(2, 2))
    assert watch.changed() == []
    assert sorted(watch.differing()) == ["bank", "mean", "other", "weight"]
    assert watch.differing() == watch.changed() == []
    module.kept.data += 1
    assert watch.differing() == ["kept"]


def test_each_change_is_told_once_whoever_finds_it() -> None:
    module = torch.nn.Module()
    module.register_buffer("mean", torch.zeros(2))
    watch = BufferWatch(module, values=True)
    module.mean.add_(1)
    assert watch.changed() == ["mean"]
    assert watch.differing() == []


def test_what_is_written_again_unchanged_does_not_differ() -> None:
    module = torch.nn.Module()
    module.register_buffer("mean", torch.tensor([1.0, float("nan")]))
    module.register_buffer("count", torch.zeros((), dtype=torch.long))
    watch = BufferWatch(module, values=True)
    module.mean = module.mean.clone()
    module.count += 1
    assert watch.differing() == []


def test_parts_that_are_thawed_or_frozen_while_they_are_trained_do_not_differ() -> None:
    module = torch.nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    watch = BufferWatch(module, values=True)
    module.weight.requires_grad_(True)
    watch.changed()
    module.weight.data += 1
    module.bias.data += 1
    module.weight.requires_grad_(False)
    module.bias.requires_grad_(False)
    assert watch.differing() == []
    module.bias.data += 1
    assert watch.differing() == ["bias"]


def test_a_buffer_that_comes_later_differs() -> None:
    module = torch.nn.Module()
    watch = BufferWatch(module, values=True)
    module.register_buffer("mean", torch.zeros(2))
    assert watch.differing() == ["mean"]
