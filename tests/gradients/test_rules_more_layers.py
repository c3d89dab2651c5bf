"""Transposed convolutions, bilinear maps, PReLU and Hugging Face's Conv1D against autograd example by example."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from taps import check_rule
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lightning_privacy.gradients import convolution
from lightning_privacy.gradients.outer import Outer
from lightning_privacy.gradients.rules import rule_for

CONVS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZES = {1: (6,), 2: (4, 5), 3: (3, 2, 4)}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)


def _check(layer: nn.Module, *args: Tensor, tolerance: float = 1e-10, **kwargs: Any) -> None:
    check_rule(layer, args, kwargs, rows=lambda output: [output], tolerance=tolerance)


def _random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def _freeze(layer: nn.Module, name: str) -> nn.Module:
    layer.get_parameter(name).requires_grad_(False)
    return layer


# Transposed convolutions

CONV_OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False, "padding": 1},
    {"stride": 2},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": 3, "output_padding": 2, "padding": 2},
    {"dilation": 2},
    {"dilation": 3, "output_padding": 2},  # beyond the stride, and beyond what the kernel reaches
    {"dilation": 3, "output_padding": 2, "padding": 1},
    {"dilation": 3, "output_padding": 1, "padding": 2, "stride": 2},
    {"groups": 2, "stride": 2, "output_padding": 1},
    {"groups": 4, "out_channels": 4, "padding": 1},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2, "output_padding": 1},
]


@pytest.mark.parametrize("options", CONV_OPTIONS, ids=str)
@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_transposed_convolution(
    spatial: int, cheaper: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution.ConvContribution, "_instantiation_is_cheaper", lambda self: cheaper)
    layer = CONVS[spatial](**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **options}).double()
    _check(layer, _random(3, 4, *SIZES[spatial]))


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("more", [0, 1, 2])
@pytest.mark.parametrize("keyword", [False, True])
def test_transposed_convolution_to_a_given_size(spatial: int, more: int, keyword: bool) -> None:
    layer = CONVS[spatial](4, 6, 2, stride=3, padding=1).double()
    size = [(length - 1) * 3 - 2 + 2 + more for length in SIZES[spatial]]
    args, kwargs = ((), {"output_size": size}) if keyword else ((size,), {})
    _check(layer, _random(3, 4, *SIZES[spatial]), *args, **kwargs)


def test_transposed_convolution_with_uneven_options() -> None:
    options = {"stride": (1, 3, 2), "padding": (1, 0, 2), "output_padding": (0, 2, 1), "dilation": (2, 1, 3)}
    _check(nn.ConvTranspose3d(4, 6, (2, 3, 1), **options).double(), _random(3, 4, 4, 3, 5))


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("batch", [1, 3])
def test_transposed_convolution_with_a_frozen_parameter(batch: int, frozen: str) -> None:
    _check(_freeze(nn.ConvTranspose2d(4, 6, 3).double(), frozen), _random(batch, 4, 4, 5))


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    padding=st.integers(0, 2),
    more=st.integers(0, 2),
    size=st.integers(1, 5),
    groups=st.sampled_from([1, 2]),
)
def test_any_transposed_convolution(
    kernel: int, stride: int, dilation: int, padding: int, more: int, size: int, groups: int
) -> None:
    more = min(more, max(stride, dilation) - 1)
    length = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1
    if length < 1:
        return
    options = {"stride": stride, "dilation": dilation, "padding": padding, "output_padding": more, "groups": groups}
    _check(nn.ConvTranspose1d(2, 4, kernel, **options).double(), _random(2, 2, size))


# Bilinear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("between", [(), (3,), (2, 3), (9,)], ids=str)
@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
@pytest.mark.parametrize("outputs", [1, 5])
def test_bilinear(
    outputs: int, cheaper: bool, between: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outer, "_instantiation_is_cheaper", lambda self: cheaper)
    layer = nn.Bilinear(3, 4, outputs, bias=bias).double()
    _check(layer, _random(4, *between, 3), _random(4, *between, 4))


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("batch", [1, 3])
def test_bilinear_with_a_frozen_parameter(batch: int, frozen: str) -> None:
    _check(_freeze(nn.Bilinear(3, 4, 5).double(), frozen), _random(batch, 2, 3), _random(batch, 2, 4))


def test_bilinear_used_twice() -> None:
    layer = nn.Bilinear(3, 3, 3).double()

    def call(run: Any, x: Tensor, z: Tensor) -> Any:
        return run(run(x, z), z)

    check_rule(layer, (_random(4, 3), _random(4, 3)), rows=lambda output: [output], call=call)


# PReLU


PRELU_SHAPES = [(1, (5,)), *product([1, 3], [(5, 3), (5, 3, 4), (5, 3, 2, 4), (1, 3, 4)])]


@pytest.mark.parametrize(("channels", "shape"), PRELU_SHAPES, ids=str)
def test_prelu(channels: int, shape: tuple[int, ...]) -> None:
    layer = nn.PReLU(channels).double()
    nn.init.normal_(layer.weight)
    x = _random(*shape)
    with torch.no_grad():
        x.view(-1)[0] = 0.0
    _check(layer, x)


# Conv1D of transformers


@pytest.mark.parametrize("between", [(), (3,), (2, 3), (20,)], ids=str)
@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
@pytest.mark.parametrize("frozen", [None, "weight", "bias"])
def test_conv1d_of_transformers(
    frozen: str | None, cheaper: bool, between: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outer, "_instantiation_is_cheaper", lambda self: cheaper)
    layer = Conv1D(5, 3).double()
    nn.init.normal_(layer.bias)
    _check(_freeze(layer, frozen) if frozen else layer, _random(4, *between, 3))


def test_only_the_exact_conv1d_of_transformers_has_the_rule() -> None:
    class Doubled(Conv1D):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    assert rule_for(Conv1D(5, 3)) is not None
    assert rule_for(Doubled(5, 3)) is None


SINGLE: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(8, 8, 5, stride=2), ((6, 8, 30),)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(8, 8, 3, stride=2, output_padding=1), ((6, 8, 9, 9),)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 4, 2), ((6, 4, 4, 4, 4),)),
    "Bilinear": (lambda: nn.Bilinear(12, 10, 8), ((6, 5, 12), (6, 5, 10))),
    "PReLU": (lambda: nn.PReLU(8), ((6, 8, 40),)),
    "Conv1D": (lambda: Conv1D(16, 24), ((6, 20, 24),)),
}


@pytest.mark.parametrize(("make", "shapes"), SINGLE.values(), ids=SINGLE)
def test_single_precision(make: Callable[[], nn.Module], shapes: tuple[tuple[int, ...], ...]) -> None:
    _check(make(), *(torch.randn(*shape) for shape in shapes), tolerance=1e-5)
