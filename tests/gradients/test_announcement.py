"""What is announced of a backward: its checks, and the factor that autograd put on the gradients of the examples."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from brute_force import normal
from torch import nn

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.announcement import Announcement


def announced(**changes: Any) -> Announcement:
    return Announcement(**{"step": 3, "noise_multiplier": 1.0, "expected_batch_size": 8.0, **changes})


@pytest.mark.parametrize("loss_scale", [1.0, 0.25, 512.0])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
def test_p11_the_scale_undoes_what_the_loss_put_on_the_gradient_of_an_example(
    mean: bool, views: int, loss_scale: float
) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1, bias=False).double(), normal(5 * views, 4)
    rows = model(x).tanh()
    loss = loss_scale * (rows.mean() if mean else rows.sum())
    (of_rows,) = torch.autograd.grad(loss, rows)  # of each row's own loss, which has the derivative 1
    found = of_rows.reshape(5, views).sum(1) * announced(loss_scale=loss_scale).scale(
        examples=5, views=views, mean=mean
    )
    torch.testing.assert_close(found, torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("name", ["loss_scale", "gradient_scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_p11_scales_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        announced(**{name: value})


def test_a_release_more_and_all_forgotten() -> None:
    first = announced(again=True, empty=True)
    second = first.repeated().repeated()
    assert (first.release, second.release, second.anew()) == (0, 2, first)
    assert (first.repeats, second.repeats, announced().repeated().repeats) == (False, True, False)
    with pytest.raises(FrozenInstanceError):
        first.release = 4  # type: ignore[misc]
