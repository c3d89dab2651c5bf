"""What is written down of how public parameters are trained, and when two runs count as different."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from lightning_privacy.gradients.probe_updates import PublicUpdates, public_updates

PUBLIC = ["0.weight", "0.bias"]


def run(change: Callable[[nn.Sequential, Any, Any], None] = lambda net, own, other: None) -> PublicUpdates:
    """A step on a public and a private layer, with something done before the optimizers step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    own, other = (torch.optim.Adam(layer.parameters(), lr=1e-4) for layer in net)
    with public_updates(net, PUBLIC) as found:
        net(torch.ones(4, 3).double()).sum().backward()
        for name in PUBLIC:
            found.add(name, net.get_parameter(name).grad)
        change(net, own, other)
        own.step()
        other.step()
    return found


def rate(lr: Any) -> Callable[..., None]:
    return lambda net, own, other: own.param_groups[0].update(lr=lr)


def split(net: Any, own: Any, other: Any) -> None:
    own.param_groups[0]["params"] = [net[0].weight]
    own.add_param_group({"params": [net[0].bias]})


DIFFERENT = {
    "rate": rate(1.01e-4),
    "rate_as_tensor": rate(torch.tensor(2e-4)),
    "no_rate": rate(float("nan")),
    "betas": lambda net, own, other: own.param_groups[0].update(betas=(0.9, 0.99)),
    "another_step": lambda net, own, other: own.step(),
    "gradient": lambda net, own, other: net[0].bias.grad.mul_(1.001),
    "no_gradient": lambda net, own, other: setattr(net[0].bias, "grad", None),
    "one_left_out": lambda net, own, other: own.param_groups[0]["params"].pop(),
}
SAME = {
    "again": lambda net, own, other: None,
    "rounding": rate(1e-4 * (1 + 1e-12)),
    "as_tensor": rate(torch.tensor(1e-4, dtype=torch.float64)),
    "other_rate": lambda net, own, other: other.param_groups[0].update(lr=3.0),
    "other_step": lambda net, own, other: other.step(),
    "other_gradient": lambda net, own, other: net[1].bias.grad.mul_(3),
    "two_groups": split,
}


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT)
def test_p24_what_moves_public_parameters_otherwise_is_a_change(change: Any) -> None:
    assert run().changed(run(change), tolerance=1e-6) in PUBLIC
    assert run(change).changed(run(), tolerance=1e-6) in PUBLIC


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_leaves_them_where_they_go_is_none(change: Any) -> None:
    assert run().changed(run(change), tolerance=1e-6) is None


def test_a_gradient_that_is_left_for_later_counts_and_later_steps_do_not() -> None:
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    found = []
    for value in (1.0, 2.0):
        with public_updates(net, ["bias"]) as updates:
            net.bias.grad = torch.full((1,), value)
        optimizer.step()
        found.append(updates)
    assert found[0].changed(found[1], tolerance=1e-6) == "bias"
    assert not _global_optimizer_post_hooks


def test_gradients_of_several_backwards_add_up_and_what_was_given_stays() -> None:
    net, one = nn.Linear(2, 1, bias=False), torch.ones(1, 2)
    sums = [PublicUpdates(net, ["weight"]) for _ in range(2)]
    for number in (1, 2):
        sums[0].add("weight", one * number)
    sums[1].add("weight", 3 * one)
    assert sums[0].changed(sums[1], tolerance=1e-6) is None
    sums[1].add("weight", 0.01 * one)
    assert sums[0].changed(sums[1], tolerance=1e-6) == "weight"
    assert torch.equal(one, torch.ones(1, 2))
