"""The quick walk through a network finds what the network says it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from lightning_privacy.gradients.walk import each_layer, each_parameter


class Hidden(nn.Module):
    """Has a layer that only its own way of telling shows."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.Linear(2, 2)]
        self.shown = nn.Linear(2, 1)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        yield from super().named_modules(*args, **kwargs)
        yield "hidden", self.parts[0]


class Shy(nn.Module):
    """Says less of itself than a network that it is part of does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def modules(self) -> Iterator[nn.Module]:
        yield self

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        yield self.inner.bias


def shared() -> nn.Module:
    layer = nn.Linear(3, 3)
    network = nn.Sequential(layer, nn.ReLU(), nn.Sequential(layer, nn.Linear(3, 3, bias=False)))
    network[2][1].weight = layer.weight
    return network


def with_gaps() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LSTM(2, 2), nn.MultiheadAttention(4, 2))
    network.register_module("nothing", None)
    network.register_parameter("none", None)
    network.register_parameter("own", nn.Parameter(torch.zeros(2)))
    return network


def cyclic() -> nn.Module:
    network = nn.Sequential(nn.Linear(1, 1))
    network[0].add_module("back", network)
    return network


NETWORKS = {
    "shared": shared,
    "gaps": with_gaps,
    "cyclic": cyclic,
    "root tells": Hidden,
    "part tells": lambda: nn.Sequential(nn.Linear(1, 1), Hidden(), nn.Linear(1, 1)),
    "shy root": Shy,
    "shy part": lambda: nn.Sequential(Shy(), nn.Linear(2, 1)),
    "normalised": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_and_parameters_are_those_that_the_network_gives(name: str) -> None:
    network = NETWORKS[name]()
    assert [id(layer) for layer in each_layer(network)] == [id(layer) for layer in network.modules()]
    assert list(dict.fromkeys(map(id, each_parameter(network)))) == [id(p) for p in network.parameters()]
