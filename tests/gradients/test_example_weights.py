"""Weights on the losses of examples: each gradient times its weight, and then clipped, as brute force does it."""

from __future__ import annotations

import math

import pytest
import torch
from brute_force import clipped_sum, engine_for, example_gradients, grads, norm, outputs_loss, relative_error, slices
from torch import Tensor, nn

from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.clipping import AdaptiveClipping

WEIGHTS = torch.tensor([0.0, 0.25, 1.0, 3.0, 40.0, 1.5])


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(100, 3)
    ).double()


def _images(count: int) -> Tensor:
    return torch.randn(count, 2, 5, 5, generator=torch.Generator().manual_seed(1)).double()


def _weighted(model: nn.Module, x: Tensor, weights: Tensor = WEIGHTS) -> list[list[Tensor]]:
    raw = example_gradients(model, slices((x,)), outputs_loss)
    return [[part * weight for part in gradient] for gradient, weight in zip(raw, weights.tolist(), strict=True)]


@pytest.mark.parametrize("place", ["none clipped", "half clipped", "all clipped"])
def test_weighted_gradients_are_clipped_as_by_brute_force(place: str) -> None:
    model, x = _net(), _images(6)
    raw = _weighted(model, x)
    lengths = sorted(norm(gradient) for gradient in raw)
    bound = {"none clipped": lengths[-1] * 2, "half clipped": lengths[3], "all clipped": lengths[1] / 2}[place]
    engine = engine_for(model, max_grad_norm=bound)
    engine.arm(batch_size=6, step=0, example_weights=WEIGHTS)
    outputs_loss(model, x).mean().backward()
    assert relative_error(grads(model), clipped_sum(raw, bound)) < 1e-9


def test_weights_are_those_of_the_loss_itself() -> None:
    """The same as a training step that multiplies the losses before it takes their mean."""
    model, x = _net(), _images(6)
    engine = engine_for(model, max_grad_norm=0.7)
    found = []
    for weights, factor in ((WEIGHTS, torch.ones(6)), (None, WEIGHTS)):
        engine.arm(batch_size=6, step=len(found), example_weights=weights)
        (outputs_loss(model, x) * factor).mean().backward()
        found.append(grads(model))
        engine.consume()
    assert relative_error(found[0], found[1]) < 1e-6


def test_no_weight_is_beyond_the_bound() -> None:
    model, x = _net(), _images(6)
    engine = engine_for(model, max_grad_norm=0.5)
    engine.arm(batch_size=6, step=0, example_weights=torch.tensor([0.0, 0.0, 0.0, 0.0, 1e12, 0.0]))
    outputs_loss(model, x).mean().backward()
    assert norm(grads(model)) == pytest.approx(0.5)


def test_micro_batches_views_and_scales() -> None:
    model, x = _net(), _images(6)
    weights = torch.tensor([2.0, 0.5, 3.0])
    pairs = [(x[2 * number : 2 * number + 2],) for number in range(3)]
    raw = example_gradients(model, pairs, lambda module, both: outputs_loss(module, both).mean().unsqueeze(0))
    raw = [[part * weight for part in gradient] for gradient, weight in zip(raw, weights.tolist(), strict=True)]
    bound = norm(raw[1]) * 1.5
    engine = engine_for(model, max_grad_norm=bound, views=2)
    for rows, chosen, closes in ((slice(0, 4), weights[:2], False), (slice(4, 6), weights[2:], True)):
        scale = 0.25
        engine.arm(batch_size=len(chosen), step=0, loss_scale=scale, closes_step=closes, example_weights=chosen)
        (outputs_loss(model, x[rows]).mean() * scale).backward()
    assert relative_error(grads(model), clipped_sum(raw, bound)) < 1e-9


def test_counts_of_adaptive_clipping_see_the_weighted_norms() -> None:
    model, x = _net(), _images(6)
    lengths = sorted(norm(gradient) for gradient in _weighted(model, x))
    bound = (lengths[3] * lengths[4]) ** 0.5
    policy = AdaptiveClipping(bound, learning_rate=1.0)
    engine = engine_for(model, clipping=policy, expected_batch_size=6)
    engine.arm(batch_size=6, step=0, example_weights=WEIGHTS)
    outputs_loss(model, x).mean().backward()
    assert policy.norm_bound == pytest.approx(bound * math.exp(0.5 - 4 / 6), rel=1e-5)
    unweighted = example_gradients(model, slices((x,)), outputs_loss)
    assert sum(norm(gradient) < bound for gradient in unweighted) != 4


def test_weights_for_others_are_refused() -> None:
    model, x = _net(), _images(6)
    engine = engine_for(model)
    engine.arm(batch_size=6, step=0, example_weights=WEIGHTS[:5])
    with pytest.raises(PrivacyViolation, match=r"weights for \(5,\) examples and gradients of 6.*collate_fn"):
        outputs_loss(model, x).mean().backward()
