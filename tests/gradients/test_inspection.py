"""Losses kept as layers that let examples of a batch influence each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_privacy import UnsupportedError
from lightning_privacy.gradients.inspection import refuse_unfit


def _model(loss: nn.Module) -> nn.Module:
    return nn.ModuleDict({"net": nn.Linear(3, 2), "loss": loss})


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.NLLLoss])
@pytest.mark.parametrize("settings", [{"weight": torch.tensor([1.0, 3.0])}, {"ignore_index": 0}])
def test_p03_a_loss_normalised_over_the_batch_is_refused_with_the_way_out(kind, settings):
    with pytest.raises(UnsupportedError, match=rf"layer 'loss' \({kind.__name__}\).*reduction='none'.*mean\(\)"):
        refuse_unfit(_model(kind(**settings)))


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
