"""Losses kept as layers that let examples of a batch influence each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_privacy import DPOptimizer, UnsupportedError
from lightning_privacy.gradients.inspection import refuse_unfit


class _WithLoss(nn.ModuleDict):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self["net"](x)


def _model(loss: nn.Module) -> nn.Module:
    return _WithLoss({"net": nn.Linear(3, 2), "loss": loss})


def private(model: nn.Module) -> DPOptimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return DPOptimizer(optimizer, model, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=4)


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.NLLLoss])
@pytest.mark.parametrize("settings", [{"weight": torch.tensor([1.0, 3.0])}, {"ignore_index": 0}])
def test_p03_a_loss_normalised_over_the_batch_is_refused_when_it_is_trained_on(kind, settings):
    model, x, y = _model(kind(**settings)), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    refuse_unfit(model)
    optimizer = private(model)
    try:
        with torch.no_grad():  # a metric
            model["loss"](model["net"](x), y)
        with pytest.raises(UnsupportedError, match=rf"layer 'loss' \({kind.__name__}\).*reduction='none'.*mean\(\)"):
            model["loss"](model(x), y)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    finally:
        optimizer.detach()
    assert torch.isfinite(model["loss"](model["net"](x), y))


def test_the_hint_for_networks_that_take_norm_layer_works() -> None:
    models = pytest.importorskip("torchvision.models")
    with pytest.raises(UnsupportedError, match=r"norm_layer=lambda c: torch\.nn\.GroupNorm\(math\.gcd\(32, c\), c\)"):
        refuse_unfit(models.mobilenet_v2())
    refuse_unfit(models.mobilenet_v2(norm_layer=lambda c: torch.nn.GroupNorm(math.gcd(32, c), c)))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]), reduction="none"),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])),
    ],
)
def test_p03_a_loss_of_each_example_alone_is_accepted(loss):
    refuse_unfit(_model(loss))


def test_p03_a_subclass_of_a_layer_is_refused_for_the_same_options() -> None:
    class Table(nn.Embedding):
        pass

    model = nn.Sequential(Table(4, 2, max_norm=1.0).requires_grad_(False), nn.Linear(2, 2))
    with pytest.raises(UnsupportedError, match="max_norm"):
        refuse_unfit(model)
