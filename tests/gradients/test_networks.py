"""Whole networks of random make against brute force."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from brute_force import clipped_sum, engine_for, example_gradients, grads, norm, outputs_loss, slices, trainable
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

WIDTH, POSITIONS, ROWS = 4, 3, 6

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
PROPERTY = settings(deadline=None, derandomize=True, max_examples=200, database=None)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Transposed(nn.Module):
    """Gives a layer channels before positions."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        y += x
        return y


class Pooled(nn.Module):
    """Brings a network's (B, T, W) to one vector and back, so that a layer sees inputs of two shapes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer(x.mean(1)).unsqueeze(1)


def _layer(kind: str, shared: nn.Linear) -> nn.Module:
    tied = nn.Linear(WIDTH, WIDTH)
    tied.weight = shared.weight
    return {
        "linear": lambda: nn.Linear(WIDTH, WIDTH),
        "linear without bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
        "wide": lambda: nn.Sequential(nn.Linear(WIDTH, 20), nn.GELU(), nn.Linear(20, WIDTH)),
        "frozen": lambda: nn.Linear(WIDTH, WIDTH).requires_grad_(False),
        "shared": lambda: shared,
        "tied": lambda: tied,
        "twice": lambda: (lambda layer: nn.Sequential(layer, nn.Tanh(), layer))(nn.Linear(WIDTH, WIDTH)),
        "pooled": lambda: Pooled(shared),
        "layer norm": lambda: nn.LayerNorm(WIDTH),
        "rms norm": lambda: nn.RMSNorm((POSITIONS, WIDTH)),
        "group norm": lambda: Transposed(nn.GroupNorm(2, WIDTH)),
        "convolution": lambda: Transposed(nn.Conv1d(WIDTH, WIDTH, 3, padding=1)),
        "depthwise": lambda: Transposed(nn.Conv1d(WIDTH, WIDTH, 2, padding="same", groups=WIDTH, bias=False)),
        "image": lambda: nn.Sequential(
            nn.Unflatten(1, (1, POSITIONS)),
            nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
            nn.Tanh(),
            nn.Conv2d(2, 1, 1),
            nn.Flatten(1, 2),
        ),
        "relu": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True)),
        "own": Own,
    }[kind]()


KINDS = [
    "linear", "linear without bias", "wide", "frozen", "shared", "tied", "twice", "pooled", "layer norm",
    "rms norm", "group norm", "convolution", "depthwise", "image", "relu", "own",
]  # fmt: skip


class Network(nn.Module):
    def __init__(self, first: str, blocks: list[tuple[str, bool]], head: str) -> None:
        super().__init__()
        self.first: nn.Module
        if first == "linear":
            self.first = nn.Linear(2, WIDTH)
        elif first == "embedding":
            self.first = nn.Embedding(ROWS, WIDTH, padding_idx=1)
        else:
            self.first = nn.Sequential(nn.EmbeddingBag(ROWS, WIDTH * POSITIONS), nn.Unflatten(1, (POSITIONS, WIDTH)))
        shared = nn.Linear(WIDTH, WIDTH)
        inner = [_layer(kind, shared) for kind, _ in blocks]
        # Autograd refuses to change in place what ReLU returned.
        residual = [wrap and kind != "relu" for kind, wrap in blocks]
        self.blocks = nn.Sequential(
            *[Residual(layer) if wrap else layer for layer, wrap in zip(inner, residual, strict=True)]
        )
        self.head = nn.Linear(WIDTH, ROWS, bias=False)
        if head == "tied" and isinstance(self.first, nn.Embedding):
            self.head.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.blocks(torch.sin(self.first(x)))))


@st.composite
def networks(draw: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(draw(st.integers(0, 2**31)))
    first = draw(st.sampled_from(["linear", "embedding", "bag"]))
    blocks = draw(st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=4))
    model = Network(first, blocks, draw(st.sampled_from(["own", "tied"]))).double()
    size = draw(st.integers(0, 6))
    if first == "linear":
        return model, torch.randn(size, POSITIONS, 2, dtype=torch.float64)
    return model, torch.randint(0, ROWS, (size, POSITIONS))


def _expect(model: nn.Module, x: Tensor, bound: float) -> list[Tensor]:
    total = clipped_sum(example_gradients(model, slices((x,)), outputs_loss), bound)
    return total or [torch.zeros_like(p) for p in trainable(model)]


def _check(model: nn.Module, found: list[Tensor], expected: list[Tensor]) -> None:
    difference = norm([a - b for a, b in zip(found, expected, strict=True)])
    assert difference <= 1e-9 * norm(expected), (difference, norm(expected), model)


@PROPERTY
@given(
    networks(),
    st.floats(1e-3, 1e3),
    st.sampled_from(["mean", "sum"]),
    st.sampled_from([1.0, 0.125, 3.0, 1024.0]),
    st.floats(0.5, 50.0),
)
def test_clipped_sum_of_a_network(
    drawn: tuple[nn.Module, Tensor], bound: float, reduction: str, loss_scale: float, expected_size: float
) -> None:
    model, x = drawn
    expected = [g / expected_size for g in _expect(model, x, bound)]
    engine = engine_for(model, max_grad_norm=bound, loss_reduction=reduction, expected_batch_size=expected_size)
    engine.arm(batch_size=len(x), step=0, loss_scale=loss_scale)
    (getattr(outputs_loss(model, x), reduction)() * loss_scale).backward()
    _check(model, grads(model), expected)


@PROPERTY
@given(networks(), st.floats(1e-2, 1e2), st.data())
def test_micro_batches_of_a_network_add_up(drawn: tuple[nn.Module, Tensor], bound: float, data: st.DataObject) -> None:
    model, x = drawn
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=3), label="cuts"))
    parts = x.tensor_split(cuts)
    engine = engine_for(model, max_grad_norm=bound)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        engine.arm(batch_size=len(part), step=0, loss_scale=1 / len(parts), closes_step=last)
        (outputs_loss(model, part).mean() / len(parts)).backward()
        assert engine.released == int(last)
    _check(model, grads(model), _expect(model, x, bound))


@PROPERTY
@given(networks(), st.floats(1e-2, 1e2))
def test_p01_one_example_moves_the_sum_by_at_most_the_bound(drawn: tuple[nn.Module, Tensor], bound: float) -> None:
    model, x = drawn
    engine = engine_for(model, max_grad_norm=bound)
    sums = []
    for step, batch in enumerate((x, x[1:])):
        engine.arm(batch_size=len(batch), step=step)
        (50 * outputs_loss(model, batch)).mean().backward()
        sums.append(grads(model))
    assert norm([a - b for a, b in zip(*sums, strict=True)]) <= bound * (1 + 1e-9)


@PROPERTY
@given(networks())
def test_the_output_of_a_network_is_that_of_the_plain_one(drawn: tuple[nn.Module, Tensor]) -> None:
    model, x = drawn
    expected = model(x).detach()
    engine = engine_for(model)
    engine.arm(batch_size=len(x), step=0)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    engine.detach()
    assert torch.equal(model(x), expected)


def test_a_convolutional_network_with_residuals_and_norms() -> None:
    torch.manual_seed(3)

    class Block(nn.Module):
        def __init__(self, inside: int, outside: int, stride: int) -> None:
            super().__init__()
            self.a = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            self.b = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
            self.skip = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.n, self.m = nn.GroupNorm(2, outside), nn.GroupNorm(2, outside)

        def forward(self, x: Tensor) -> Tensor:
            y = self.m(self.b(F.relu(self.n(self.a(x)), inplace=True)))
            y += self.skip(x)
            return F.relu(y, inplace=True)

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), Block(4, 8, 2), Block(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).double()  # fmt: skip
    x, y = torch.randn(6, 3, 10, 10, dtype=torch.float64), torch.randint(0, 5, (6,))

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y, reduction="none")

    gradients = example_gradients(model, slices((x, y)), loss)
    for bound in (0.1, 1.0, 100.0):
        engine = engine_for(model, max_grad_norm=bound)
        engine.arm(batch_size=6, step=0)
        F.cross_entropy(model(x), y).backward()
        _check(model, grads(model), clipped_sum(gradients, bound))
        engine.detach()
