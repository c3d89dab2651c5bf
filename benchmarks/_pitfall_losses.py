"""Experiments P01 to P06 and P11: what the loss and the layers do to the bound of one example."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from _pitfall_tools import Finding, change, error_of, influence, linear, outcome_of, private, released
from torch import Tensor, nn

__all__ = ["EXPERIMENTS"]


def _outlier(scale: float = 1000.0) -> tuple[Tensor, Tensor]:
    """Nine small examples of one class, and a large one of the other."""
    x = torch.full((10, 4), 0.1)
    x[-1] = scale
    y = torch.zeros(10, dtype=torch.long)
    y[-1] = 1
    return x, y


def p01() -> Finding:
    x, y = _outlier()

    def scalar(run: SimpleNamespace, x: Tensor, y: Tensor) -> Any:
        return F.cross_entropy(run.model(x), y)

    hooks = influence(linear, x, y, scalar)
    ghost = influence(linear, x, y, scalar, mode="ghost")
    wrapped = influence(linear, x, y, mode="ghost")
    return Finding(
        "P01",
        {"hooks": outcome_of(hooks), "ghost, scalar loss": outcome_of(ghost)},
        f"One example changes the sum by {hooks:.2f} C with hooks and {wrapped:.2f} C in ghost mode with the wrapped "
        f"criterion, but by {ghost:.0f} C when ghost mode's loss is F.cross_entropy: nothing is clipped.",
    )


def p02() -> Finding:
    x = torch.full((10, 4), 0.4)
    y = torch.zeros(10, dtype=torch.long)
    y[-1] = 1
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 100.0]))
    hooks, ghost = (influence(linear, x, y, criterion=weighted, mode=mode) for mode in ("hooks", "ghost"))
    padded = torch.where(torch.arange(10) < 8, -100, y)  # only the last two count
    ignore = nn.CrossEntropyLoss(ignore_index=-100)
    ignored = influence(linear, x * 0.2, padded, criterion=ignore)
    return Finding(
        "P02",
        {"hooks": outcome_of(max(hooks, ignored)), "ghost": outcome_of(ghost)},
        f"Class-weighted cross-entropy: one example changes the sum by {hooks:.1f} C with hooks and {ghost:.2f} C in "
        f"ghost mode, whose criterion is taken per example (ignore_index with hooks, small gradients: "
        f"{ignored:.2f} C).",
    )


class _Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x - x.mean(0)) / (x.std(0) + 1e-3))


def p03() -> Finding:
    refusal = error_of(lambda: private(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(10, 4, generator=generator) * 0.05 + 1
    x[-1] = 1000.0
    y = (x[:, 0] > 1).long()
    worst = {mode: influence(_Standardised, x, y, mode=mode) for mode in ("hooks", "ghost")}

    def contrastive(run: SimpleNamespace, x: Tensor, _: Tensor) -> Tensor:
        features = run.model(x)
        return F.cross_entropy(features @ features.T, torch.arange(len(x)))

    pairs = influence(lambda: linear(zero=False), x * torch.linspace(0.1, 2, 10)[:, None], y, contrastive)
    return Finding(
        "P03",
        {
            "BatchNorm": "refuses" if refusal else "silent",
            "batch statistics in forward": outcome_of(max(worst.values())),
            "in-batch contrastive loss": outcome_of(pairs),
        },
        f"BatchNorm is refused ({refusal and refusal.partition(':')[0]}). Standardising by the batch in forward: one "
        f"example changes the sum by {worst['hooks']:.1f} C (hooks) and {worst['ghost']:.1f} C (ghost); an in-batch "
        f"contrastive loss: {pairs:.1f} C.",
    )


def p04() -> Finding:
    def mixed(run: SimpleNamespace, x: Tensor, y: Tensor) -> Any:
        share = 0.6
        neighbour = torch.arange(len(x)).roll(-1)
        out = run.model(share * x + (1 - share) * x[neighbour])
        return run.criterion(out, y) * share + run.criterion(out, y[neighbour]) * (1 - share)

    x, y = _outlier(-1000.0)
    x[:-1] = 100.0
    x[0] = 10000.0
    worst = {mode: influence(linear, x, y, mixed, mode=mode) for mode in ("hooks", "ghost")}
    return Finding(
        "P04",
        {"hooks, ghost": outcome_of(max(worst.values()))},
        f"MixUp in the training step: leaving one example out changes the sum by {worst['hooks']:.2f} C (hooks) and "
        f"{worst['ghost']:.2f} C (ghost), as it is in two rows.",
    )


def p05() -> Finding:
    def model() -> nn.Module:
        made = linear()
        nn.init.constant_(made[0].weight, 3.0)
        return made

    x, y = _outlier(1.0)

    def penalised(strength: float) -> Any:
        def loss(run: SimpleNamespace, x: Tensor, y: Tensor) -> Any:
            penalty = strength * sum((p**2).sum() for p in run.model.parameters())
            return run.criterion(run.model(x), y) + penalty

        return loss

    without = released(model, x, y, penalised(0.0))
    dropped = change(without, released(model, x, y, penalised(1.0)))
    hooks, ghost = (influence(model, x, y, penalised(1.0), mode=mode) for mode in ("hooks", "ghost"))
    return Finding(
        "P05",
        {"hooks": "wrong" if dropped < 1e-6 else outcome_of(hooks), "ghost": outcome_of(ghost)},
        f"Hooks drop an L2 penalty without a word (it changes the released gradient by {dropped:.1f}); in ghost mode "
        f"it is added once per example and not clipped: one example changes the sum by {ghost:.1f} C.",
    )


class _Functional(nn.Module):
    """Uses a child's weight in a function, beside the child or without it."""

    def __init__(self, *, beside: bool) -> None:
        super().__init__()
        self.layer, self.beside = linear()[0], beside

    def forward(self, x: Tensor) -> Tensor:
        direct = F.linear(100 * x, self.layer.weight, self.layer.bias)
        return self.layer(x) + direct if self.beside else direct


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(2, 4), nn.Linear(4, 2, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding((x[:, 0] > 1).long()))


def p06() -> Finding:
    x, y = _outlier(1.0)
    alone = error_of(lambda: released(lambda: _Functional(beside=False), x, y))
    exact = torch.autograd.functional.jacobian(  # the last example's true gradient is along both uses of the weight
        lambda w: F.cross_entropy(101 * x[-1:] @ w.T, y[-1:]), torch.zeros(2, 4)
    ).flatten()
    seen = released(lambda: _Functional(beside=True), x[-1:], y[-1:], max_grad_norm=1e6)[:8] / 1.0
    share = float(seen.norm() / exact.norm())
    ghost = influence(lambda: _Functional(beside=True), x, y, mode="ghost")
    tied = influence(_Tied, x, y)
    tied_ghost = error_of(lambda: released(_Tied, x, y, mode="ghost"))
    return Finding(
        "P06",
        {
            "weight in a function only": "refuses" if alone else "silent",
            "function and layer, hooks": "wrong" if share < 0.5 else "right",
            "function and layer, ghost": outcome_of(ghost),
            "tied, hooks": outcome_of(tied),
            "tied, ghost": "refuses" if tied_ghost else "silent",
        },
        f"A weight used by its layer and by F.linear: hooks release {share:.1%} of its gradient, ghost mode lets one "
        f"example change the sum by {ghost:.0f} C. By F.linear alone: {alone}. Tied: hooks {tied:.2f} C; ghost "
        f"{tied_ghost}.",
    )


def p11() -> Finding:
    y = torch.zeros(10, dtype=torch.long)
    y[-1] = 1
    x = torch.full((10, 4), 6.3)  # a mean's gradient of one example is just below C
    total = nn.CrossEntropyLoss(reduction="sum")
    mean_as_sum = influence(linear, x, y, loss_reduction="sum")
    same = torch.zeros_like(y)
    norm = float(released(linear, x[:1], same[:1], criterion=total, max_grad_norm=1e6).norm())
    sum_as_mean = influence(linear, x, same, criterion=total, max_grad_norm=10 * norm)

    def without_last(run: SimpleNamespace, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(run.model(x), y, reduction="none")[:-1].sum() / len(x)

    whole = released(linear, x, y, loss_reduction="sum")
    emptied = change(whole, released(linear, x, y, without_last, loss_reduction="sum"))
    refused = error_of(lambda: released(linear, x, y, mode="ghost", criterion=total))
    return Finding(
        "P11",
        {
            "mean declared as sum": outcome_of(mean_as_sum),
            "sum declared as mean": outcome_of(sum_as_mean),
            "ghost": "refuses" if refused else "silent",
        },
        f"The realised batch size scales every gradient before its clip: leaving one example out changes the sum by "
        f"{mean_as_sum:.2f} C for a mean declared as a sum, {sum_as_mean:.2f} C the other way (replaced by an empty "
        f"one at equal size: {emptied:.2f} C, but Opacus accounts for leaving out). Ghost mode: {refused}.",
    )


EXPERIMENTS = (p01, p02, p03, p04, p05, p06, p11)
