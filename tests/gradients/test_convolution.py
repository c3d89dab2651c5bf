"""Per-example convolution gradients as pure functions, both ways to the norm."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_privacy.gradients import convolution
from lightning_privacy.gradients.convolution import (
    ConvContribution,
    ConvGeometry,
    conv_gram_norms,
    per_example_conv_gradients,
)

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CASES = [
    (spatial, stride, padding, dilation, groups)
    for spatial, stride, padding, dilation, groups in product((1, 2, 3), (1, 2), (0, 2), (1, 2), (1, 2))
]


def _case(
    spatial: int, stride: int, padding: int, dilation: int, groups: int, batch: int = 3
) -> tuple[Tensor, Tensor, Tensor, ConvGeometry, tuple[int, ...]]:
    torch.manual_seed(7)
    geometry = ConvGeometry((3,) * spatial, (stride,) * spatial, (dilation,) * spatial, groups)
    x = torch.randn(batch, 4, *(8, 7, 6)[:spatial], dtype=torch.float64)
    weight = torch.randn(6, 4 // groups, *geometry.kernel, dtype=torch.float64, requires_grad=True)
    output = CONV[spatial](x, weight, None, stride, padding, dilation, groups)
    return x, weight, torch.randn_like(output), geometry, (padding,) * spatial


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_and_norms_agree_with_autograd(case: tuple[int, int, int, int, int]) -> None:
    x, weight, g, geometry, padding = _case(*case)
    expected = torch.stack(
        [
            torch.autograd.grad(
                CONV[case[0]](x[i : i + 1], weight, None, case[1], case[2], case[3], case[4]), weight, g[i : i + 1]
            )[0]
            for i in range(len(x))
        ]
    )
    found = per_example_conv_gradients(x, g, tuple(weight.shape), geometry, padding)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    norms = expected.flatten(1).square().sum(1)
    torch.testing.assert_close(conv_gram_norms(x, g, geometry, padding), norms, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
def test_weighted_sum(cheaper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConvContribution, "_instantiation_is_cheaper", lambda self: cheaper)
    x, weight, g, geometry, padding = _case(2, 2, 2, 1, 2)
    shape = tuple(weight.shape)
    gradients = per_example_conv_gradients(x, g, shape, geometry, padding)
    weights = torch.tensor([0.5, 0.0, -2.0], dtype=torch.float64)
    contribution = ConvContribution(x, g, shape, geometry, padding)
    contribution.squared_norms()
    out = torch.ones(shape, dtype=torch.float64)
    contribution.add_weighted_sum(out, weights)
    torch.testing.assert_close(out, 1 + torch.tensordot(weights, gradients, 1))

    x[1], g[1] = float("inf"), float("nan")
    contribution = ConvContribution(x, g, shape, geometry, padding)
    assert contribution.squared_norms().isfinite().tolist() == [True, False, True]
    out.zero_()
    contribution.without(torch.tensor([False, True, False])).add_weighted_sum(out, torch.ones_like(weights))
    torch.testing.assert_close(out, gradients[0] + gradients[2])


@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
def test_a_batch_of_nothing_adds_nothing(cheaper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConvContribution, "_instantiation_is_cheaper", lambda self: cheaper)
    x, weight, g, geometry, padding = _case(2, 1, 0, 1, 1, batch=0)
    contribution = ConvContribution(x, g, tuple(weight.shape), geometry, padding)
    assert contribution.squared_norms().shape == (0,)
    out = torch.ones(weight.shape, dtype=torch.float64)
    contribution.add_weighted_sum(out, torch.zeros(0, dtype=torch.float64))
    assert (out == 1).all()


@pytest.mark.parametrize("at_once", [1, 2, 100])
@pytest.mark.parametrize("unfold", [True, False], ids=["unfolded", "grouped"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parts_and_kernels_agree(
    case: tuple[int, int, int, int, int], unfold: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, g, geometry, padding = _case(*case)
    expected = per_example_conv_gradients(x, g, tuple(weight.shape), geometry, padding)
    monkeypatch.setattr(convolution, "examples_at_once", lambda *_: at_once)
    monkeypatch.setattr(convolution, "_unfolding_is_cheaper", lambda x: unfold)
    found = per_example_conv_gradients(x, g, tuple(weight.shape), geometry, padding)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    norms = expected.flatten(1).square().sum(1)
    torch.testing.assert_close(conv_gram_norms(x, g, geometry, padding), norms, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("wide", [0, 1000], ids=["grouped", "patches"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_norms_in_parts_keep_no_gradients(
    case: tuple[int, int, int, int, int], wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, g, geometry, padding = _case(*case)
    shape = tuple(weight.shape)
    expected = per_example_conv_gradients(x, g, shape, geometry, padding)
    monkeypatch.setattr(convolution, "_WIDE_ROW", wide)
    monkeypatch.setattr(convolution, "examples_at_once", lambda *_: 2)
    monkeypatch.setattr(ConvContribution, "_instantiation_is_cheaper", lambda self: True)
    monkeypatch.setattr(ConvContribution, "_fits", lambda self: False)
    contribution = ConvContribution(x, g, shape, geometry, padding)
    norms = expected.flatten(1).square().sum(1)
    torch.testing.assert_close(contribution.squared_norms(), norms, rtol=1e-11, atol=1e-11)
    assert contribution.tensors()[0] is x
    out = torch.ones(shape, dtype=torch.float64)
    weights = torch.arange(len(x), dtype=torch.float64)
    contribution.add_weighted_sum(out, weights)
    torch.testing.assert_close(out, 1 + torch.tensordot(weights, expected, 1))
