"""Losses whose mean is divided by a count of the batch, called as functions in a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from brute_force import engine_for, grads
from torch import Tensor, nn

from lightning_privacy.errors import UnsupportedError


class _Step(nn.Module):
    def __init__(self, loss: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.loss = nn.Linear(3, 4), loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.net(x), y)


def _run(loss: Any, y: Tensor, *shape: int) -> None:
    model = _Step(loss)
    engine = engine_for(model)
    try:
        engine.arm(batch_size=len(y), step=0)
        model(torch.randn(*shape, 3), y).backward()
        assert grads(model)
    finally:
        engine.detach()


WEIGHTS = torch.tensor([1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        (lambda o, y: F.cross_entropy(o, y, weight=WEIGHTS), torch.zeros(5).long(), "weight and reduction='mean'"),
        (lambda o, y: F.cross_entropy(o, y, WEIGHTS), torch.zeros(5).long(), "weight and reduction='mean'"),
        (lambda o, y: F.nll_loss(o.log_softmax(1), y, weight=WEIGHTS), torch.zeros(5).long(), "nll_loss with weight"),
        (lambda o, y: F.cross_entropy(o, y, ignore_index=1), torch.tensor([0, 1, 2, 3, 0]), "ignored targets"),
        (lambda o, y: F.cross_entropy(o, y), torch.tensor([0, -100, 2, 3, 0]), "ignored targets"),
        (nn.CrossEntropyLoss(ignore_index=-1), torch.tensor([0, -1, 2, 3, 0]), "ignored targets"),
    ],
    ids=["weight", "weight by place", "nll", "ignore_index", "default", "layer"],
)
def test_p02_a_mean_divided_by_a_count_is_refused_where_it_is_called(loss: Any, y: Tensor, words: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{words}.*reduction='none'"):
        _run(loss, y, len(y))


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (lambda o, y: F.cross_entropy(o, y), torch.tensor([0, 1, 2, 3, 0])),
        (lambda o, y: F.cross_entropy(o, y, weight=WEIGHTS, reduction="none").mean(), torch.tensor([0, 1, 2, 3, 0])),
        (lambda o, y: F.cross_entropy(o, F.one_hot(y, 4).float(), weight=WEIGHTS), torch.tensor([0, 1, 2, 3, 0])),
        (lambda o, y: F.cross_entropy(o, y, ignore_index=7), torch.tensor([0, 1, 2, 3, 0])),
    ],
    ids=["plain", "none", "probabilities", "nothing ignored"],
)
def test_sound_means_pass(loss: Any, y: Tensor) -> None:
    _run(loss, y, len(y))


def test_p02_as_many_ignored_in_each_example_change_no_divisor() -> None:
    def loss(o: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(o.flatten(0, 1), y.flatten())

    even = torch.tensor([[0, 1, -100], [2, -100, 3]])
    _run(loss, even, 2, 3)
    with pytest.raises(UnsupportedError, match="ignored targets"):
        _run(loss, torch.tensor([[0, 1, -100], [2, 2, 3]]), 2, 3)
