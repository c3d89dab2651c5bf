"""Experiments P07 to P10, P12 and P13: what happens within a step, from a frozen layer to an adaptive bound."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import torch
from _pitfall_tools import (
    EXPECTED,
    Finding,
    change,
    error_of,
    influence,
    linear,
    loader,
    outcome_of,
    private,
    released,
    steps_charged,
)
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["EXPERIMENTS"]


def _batch(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(EXPECTED, 4, generator=generator) * scale
    return x, (x[:, 0] > 0).long()


def _two_layers(activation: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), activation or nn.Tanh(), nn.Linear(8, 2))


def p07() -> Finding:
    x, y = _batch(30.0)

    def frozen() -> nn.Module:
        model = _two_layers()
        model[0].requires_grad_(False)
        return model

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = linear(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    def evaluating(run: SimpleNamespace, x: Tensor, y: Tensor) -> Any:
        run.model[0].eval() if isinstance(run.model, nn.Sequential) else run.model._module[0].eval()
        return run.criterion(run.model(x), y)

    unused = error_of(lambda: released(Branches, x, y))
    evaluated = error_of(lambda: released(_two_layers, x, y, evaluating))
    bound = influence(frozen, x, y)
    return Finding(
        "P07",
        {
            "frozen": outcome_of(bound),
            "without a gradient": "refuses" if unused else "silent",
            "sub-module in eval()": "refuses" if evaluated else "silent",
        },
        f"Frozen layers are right ({bound:.2f} C). A parameter without a gradient stops training at the step: "
        f"{unused}; a sub-module in eval() at backward: {evaluated}.",
    )


class _Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.net, self.reentrant = _two_layers(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=self.reentrant)


def p08() -> Finding:
    x, y = _batch()
    plain = released(_two_layers, x, y, max_grad_norm=1e6)
    in_place = error_of(lambda: released(lambda: _two_layers(nn.ReLU(inplace=True)), x, y))
    recomputed = error_of(lambda: released(_Checkpointed, x, y))

    def compiled() -> nn.Module:
        return torch.compile(_two_layers(), backend="eager")  # type: ignore[return-value]

    def compiled_change() -> float:
        return change(plain, released(compiled, x, y, max_grad_norm=1e6))

    torch._dynamo.reset()
    failed = error_of(compiled_change)
    difference = None if failed else compiled_change()
    torch._dynamo.reset()
    return Finding(
        "P08",
        {
            "in-place activation": "refuses" if in_place else "right",
            "checkpointing": "refuses" if recomputed else "right",
            "torch.compile": "refuses" if failed else ("right" if difference < 1e-4 else "silent"),
        },
        f"nn.ReLU(inplace=True): {in_place}. Checkpointing without re-entry: {recomputed}. torch.compile before "
        f"make_private: {failed or f'the released gradient differs by {difference:.1e}'}.",
    )


def _scaled_step(x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """A step in fp16 with a scaled loss, as PyTorch documents it; how far the weights moved, and steps charged."""
    run = private(linear(), max_grad_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    before = torch.cat([p.detach().flatten() for p in run.optimizer.params])
    with torch.autocast("cpu", dtype=torch.float16):
        loss = run.criterion(run.model(x).float(), y)
    scaler.scale(loss).backward()
    scaler.step(run.optimizer)
    after = torch.cat([p.detach().flatten() for p in run.optimizer.params])
    return (before - after).double() / 0.1 * EXPECTED, steps_charged(run.engine)


def p09() -> Finding:
    x, y = torch.full((EXPECTED, 4), 0.1), torch.zeros(EXPECTED, dtype=torch.long)
    ordinary = released(linear, x, y)
    scaled, _ = _scaled_step(x, y)
    x_over = x.clone()
    x_over[-1] = 30.0
    skipped, charged = _scaled_step(x_over, y)
    kept, _ = _scaled_step(x[:-1], y[:-1])
    lost = change(skipped, kept)

    def half(run: SimpleNamespace, x: Tensor, y: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run.criterion(run.model(x).float(), y)

    large, labels = _batch(50.0)
    contributions = [
        float(released(linear, large[i : i + 1], labels[i : i + 1], half).norm()) for i in range(len(large))
    ]
    return Finding(
        "P09",
        {
            "bf16 autocast, to 0.5%": outcome_of(max(contributions), tolerance=0.005),
            "fp16 with GradScaler": outcome_of(lost),
        },
        f"bf16 autocast: one example adds up to {max(contributions):.4f} C, as norms are rounded to bf16. fp16 loss "
        f"scaling is seen by the clip (a sum of norm {float(ordinary.norm()):.3f} C becomes "
        f"{float(scaled.norm()):.1f} C), and one example that "
        f"overflows makes the scaler skip the step, uncharged ({charged} steps): the sum changes by {lost:.1f} C.",
    )


def p10() -> Finding:
    x, y = _batch()
    x[-1] = float("nan")
    shares = {}
    for mode in ("hooks", "ghost"):
        sums = released(linear, x, y, mode=mode, noise_multiplier=1.0)
        shares[mode] = float((~torch.isfinite(sums)).double().mean())
    bad = max(shares.values()) > 0
    return Finding(
        "P10",
        {"hooks, ghost": "silent" if bad else "right"},
        f"One example with a NaN makes {shares['hooks']:.0%} (hooks) and {shares['ghost']:.0%} (ghost) of the released "
        "entries NaN, whatever the noise: its influence has no bound.",
    )


def p12() -> Finding:
    x, y = _batch()
    first = released(linear, x, y)
    run = private(linear())
    run.criterion(run.model(x[:5]), y[:5]).backward()
    run.optimizer.step()
    half = torch.cat([p.grad.flatten() for p in run.optimizer.params]).double() * EXPECTED
    exact = change(half, released(linear, x[:5], y[:5])) < 1e-5 and float(first.norm()) > 0
    lost = sum(
        len(UniformWithReplacementSampler(num_samples=1, sample_rate=1 / batches)) != batches
        for batches in range(1, 2000)
    )
    odd = private(linear(), data_loader=loader(1000, 300))
    return Finding(
        "P12",
        {"hooks": "wrong" if lost and exact else "silent" if not exact else "right"},
        f"The sum is divided by an expected size, but both come from the number of batches: {lost} of the loaders with "
        f"1 to 1,999 batches lose a step of each epoch, and 1,000 examples in batches of 300 become a rate of "
        f"{odd.loader.sample_rate:g} and a divisor of {odd.optimizer.expected_batch_size}.",
    )


def p13() -> Finding:
    settings: dict[str, Any] = {
        "clipping": "adaptive",
        "target_unclipped_quantile": 0.5,
        "clipbound_learning_rate": 0.2,
        "max_clipbound": 1e6,
        "min_clipbound": 1e-6,
    }

    def adapted(examples: int, noise: float, std: float, seed: int = 0) -> SimpleNamespace:
        run = private(linear(), noise_multiplier=noise, unclipped_num_std=std, max_grad_norm=100.0, **settings)
        torch.manual_seed(seed)
        x, y = _batch()
        run.criterion(run.model(x[:examples]), y[:examples]).backward()
        run.optimizer.step()
        return run.optimizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ten, nine = adapted(10, 0.0, 1e-6), adapted(9, 0.0, 1e-6)
        noisy = [float(adapted(10, 1.0, 1.0, seed).unclipped_num) for seed in range(200)]
    moved = float(ten.unclipped_num) - float(nine.unclipped_num)
    gradient = (1 - 1 / 4) ** -0.5  # the share Opacus leaves to the gradient at noise 1 and count noise 1
    together = (gradient**-2 + moved**2) ** -0.5
    spread = float(torch.tensor(noisy).std())
    empty = error_of(lambda: adapted(0, 1.0, 1.0), 40)
    return Finding(
        "P13",
        {"adaptive": "silent" if moved > 0.51 or abs(spread - 1) > 0.2 else "right"},
        f"The count is noised (spread {spread:.2f} of 1.00), and the noise is split as if one example moved it by 0.5; "
        f"it moves it by {moved:.2f}, so noise 1.00 is charged where {together:.2f} holds, and the count is divided by "
        f"the realised batch size ({ten.sample_size} or {nine.sample_size}) without noise"
        + (f"; an empty batch ends in {empty}." if empty else "."),
    )


EXPERIMENTS = (p07, p08, p09, p10, p12, p13)
