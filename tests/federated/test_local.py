"""The local loop's short ways do what the long ones do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lightning_privacy.federated.local import drop_gradients, plain_step


def layer_and(make: Any) -> tuple[nn.Linear, Any]:
    torch.manual_seed(0)
    layer = nn.Linear(2, 1)
    layer(torch.ones(3, 2)).mean().backward()
    return layer, make(layer.parameters())


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_a_step_is_the_optimizers_step(make):
    found = []
    for short in (False, True):
        layer, optimizer = layer_and(make)
        step = plain_step(optimizer) if short else optimizer.step
        for _ in range(2):
            step()
        found.append((layer.weight.detach().clone(), optimizer.state_dict()["state"].keys()))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert plain_step(layer_and(make)[1]) != layer_and(make)[1].step


def test_hooks_of_the_optimizer_are_called():
    _, optimizer = layer_and(torch.optim.SGD)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    plain_step(optimizer)()
    assert seen == ["after"]
    _, other = layer_and(torch.optim.SGD)
    handle = register_optimizer_step_pre_hook(lambda *_: seen.append("before"))
    plain_step(other)()
    handle.remove()
    assert seen == ["after", "before"]


def test_a_step_put_in_its_place_is_taken():
    _, optimizer = layer_and(torch.optim.SGD)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # counts calls of step
    assert plain_step(optimizer) == optimizer.step


def test_an_own_zero_grad_is_called():
    class Counting(torch.optim.SGD):
        calls = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.calls += 1
            super().zero_grad(set_to_none)

    layer, optimizer = layer_and(Counting)
    drop_gradients(optimizer)
    assert optimizer.calls == 1
    assert layer.weight.grad is None
