"""The gradient in the making: noise first, sums on top, and a grad only when it is published."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from lightning_privacy.gradients.buffers import GradientBuffers
from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning


def parameters() -> list[nn.Parameter]:
    kinds = ((torch.float32, (2, 3)), (torch.float64, (4,)), (torch.bfloat16, (2, 2)), (torch.float32, (3,)))
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for dtype, shape in kinds]


def noise() -> NoiseSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=5)


def test_each_parameter_has_a_place_of_its_own() -> None:
    members = parameters()
    buffers = GradientBuffers(members)
    for number, parameter in enumerate(members):
        buffers.view(parameter).fill_(number + 1)
    total = sum(float(flat.double().sum()) for flat in buffers.flat)
    assert total == sum((number + 1) * p.numel() for number, p in enumerate(members))
    assert sum(flat.numel() for flat in buffers.flat) == sum(p.numel() for p in members)
    assert {flat.dtype for flat in buffers.flat} == {torch.float32, torch.float64}


def test_a_step_begins_with_its_noise_and_is_seen_when_published() -> None:
    members = parameters()
    buffers = GradientBuffers(members)
    buffers.begin(noise(), std=2.0, step=3)
    first = [flat.clone() for flat in buffers.flat]
    assert all(p.grad is None for p in members)
    buffers.view(members[0]).add_(1.0)
    buffers.publish()
    assert buffers.published()
    assert all(p.grad is not None and (p.grad.shape, p.grad.dtype) == (p.shape, p.dtype) for p in members)
    buffers.begin(noise(), std=2.0, step=3)
    assert all(torch.equal(a, b) for a, b in zip(first, buffers.flat, strict=True))
    assert not torch.equal(first[0][:4], first[2][:4])  # streams of their own
    buffers.begin(noise(), std=0.0, step=3)
    assert all(bool((flat == 0).all()) for flat in buffers.flat)


def test_a_gradient_of_somebody_else_is_noticed() -> None:
    members = parameters()
    buffers = GradientBuffers(members)
    buffers.publish()
    members[0].grad = torch.zeros(2, 3)
    assert not buffers.published()
    buffers.withdraw()
    assert all(p.grad is None for p in members)
    assert buffers.published()


def test_frozen_parameters_get_none_and_moved_ones_do_not_fit() -> None:
    members = parameters()
    buffers = GradientBuffers(members)
    members[3].requires_grad_(False)
    buffers.publish()
    assert members[3].grad is None
    assert buffers.fits()
    members[0].data = members[0].data.double()
    assert not buffers.fits()


def test_nothing_of_an_abandoned_step_stays() -> None:
    buffers = GradientBuffers(parameters())
    buffers.begin(noise(), std=1.0, step=0)
    buffers.clear()
    assert all(bool((flat == 0).all()) for flat in buffers.flat)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once_at_the_end(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=dtype))
    buffers = GradientBuffers([parameter])
    for _ in range(1000):
        buffers.view(parameter).add_(1e-4)
    buffers.publish()
    assert float(parameter.grad) == pytest.approx(0.1, rel=4e-3)
