"""The rules that are told are those at work: each layer kind, and each way of doing without a rule."""

from __future__ import annotations

import torch
from torch import nn

from lightning_privacy.gradients.chosen_rules import ChosenRule, chosen_rules
from lightning_privacy.gradients.engine import PrivateGradients
from lightning_privacy.mechanisms.noise import NoiseSource


class _Scale(nn.Module):
    """A layer without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.factor


class _Network(nn.Module):
    """One layer of each way, and a parameter of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.scale = _Scale()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.head = nn.Linear(3, 2, bias=False)
        self.shift = nn.Parameter(torch.zeros(2))


def _engine(module, **options):
    return PrivateGradients(
        module, max_grad_norm=1.0, noise_multiplier=1.0, expected_batch_size=4, noise=NoiseSource(), **options
    )


def test_every_trained_layer_is_told_once_with_what_serves_it():
    network = _Network()
    engine = _engine(network)
    engine.attach()
    assert chosen_rules(network) == [
        ChosenRule("", "_Network", 2, "followed functions"),
        ChosenRule("first", "Linear", 15, "LinearRule"),
        ChosenRule("scale", "_Scale", 3, "a view per example"),
        ChosenRule("attention", "MultiheadAttention", 48, "AttentionRule"),
        ChosenRule("head", "Linear", 6, "LinearRule"),
    ]
    assert sum(chosen.parameters for chosen in chosen_rules(network)) == sum(
        parameter.numel() for parameter in network.parameters() if parameter.requires_grad
    )
    engine.detach()
    assert chosen_rules(network) == []


def test_a_public_part_is_told_as_such():
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    engine = _engine(network, public=["1.weight", "1.bias"])
    engine.attach()
    assert [chosen.rule for chosen in chosen_rules(network)] == ["LinearRule", "public: no privacy"]
    engine.detach()
