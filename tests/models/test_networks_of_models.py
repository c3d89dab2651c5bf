"""The networks have the layers their papers and the documentation say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.models import MLP, PapernotCNN, PersonaNet


def _outline(network: nn.Module) -> list[tuple[str, ...]]:
    """Type and sizes of each layer that has any, in order."""
    found: list[tuple[str, ...]] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            settings = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
            found.append(("conv", *map(str, settings)))
        elif isinstance(layer, nn.MaxPool2d):
            found.append(("pool", str(layer.kernel_size), str(layer.stride)))
        elif isinstance(layer, nn.Linear):
            found.append(("dense", str(layer.in_features), str(layer.out_features)))
    return found


def test_persona_net_is_conv_pool_conv_pool_dense_dense():
    assert _outline(PersonaNet()) == [
        ("conv", "1", "32", "(3, 3)", "(1, 1)", "(0, 0)"),
        ("pool", "2", "2"),
        ("conv", "32", "64", "(3, 3)", "(1, 1)", "(0, 0)"),
        ("pool", "2", "2"),
        ("dense", "1600", "128"),
        ("dense", "128", "10"),
    ]


def test_papernot_cnn_is_that_of_table_1():
    assert _outline(PapernotCNN()) == [
        ("conv", "1", "16", "(8, 8)", "(2, 2)", "(3, 3)"),
        ("pool", "2", "1"),
        ("conv", "16", "32", "(4, 4)", "(2, 2)", "(0, 0)"),
        ("pool", "2", "1"),
        ("dense", "512", "32"),
        ("dense", "32", "10"),
    ]


def test_mlp_has_the_widths_asked_for():
    assert _outline(MLP(in_features=7, num_classes=3, hidden=(5, 4))) == [
        ("dense", "7", "5"),
        ("dense", "5", "4"),
        ("dense", "4", "3"),
    ]
    assert _outline(MLP(in_features=7, num_classes=3, hidden=())) == [("dense", "7", "3")]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda activation: PersonaNet(3, 7, activation, image_size=32), (2, 3, 32, 32)),
        (lambda activation: PersonaNet(1, 7, activation, image_size=10), (2, 1, 10, 10)),
        (lambda activation: PapernotCNN(3, 7, activation), (2, 3, 28, 28)),
        (lambda activation: MLP(12, 7, (4,), activation), (2, 3, 4)),
    ],
)
def test_maps_a_batch_to_logits_with_the_activation_asked_for(build, shape, activation):
    network = build(activation)
    assert network(torch.zeros(shape)).shape == (2, 7)
    kind = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    activations = [layer for layer in network.modules() if isinstance(layer, nn.Tanh | nn.ReLU)]
    assert activations
    assert all(type(layer) is kind for layer in activations)


@pytest.mark.parametrize("build", [PersonaNet, PapernotCNN, lambda: MLP(4, 2)])
def test_p03_no_layer_couples_the_examples_of_a_batch(build):
    """Each example's logits are those it has alone, in training mode."""
    network = build().train()
    torch.manual_seed(0)
    batch = torch.randn(5, 4) if isinstance(network, MLP) else torch.randn(5, 1, 28, 28)
    alone = torch.cat([network(example[None]) for example in batch])
    torch.testing.assert_close(network(batch), alone)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PersonaNet(image_size=9), "image_size must be >= 10, got 9"),
        (lambda: PersonaNet(activation="gelu"), "activation must be one of 'relu', 'tanh', got 'gelu'"),
        (lambda: PersonaNet(in_channels=0), "in_channels must be a whole number >= 1, got 0"),
        (lambda: PapernotCNN(num_classes=0), "num_classes must be a whole number >= 1, got 0"),
        (lambda: MLP(in_features=-1, num_classes=2), "in_features must be a whole number >= 1, got -1"),
        (lambda: MLP(in_features=1, num_classes=2, hidden=(0,)), "hidden must be a whole number >= 1, got 0"),
    ],
)
def test_a_bad_argument_is_named(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()
