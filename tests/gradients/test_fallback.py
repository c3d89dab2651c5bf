"""Modules nobody wrote a rule for, against brute force: vectorised, looped, or by a sampler registered with Opacus."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from brute_force import (
    SLOW_LAYERS,
    check_clipped_sums,
    engine_for,
    grads,
    norm,
    normal,
    outputs_loss,
    private_sum,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lightning_privacy.errors import PrivacyViolation, UnsupportedError
from lightning_privacy.gradients.rules import rule_for

LOOPS = "ignore:.*runs example by example:UserWarning"
pytestmark = SLOW_LAYERS


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(30)


class Scale(nn.Module):
    """A parameter of its own, next to a child with a rule."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(features))
        self.linear = nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.scale)


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.temperature


class Branching(nn.Module):
    """Looks at the data, so it can't be vectorised."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if float(y.detach().sum()) > 0 else 2 * y


class Nested(nn.Module):
    """Nested inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5))

    def forward(self, batch: dict[str, Tensor], *, power: int = 1) -> dict[str, Any]:
        x = batch["x"] * self.weight
        return {"pair": (x**power, torch.sin(x)), "y": x.sum(1) * batch["y"]}


class Stateful(nn.Module):
    """Changes a buffer by what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.weight


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.recurrent = kind(4, 3, batch_first=True, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        outputs, state = self.recurrent(torch.tanh(self.first(x)))
        last = state[0] if isinstance(state, tuple) else state
        return outputs, last.transpose(0, 1)


class SelfAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor, mask: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        h = self.first(x)
        return self.attention(h, h, h, attn_mask=mask, key_padding_mask=padding, need_weights=False)[0]


class MultiplyAdd(nn.Linear):
    """Something of a user's own to register a sampler for."""


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "own parameter": (lambda: Scale(5), lambda: normal(6, 5)),
    "own parameter, deeper": (lambda: nn.Sequential(nn.Linear(5, 5), Scale(5)), lambda: normal(6, 5)),
    "own scalar": (lambda: nn.Sequential(nn.Linear(5, 3), Scalar()), lambda: normal(6, 5)),
    "data-dependent": (lambda: nn.Sequential(nn.Linear(5, 5), Branching()), lambda: normal(6, 5)),
    "stateful": (lambda: nn.Sequential(nn.Linear(5, 5), Stateful()), lambda: normal(6, 5)),
    "PReLU": (lambda: nn.Sequential(nn.Linear(5, 7), nn.PReLU(7)), lambda: normal(6, 5)),
    "PReLU of one": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU()), lambda: normal(6, 2, 5, 5)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 3, stride=2), lambda: normal(4, 3, 6)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), lambda: normal(4, 4, 5, 4)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 2, 2), lambda: normal(3, 2, 3, 3, 3)),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(5, 7)), lambda: normal(6, 5)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(5, 5)), lambda: normal(6, 5)),
    "weight_norm of a convolution": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv1d(2, 3, 3)), nn.Tanh(), nn.Conv1d(3, 2, 2)),
        lambda: normal(4, 2, 7),
    ),
    "LSTM": (lambda: Recurrent(nn.LSTM, num_layers=2), lambda: normal(5, 4, 5)),
    "LSTM both ways": (lambda: Recurrent(nn.LSTM, bidirectional=True, bias=False), lambda: normal(5, 4, 5)),
    "GRU": (lambda: Recurrent(nn.GRU), lambda: normal(5, 4, 5)),
    "RNN": (lambda: Recurrent(nn.RNN), lambda: normal(5, 4, 5)),
    "LSTMCell": (lambda: nn.Sequential(nn.Linear(5, 4), nn.LSTMCell(4, 3)), lambda: normal(5, 5)),
    "attention": (SelfAttention, lambda: normal(4, 3, 5)),
    "attention without bias": (lambda: SelfAttention(bias=False), lambda: normal(4, 3, 5)),
    "attention with extra keys": (lambda: SelfAttention(add_bias_kv=True), lambda: normal(4, 3, 5)),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        lambda: normal(4, 3, 8),
    ),
    "EmbeddingBag of maxima": (
        lambda: nn.EmbeddingBag(6, 3, mode="max"),
        lambda: torch.tensor([[0, 1, 2], [3, 3, 5], [1, 4, 0], [2, 2, 2]]),
    ),
}


@pytest.mark.parametrize(("make", "data"), MODULES.values(), ids=MODULES)
def test_module_without_a_rule(make: Callable[[], nn.Module], data: Callable[[], Tensor]) -> None:
    check_clipped_sums(make().double(), (data(),))


@pytest.mark.parametrize("name", ["own parameter", "PReLU", "GRU", "attention", "weight_norm"])
def test_module_without_a_rule_in_single_precision(name: str) -> None:
    make, data = MODULES[name]
    check_clipped_sums(make(), (data().float(),), tolerance=1e-5)


def test_bilinear_with_two_inputs() -> None:
    check_clipped_sums(nn.Bilinear(3, 4, 2).double(), (normal(5, 3), normal(5, 4)))


def test_nested_inputs_and_outputs_and_keywords() -> None:
    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return outputs_loss(model, batch={"x": x, "y": y}, power=3)

    check_clipped_sums(Nested().double(), (normal(6, 5), normal(6)), loss=loss)


def test_layers_with_rules_take_keywords() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(5, 5), Scale(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.scale(x=self.linear(input=x))

    check_clipped_sums(Keywords().double(), (normal(6, 5),))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_attention_masks(size: int) -> None:
    """A causal mask of 4 x 4 is not one row per example, even when there are 4 examples."""
    mask = torch.ones(4, 4).triu(1).bool()
    padding = torch.zeros(size, 4).bool()
    padding[0, 3] = padding[1, 2:] = True

    def loss(model: nn.Module, x: Tensor, padding: Tensor) -> Tensor:
        return outputs_loss(model, x, mask=mask, padding=padding)

    check_clipped_sums(SelfAttention().double(), (normal(size, 4, 5), padding), loss=loss)


def test_dropout_is_drawn_for_each_example_and_norms_stay_bounded() -> None:
    model = nn.Sequential(nn.Linear(5, 50), SelfAttentionDropout()).double()
    x = normal(1, 5).expand(2, 5).clone()
    outputs = []
    engine = engine_for(model, max_grad_norm=0.01)
    engine.arm(batch_size=2, step=0)
    outputs = model(x)
    assert not torch.equal(outputs[0], outputs[1])
    (1000 * outputs).sum(1).mean().backward()
    assert 0 < norm(grads(model)) <= 0.02 * (1 + 1e-9)


class SelfAttentionDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(50))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x * self.weight, 0.5, training=self.training)


def test_vectorised_where_possible_and_looped_with_one_warning_where_not() -> None:
    model, x = nn.Sequential(Scale(5), nn.Linear(4, 5), Branching()).double(), normal(6, 5)
    engine = engine_for(model)

    def step(number: int) -> None:
        engine.arm(batch_size=6, step=number)
        model(x).sum(1).mean().backward()

    with pytest.warns(UserWarning, match=r"layer '2' \(Branching\) .* example by example") as caught:
        step(0)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(1)
    assert engine.released == 2


@pytest.mark.parametrize("shape", [(7, 5), (5,)])
def test_input_without_the_batch_first_is_refused(shape: tuple[int, ...]) -> None:
    model = Scale(5).double()
    engine = engine_for(model)
    engine.arm(batch_size=6, step=0)
    with pytest.raises(UnsupportedError, match="batch"):
        model(normal(*shape))


def test_output_that_sums_over_examples_is_refused() -> None:
    class Summed(Stateful):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sum()

    model = Summed().double()
    engine = engine_for(model)
    engine.arm(batch_size=6, step=0)
    with pytest.raises(UnsupportedError, match="single example"):
        model(normal(6, 5))


class TimeFirst(nn.LSTM):
    pass


class TimeFirstAttention(nn.MultiheadAttention):
    pass


@pytest.mark.parametrize("make", [lambda: TimeFirst(5, 3), lambda: TimeFirstAttention(5, 1)])
def test_p03_layers_without_a_rule_that_take_time_first_are_refused(make: Callable[[], nn.Module]) -> None:
    """With as many time steps as examples nothing but the option tells the two dimensions apart."""
    with pytest.raises(UnsupportedError, match="batch_first"):
        engine_for(nn.Sequential(nn.Linear(5, 5), make()))


@pytest.mark.parametrize("tool", ["weight_norm", "spectral_norm", "prune"])
def test_weights_remade_in_a_hook_are_refused(tool: str) -> None:
    layer = nn.Linear(5, 5)
    if tool == "prune":
        prune.l1_unstructured(layer, "weight", 0.5)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            getattr(nn.utils, tool)(layer)
    with pytest.raises(UnsupportedError, match=r"'0'.*parametrizations"):
        engine_for(nn.Sequential(layer))


def test_a_forward_replaced_on_the_instance_is_what_runs() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    model[2].forward = lambda x: x @ model[2].weight.t() * 3
    x = normal(6, 5)
    expected = model(x)
    engine = engine_for(model)
    engine.arm(batch_size=6, step=0)
    torch.testing.assert_close(model(x), expected)


# Samplers of Opacus


@pytest.fixture
def registered() -> Iterator[list[str]]:
    """Registers a sampler for MultiplyAdd, and removes it afterwards."""
    from opacus.grad_sample import GradSampleModule, register_grad_sampler

    calls: list[str] = []

    @register_grad_sampler(MultiplyAdd)
    def sample(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        calls.append(type(layer).__name__)
        found = {layer.weight: torch.einsum("n...i,n...j->nij", backprops, activations[0])}
        if layer.bias is not None:
            found[layer.bias] = torch.einsum("n...i->ni", backprops)
        return found

    yield calls
    del GradSampleModule.GRAD_SAMPLERS[MultiplyAdd]


def test_a_sampler_registered_with_opacus_is_used(registered: list[str]) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), MultiplyAdd(4, 3)).double()
    check_clipped_sums(model, (normal(6, 5),))
    assert registered == ["MultiplyAdd"] * 3


def test_a_sampler_that_returns_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.grad_sample import GradSampleModule

    for answer in (lambda layer, inputs, g: {layer.weight: g.sum(0)}, lambda layer, inputs, g: {}):
        monkeypatch.setitem(GradSampleModule.GRAD_SAMPLERS, MultiplyAdd, answer)
        with pytest.raises(UnsupportedError, match="Opacus sampler of layer '0'"):
            private_sum(nn.Sequential(MultiplyAdd(5, 4)), (torch.randn(6, 5),), outputs_loss, 1.0)


def test_opacus_samplers_do_not_take_over_what_they_do_not_compute() -> None:
    """Opacus registers a sampler for EmbeddingBag that knows only one of its modes."""
    import opacus  # noqa: F401

    assert "opacus.grad_sample.grad_sample_module" in sys.modules
    make, data = MODULES["EmbeddingBag of maxima"]
    assert rule_for(make()) is None
    check_clipped_sums(make().double(), (data(),))


def test_p06_parameter_of_the_fallback_used_outside_its_module() -> None:
    model = nn.Sequential(nn.Linear(5, 5), Scale(5)).double()
    engine = engine_for(model)
    engine.arm(batch_size=6, step=0)
    x = normal(6, 5)
    with pytest.raises(PrivacyViolation, match=r"'1\.scale'"):
        (model(x).sum(1) + (x * model[1].scale).sum(1)).mean().backward()
