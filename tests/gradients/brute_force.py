"""The reference every clipped sum is held against: one ordinary backward per example, on a deep copy.

Nothing here knows how the package computes. A loss is a function ``loss(model, *inputs) -> (B,)``; examples are the
slices of the inputs along their first dimension, unless a test cuts them itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_privacy.gradients import PrivateGradients
from lightning_privacy.mechanisms.noise import NoiseSource

Loss = Callable[..., Tensor]
HUGE = 1e9

# Layers without a rule say that they are slow, and so does torch.func where it batches by a loop of its own.
SLOW_LAYERS = [
    pytest.mark.filterwarnings("ignore:.*runs example by example:UserWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def outputs_loss(model: nn.Module, *inputs: Any, **kwargs: Any) -> Tensor:
    """A loss of each example that is not linear in any output, so that no gradient is zero by symmetry."""
    total: Tensor | None = None
    for leaf in tree_leaves(model(*inputs, **kwargs)):
        flat = torch.tanh(leaf.flatten(1)) if leaf.dim() > 1 else torch.tanh(leaf).unsqueeze(1)
        weights = torch.cos(1.3 * torch.arange(flat.shape[1], dtype=torch.float64) + 0.5).to(flat.dtype)
        each = (flat * weights).sum(1)
        total = each if total is None else total + each
    assert total is not None
    return total


def slices(inputs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    return [tuple(x[i : i + 1] for x in inputs) for i in range(len(inputs[0]))]


def example_gradients(model: nn.Module, examples: Sequence[tuple[Any, ...]], loss: Loss) -> list[list[Tensor]]:
    """Return the gradient of each example's loss with respect to each trainable parameter."""
    gradients = []
    for example in examples:
        single = copy.deepcopy(model)
        parameters = trainable(single)
        found = torch.autograd.grad(loss(single, *example).sum(), parameters, allow_unused=True)
        gradients.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)])
    return gradients


def norm(gradient: Sequence[Tensor]) -> float:
    return float(torch.sqrt(sum((g.double() ** 2).sum() for g in gradient)))


def clipped_sum(gradients: Sequence[Sequence[Tensor]], max_grad_norm: float) -> list[Tensor]:
    """Return ``sum_i min(1, C / ||g_i||) g_i``; of no example when there is none."""
    total: list[Tensor] = []
    for gradient in gradients:
        length = norm(gradient)
        factor = min(1.0, max_grad_norm / length) if length > 0 else 1.0
        scaled = [g * factor for g in gradient]
        total = scaled if not total else [t + s for t, s in zip(total, scaled, strict=True)]
    return total


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Distance of two whole gradients, relative to the norm of the second."""
    return norm([a.double() - b.double() for a, b in zip(found, expected, strict=True)]) / norm(expected)


def engine_for(model: nn.Module, **changes: Any) -> PrivateGradients:
    """An attached engine, without noise and dividing by 1 unless told otherwise."""
    options: dict[str, Any] = {
        "max_grad_norm": HUGE,
        "noise_multiplier": 0.0,
        "expected_batch_size": 1.0,
        "noise": NoiseSource(),
    }
    engine = PrivateGradients(model, **{**options, **changes})
    engine.attach()
    return engine


def grads(model: nn.Module) -> list[Tensor]:
    found = [p.grad for p in trainable(model)]
    assert all(g is not None for g in found)
    return [g.clone() for g in found if g is not None]


def private_sum(
    model: nn.Module, inputs: Sequence[Any], loss: Loss, max_grad_norm: float, *, batch_size: int | None = None
) -> list[Tensor]:
    """Return the clipped sum the package computes for one batch under a mean loss."""
    engine = engine_for(model, max_grad_norm=max_grad_norm)
    try:
        engine.arm(batch_size=len(inputs[0]) if batch_size is None else batch_size, step=0)
        loss(model, *inputs).mean().backward()
        return grads(model)
    finally:
        engine.detach()


def check_clipped_sums(
    model: nn.Module,
    inputs: Sequence[Any],
    *,
    examples: Sequence[tuple[Any, ...]] | None = None,
    loss: Loss = outputs_loss,
    tolerance: float = 1e-9,
) -> None:
    """Compare with brute force: nothing clipped, about half of the examples clipped, all of them clipped.

    The reference is computed in float64 whatever the dtype of ``model``.
    """

    def double(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    examples = slices(inputs) if examples is None else examples
    reference = copy.deepcopy(model).double()
    gradients = example_gradients(reference, [tuple(double(x) for x in e) for e in examples], loss)
    norms = sorted(norm(g) for g in gradients)
    assert norms[-1] > 0, "a test without a gradient proves nothing"
    for bound in (HUGE, norms[len(norms) // 2], 0.3 * norms[0] or 1e-3):
        found = private_sum(model, inputs, loss, bound, batch_size=len(examples))
        error = relative_error(found, clipped_sum(gradients, bound))
        assert error <= tolerance, f"max_grad_norm={bound}: relative error {error:.2e}"
