"""Every rule against brute force, over shapes and options, in float64 to 1e-9 and in float32 to 1e-5."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from brute_force import check_clipped_sums
from torch import Tensor, nn

from lightning_privacy.gradients import convolution
from lightning_privacy.gradients.outer import Outer
from lightning_privacy.gradients.rules import RULES, rule_for

Layer = Callable[[], nn.Module]
Inputs = tuple[int, ...]

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


def _freeze(layer: nn.Module, name: str) -> nn.Module:
    getattr(layer, name).requires_grad_(False)
    return layer


def _id(value: Any) -> str | None:
    return "x".join(map(str, value)) if isinstance(value, tuple) else None


def _check(layer: nn.Module, x: Tensor, tolerance: float = 1e-9) -> None:
    assert rule_for(layer) is not None, "this test is about a rule, not the fallback"
    # Alone, the layer starts the graph; behind another one it continues it.
    check_clipped_sums(layer, (x,), tolerance=tolerance)


class _Scaled(nn.Module):
    """A layer whose input needs a gradient of its own."""

    def __init__(self, layer: nn.Module, features: int) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(features, features), layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.sin(self.first(x)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)


# Linear

LINEAR = {
    "plain": lambda: nn.Linear(5, 4),
    "no bias": lambda: nn.Linear(5, 4, bias=False),
    "wide": lambda: nn.Linear(5, 40),
    "one output": lambda: nn.Linear(5, 1),
    "frozen weight": lambda: _freeze(nn.Linear(5, 4), "weight"),
    "frozen bias": lambda: _freeze(nn.Linear(5, 4), "bias"),
}


@pytest.mark.parametrize("between", [(), (3,), (2, 3), (2, 1, 3), (40,)], ids=_id)
@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR)
def test_linear(make: Layer, between: Inputs) -> None:
    layer = make().double()
    _check(layer, torch.randn(4, *between, 5).double())
    check_clipped_sums(_Scaled(layer, 5).double(), (torch.randn(4, *between, 5).double(),))


@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
@pytest.mark.parametrize("positions", [1, 2, 9])
def test_linear_by_both_norms(positions: int, cheaper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outer, "_instantiation_is_cheaper", lambda self: cheaper)
    _check(nn.Linear(6, 7).double(), torch.randn(5, positions, 6).double())


# Convolutions

CONV_OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"padding": 1},
    {"padding": 2, "stride": 2},
    {"stride": 3},
    {"dilation": 2},
    {"padding": 2, "dilation": 2, "stride": 2},
    {"padding": "valid"},
    {"padding": "same"},
    {"padding": "same", "kernel_size": 2},
    {"padding": "same", "kernel_size": 4, "dilation": 2},
    {"padding": "same", "kernel_size": 4, "padding_mode": "reflect"},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"groups": 2, "padding": 1},
    {"groups": 2, "padding": 1, "stride": 2, "dilation": 2, "bias": False},
    {"groups": 4, "padding": "same"},  # depthwise
    {"groups": 4, "out_channels": 4},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "replicate", "stride": 2},
    {"padding": 1, "padding_mode": "circular", "groups": 2},
    {"padding": "same", "padding_mode": "circular"},
    {"padding": "same", "padding_mode": "replicate", "kernel_size": 2, "bias": False},
]
CONV_IDS = [",".join(f"{k}={v}" for k, v in options.items()) or "default" for options in CONV_OPTIONS]
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIZES = {1: (11,), 2: (8, 7), 3: (7, 6, 5)}


def _conv(spatial: int, options: dict[str, Any]) -> nn.Module:
    return CONVS[spatial](**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **options})


@pytest.mark.parametrize("options", CONV_OPTIONS, ids=CONV_IDS)
@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_convolution(spatial: int, cheaper: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if spatial == 3 and options.get("padding_mode") == "reflect" and options.get("dilation", 1) > 1:
        pytest.skip("torch has no such padding")
    monkeypatch.setattr(convolution.ConvContribution, "_instantiation_is_cheaper", lambda self: cheaper)
    _check(_conv(spatial, options).double(), torch.randn(3, 4, *SIZES[spatial]).double())


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_convolution_with_uneven_options(spatial: int) -> None:
    options = {
        "kernel_size": (2, 3, 1)[:spatial],
        "stride": (1, 2, 3)[:spatial],
        "padding": (1, 0, 2)[:spatial],
        "dilation": (3, 1, 2)[:spatial],
    }
    _check(_conv(spatial, options).double(), torch.randn(3, 4, *SIZES[spatial]).double())


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_convolution_with_a_frozen_parameter(spatial: int, frozen: str) -> None:
    _check(_freeze(_conv(spatial, {"padding": 1}), frozen).double(), torch.randn(3, 4, *SIZES[spatial]).double())


def test_convolution_on_channels_last_input() -> None:
    x = torch.randn(4, 4, 8, 6).double().to(memory_format=torch.channels_last)
    _check(_conv(2, {"padding": 1}).double().to(memory_format=torch.channels_last), x)


def test_convolution_behind_another_one() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1))
    check_clipped_sums(model.double(), (torch.randn(5, 1, 12, 10).double(),))


# Embeddings


@pytest.mark.parametrize("padding_idx", [None, 0, -1])
@pytest.mark.parametrize("between", [(), (1,), (6,), (3, 4), (2, 2, 3)], ids=_id)
@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
def test_embedding(between: Inputs, padding_idx: int | None, cheaper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outer, "_instantiation_is_cheaper", lambda self: cheaper)
    # Five rows only: rows repeat within an example, and each example of six has padding somewhere.
    _check(nn.Embedding(5, 3, padding_idx=padding_idx).double(), torch.randint(0, 5, (6, *between)))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_embedding_with_one_row_repeated(dtype: torch.dtype) -> None:
    _check(nn.Embedding(7, 3).double(), torch.tensor([[2, 2, 2, 2], [2, 2, 3, 3]], dtype=dtype))


BAG_OPTIONS = [{"mode": mode, "padding_idx": padding_idx} for mode, padding_idx in product(("sum", "mean"), (None, 1))]


@pytest.mark.parametrize("options", BAG_OPTIONS, ids=str)
def test_embedding_bag_of_equal_bags(options: dict[str, Any]) -> None:
    _check(nn.EmbeddingBag(6, 3, **options).double(), torch.randint(0, 6, (5, 4)))


@pytest.mark.parametrize("include_last_offset", [False, True])
@pytest.mark.parametrize("options", BAG_OPTIONS, ids=str)
def test_embedding_bag_of_unequal_bags(options: dict[str, Any], include_last_offset: bool) -> None:
    layer = nn.EmbeddingBag(6, 3, include_last_offset=include_last_offset, **options).double()
    bags = [[0, 1, 1], [5], [], [2, 2, 2, 3], [1]]
    flat = torch.tensor([row for bag in bags for row in bag])
    starts = torch.tensor([0, 3, 4, 4, 8, 9] if include_last_offset else [0, 3, 4, 4, 8])
    single = [0, None] if include_last_offset else [0]
    examples = [
        (torch.tensor(bag, dtype=torch.int64), torch.tensor([len(bag) if s is None else s for s in single]))
        for bag in bags
    ]
    check_clipped_sums(layer, (flat, starts), examples=examples)


def test_embedding_bag_with_weights_of_its_entries() -> None:
    layer = nn.EmbeddingBag(6, 3, mode="sum", padding_idx=2).double()

    def loss(model: nn.Module, rows: Tensor, weights: Tensor) -> Tensor:
        return torch.tanh(model(rows, per_sample_weights=weights)).sum(1)

    check_clipped_sums(layer, (torch.randint(0, 6, (5, 4)), torch.randn(5, 4).double()), loss=loss)


def test_embedding_bag_with_learned_weights_of_its_entries() -> None:
    class Attended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score, self.bag = nn.Embedding(6, 1), nn.EmbeddingBag(6, 3, mode="sum")

        def forward(self, rows: Tensor) -> Tensor:
            return self.bag(rows, per_sample_weights=self.score(rows).squeeze(2).softmax(1))

    check_clipped_sums(Attended().double(), (torch.randint(0, 6, (5, 4)),))


# Normalisation

NORMS: dict[str, tuple[Layer, tuple[Inputs, ...]]] = {
    "LayerNorm": (lambda: nn.LayerNorm(6), ((6,), (3, 6), (2, 3, 6))),
    "LayerNorm of two dimensions": (lambda: nn.LayerNorm((3, 6)), ((3, 6), (2, 3, 6))),
    "LayerNorm without bias": (lambda: nn.LayerNorm(6, bias=False), ((6,), (3, 6))),
    "LayerNorm with a large eps": (lambda: nn.LayerNorm(6, eps=0.5), ((6,), (3, 6))),
    "LayerNorm, weight frozen": (lambda: _freeze(nn.LayerNorm(6), "weight"), ((3, 6),)),
    "LayerNorm, bias frozen": (lambda: _freeze(nn.LayerNorm(6), "bias"), ((3, 6),)),
    "RMSNorm": (lambda: nn.RMSNorm(6), ((6,), (3, 6), (2, 3, 6))),
    "RMSNorm of two dimensions": (lambda: nn.RMSNorm((3, 6), eps=0.1), ((3, 6), (2, 3, 6))),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), ((6,), (6, 5), (6, 4, 3), (6, 2, 3, 2))),
    "GroupNorm of one group": (lambda: nn.GroupNorm(1, 6, eps=0.1), ((6,), (6, 5))),
    "GroupNorm, weight frozen": (lambda: _freeze(nn.GroupNorm(2, 6), "weight"), ((6, 5),)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(6, affine=True), ((6, 5),)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(6, affine=True, eps=0.1), ((6, 4, 3),)),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(6, affine=True), ((6, 2, 3, 2),)),
}


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(make, shape, id=f"{name} {_id(shape)}")
        for name, (make, shapes) in NORMS.items()
        for shape in shapes
    ],
)
def test_normalisation(make: Layer, shape: Inputs) -> None:
    layer = make().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=1.0, std=0.5)
    _check(layer, 2 * torch.randn(5, *shape).double() + 1)


@pytest.mark.parametrize(
    "make", [lambda: nn.LayerNorm(6, elementwise_affine=False), lambda: nn.GroupNorm(2, 6, affine=False)]
)
def test_normalisation_without_parameters_inside_a_network(make: Layer) -> None:
    check_clipped_sums(nn.Sequential(nn.Linear(4, 6), make(), nn.Linear(6, 2)).double(), (torch.randn(5, 4).double(),))


# Single precision

SINGLE: dict[str, tuple[Layer, Callable[[], Tensor]]] = {
    "Linear": (lambda: nn.Linear(64, 32), lambda: torch.randn(8, 64)),
    "Linear over positions": (lambda: nn.Linear(32, 16), lambda: torch.randn(8, 20, 32)),
    "Conv1d": (lambda: nn.Conv1d(4, 8, 5, padding=2), lambda: torch.randn(6, 4, 50)),
    "Conv2d": (lambda: nn.Conv2d(3, 8, 3, padding=1), lambda: torch.randn(6, 3, 16, 16)),
    "Conv2d of few positions": (lambda: nn.Conv2d(32, 32, 3, padding=1), lambda: torch.randn(6, 32, 4, 4)),
    "Conv3d": (lambda: nn.Conv3d(2, 4, 3), lambda: torch.randn(4, 2, 6, 6, 6)),
    "Embedding": (lambda: nn.Embedding(50, 16), lambda: torch.randint(0, 50, (8, 20))),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(50, 16), lambda: torch.randint(0, 50, (8, 20))),
    "LayerNorm": (lambda: nn.LayerNorm(32), lambda: torch.randn(8, 10, 32)),
    "RMSNorm": (lambda: nn.RMSNorm(32), lambda: torch.randn(8, 10, 32)),
    "GroupNorm": (lambda: nn.GroupNorm(4, 16), lambda: torch.randn(8, 16, 6, 6)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(16, affine=True), lambda: torch.randn(8, 16, 6, 6)),
}


@pytest.mark.parametrize(("make", "data"), SINGLE.values(), ids=SINGLE)
def test_single_precision(make: Layer, data: Callable[[], Tensor]) -> None:
    _check(make(), data(), tolerance=1e-5)


def test_every_rule_is_tested_in_single_precision() -> None:
    tested = {type(make()) for make, _ in SINGLE.values()}
    aliases = {nn.modules.linear.NonDynamicallyQuantizableLinear, nn.InstanceNorm1d, nn.InstanceNorm3d}
    elsewhere = {nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Bilinear, nn.PReLU}
    assert tested == set(RULES) - aliases - elsewhere


def test_a_subclass_is_left_to_the_fallback() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    assert rule_for(Doubled(3, 2)) is None
    check_clipped_sums(Doubled(3, 2).double(), (torch.randn(4, 3).double(),))
