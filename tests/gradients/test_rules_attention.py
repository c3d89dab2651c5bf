"""Attention against autograd example by example, in float64 to 1e-10 and in float32 to 1e-5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from taps import Taps, check_rule, example_losses, tapped
from torch import Tensor, nn

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.arrangements import Blocks
from lightning_privacy.gradients.outer import Outer

B, T, S, E, H = 4, 5, 3, 6, 2


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)


def _layer(dtype: torch.dtype = torch.float64, **options: Any) -> nn.MultiheadAttention:
    layer = nn.MultiheadAttention(E, H, **options)
    for parameter in layer.parameters():  # biases begin at zero, and hide faults
        nn.init.normal_(parameter, std=0.5)
    return layer.to(dtype)


def _rows(layer: nn.MultiheadAttention, *, weights: bool = True) -> Callable[[Any], Sequence[Tensor]]:
    def rows(result: Any) -> Sequence[Tensor]:
        output, attention = result
        output = output if layer.batch_first else output.transpose(0, 1)
        return [output, *([attention] if attention is not None and weights else [])]

    return rows


def _data(layer: nn.MultiheadAttention, steps: int, width: int, batch: int = B) -> Tensor:
    shape = (batch, steps, width) if layer.batch_first else (steps, batch, width)
    return torch.randn(*shape, dtype=layer.out_proj.weight.dtype, requires_grad=True)


def _inputs(layer: nn.MultiheadAttention, kind: str, batch: int = B) -> tuple[Tensor, Tensor, Tensor]:
    query = _data(layer, T, E, batch)
    if kind == "self":
        return query, query, query
    key = _data(layer, S, layer.kdim, batch)
    return (query, key, key) if kind == "cross" else (query, key, _data(layer, S, layer.vdim, batch))


def _inputs_by_name(
    layer: nn.MultiheadAttention, kind: str, batch: int = B
) -> tuple[tuple[Tensor, ...], Callable[..., Any]]:
    """Tensors, each once, and a call that passes them on as query, key and value, the same object where it is one."""
    query, key, value = _inputs(layer, kind, batch)
    order = {"self": (0, 0, 0), "cross": (0, 1, 1), "three": (0, 1, 2)}[kind]

    def call(run: Any, *tensors: Tensor, **kwargs: Any) -> Any:
        return run(*(tensors[place] for place in order), **kwargs)

    return (query, key, value)[: max(order) + 1], call


def _check(layer: nn.MultiheadAttention, kind: str, *, batch: int = B, tolerance: float = 1e-10, **kwargs: Any) -> None:
    args, call = _inputs_by_name(layer, kind, batch)
    check_rule(layer, args, kwargs, rows=_rows(layer), call=call, tolerance=tolerance)


every_kind = pytest.mark.parametrize("kind", ["self", "cross", "three"])
weights_or_not = pytest.mark.parametrize("need_weights", [True, False], ids=["weights", "no weights"])


@every_kind
@weights_or_not
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "time first"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"dropout": 0.4},
        {"add_bias_kv": True},
        {"add_zero_attn": True, "dropout": 0.2},
        {"add_bias_kv": True, "add_zero_attn": True, "bias": False},
    ],
    ids=str,
)
def test_options(options: dict[str, Any], batch_first: bool, need_weights: bool, kind: str) -> None:
    _check(_layer(batch_first=batch_first, **options), kind, need_weights=need_weights)


@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "time first"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [{"kdim": 4, "vdim": 7}, {"kdim": 4}, {"vdim": 7}], ids=str)
def test_other_widths_of_keys_and_values(widths: dict[str, int], bias: bool, batch_first: bool) -> None:
    layer = _layer(bias=bias, batch_first=batch_first, **widths)
    assert layer.in_proj_weight is None
    _check(layer, "three")
    _check(_layer(bias=bias, batch_first=batch_first, kdim=4, vdim=4), "cross")


def _mask(name: str, dtype: str, length: int) -> Tensor:
    mask = torch.rand({"positions": (T, length), "heads": (B * H, T, length), "padding": (B, length)}[name]) < 0.3
    mask[..., 0] = False  # nobody is left without any position
    return mask if dtype == "bool" else torch.randn(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)


@pytest.mark.parametrize("kind", ["self", "cross"])
@weights_or_not
@pytest.mark.parametrize("dtype", ["bool", "float"])
@pytest.mark.parametrize("masks", ["positions", "heads", "padding", "positions and padding", "heads and padding"])
@pytest.mark.parametrize("extra", [False, True], ids=["", "extra positions"])
def test_masks(extra: bool, masks: str, dtype: str, need_weights: bool, kind: str) -> None:
    layer = _layer(batch_first=True, add_bias_kv=extra, add_zero_attn=extra)
    made = {
        "key_padding_mask" if name == "padding" else "attn_mask": _mask(name, dtype, T if kind == "self" else S)
        for name in masks.split(" and ")
    }
    _check(layer, kind, need_weights=need_weights, **made)


@weights_or_not
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("extra", [False, True], ids=["", "extra positions"])
def test_causal(extra: bool, padded: bool, need_weights: bool) -> None:
    layer = _layer(add_bias_kv=extra)
    mask = nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
    padding = torch.zeros(B, T, dtype=torch.float64)
    padding[:, -1] = -torch.inf
    more = {"key_padding_mask": padding} if padded else {}
    _check(layer, "self", attn_mask=mask, is_causal=True, need_weights=need_weights, **more)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_weights_of_each_head(average: bool, train: bool) -> None:
    _check(_layer(dropout=0.3).train(train), "cross", average_attn_weights=average)


@every_kind
@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch: int, kind: str) -> None:
    _check(_layer(batch_first=True), kind, batch=batch)


@every_kind
@pytest.mark.parametrize("trained", ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias", "bias_k"])
def test_one_trained_parameter(trained: str, kind: str) -> None:
    layer = _layer(add_bias_kv=True)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name == trained)
    _check(layer, kind)


@every_kind
@weights_or_not
@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
def test_single_precision(cheaper: bool, need_weights: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outer, "_instantiation_is_cheaper", lambda self: cheaper)
    _check(_layer(torch.float32, dropout=0.1, batch_first=True), kind, need_weights=need_weights, tolerance=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 4),
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    heads=st.integers(1, 3),
    each=st.integers(1, 3),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 5)) | st.none(),
    flags=st.tuples(*[st.booleans()] * 5),
    seed=st.integers(0, 1000),
)
def test_any_sizes(
    batch: int,
    lengths: tuple[int, int],
    heads: int,
    each: int,
    widths: tuple[int, int] | None,
    flags: tuple[bool, ...],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    bias, bias_kv, zero, batch_first, need_weights = flags
    layer = nn.MultiheadAttention(
        heads * each,
        heads,
        bias=bias,
        add_bias_kv=bias_kv,
        add_zero_attn=zero,
        batch_first=batch_first,
        kdim=widths and widths[0],
        vdim=widths and widths[1],
    ).double()
    query = _data(layer, lengths[0], layer.embed_dim, batch)
    key = _data(layer, lengths[1], layer.kdim, batch)
    value = _data(layer, lengths[1], layer.vdim, batch)
    check_rule(layer, (query, key, value), {"need_weights": need_weights}, rows=_rows(layer))


def test_mixed_precision() -> None:
    layer, taps = _layer(torch.float32, add_bias_kv=True), Taps()
    inputs = _inputs(layer, "cross")
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = layer(*inputs), tapped(layer, taps, *inputs)
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == two.dtype
        torch.testing.assert_close(one, two, rtol=0, atol=0.02)
    example_losses([rows.float() for rows in _rows(layer)(found)]).sum().backward()
    assert set(taps.merged()) == {name for name, _ in layer.named_parameters()}


def test_an_example_that_is_not_finite_stays_alone() -> None:
    layer = _layer(batch_first=True)
    x = torch.randn(B, T, E, dtype=torch.float64)
    spoiled = x.clone()
    spoiled[1, 0, 0] = float("inf")
    results = []
    for data in (x, spoiled):
        taps = Taps()
        example_losses(_rows(layer)(tapped(layer, taps, data, data, data))).sum().backward()
        results.append({name: item.per_example() for name, item in taps.merged().items()})
    for name, values in results[0].items():
        assert torch.equal(results[1][name][[0, 2, 3]], values[[0, 2, 3]])


@every_kind
def test_an_empty_batch(kind: str) -> None:
    layer, taps = _layer(batch_first=True, add_bias_kv=True), Taps()
    output, _ = tapped(layer, taps, *_inputs(layer, kind, batch=0))
    output.sum().backward()
    assert {name for name, _ in layer.named_parameters()} == set(taps.merged())
    for name, contribution in taps.merged().items():
        assert contribution.squared_norms().shape == (0,)
        total = torch.zeros_like(layer.get_parameter(name))
        contribution.add_weighted_sum(total, torch.zeros(0, dtype=torch.float64))
        assert not total.any()


def test_two_uses_of_one_layer_add_up_before_the_norm() -> None:
    layer, taps = _layer(batch_first=True), Taps()
    query, key, _ = _inputs(layer, "cross")

    def twice(run: Any) -> Tensor:
        return run(run(query, key, key)[0], key, key)[0]

    losses = example_losses([twice(layer)])
    parameters = list(layer.parameters())
    each = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    example_losses([twice(lambda *args: tapped(layer, taps, *args))]).sum().backward()
    for place, (name, _) in enumerate(layer.named_parameters()):
        expected = torch.stack([gradients[place] for gradients in each])
        contribution = taps.merged()[name]
        torch.testing.assert_close(contribution.per_example(), expected, rtol=1e-10, atol=1e-12)
        squares = expected.flatten(1).square().sum(1)
        torch.testing.assert_close(contribution.squared_norms(), squares, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "products"), [("self", [3 * E]), ("cross", [E, 2 * E]), ("three", [E, E, E])])
def test_inputs_that_are_one_tensor_are_one_product(kind: str, products: list[int]) -> None:
    layer, taps = _layer(), Taps()
    tapped(layer, taps, *_inputs(layer, kind))[0].sum().backward()
    contribution = taps.merged()["in_proj_weight"]
    parts = contribution.parts if isinstance(contribution, Blocks) else [contribution]
    assert all(isinstance(part, Outer) for part in parts)
    assert [part.shape[0] for part in parts] == products


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_output_that_is_changed_in_place(batch_first: bool) -> None:
    layer = _layer(batch_first=batch_first)

    def call(run: Any, x: Tensor) -> Any:
        output, weights = run(x, x, x)
        output += x
        return torch.nn.functional.relu(output, inplace=True), weights

    check_rule(layer, (_data(layer, T, E),), rows=_rows(layer), call=call)


def test_an_input_without_a_batch_is_refused() -> None:
    layer = _layer()
    x = torch.zeros(T, E, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match=r"got inputs of shape \(5, 6\), .* needs a batch of sequences"):
        tapped(layer, Taps(), x, x, x)


def test_nested_tensors_are_refused() -> None:
    layer = _layer(batch_first=True)
    x = torch.nested.nested_tensor([torch.zeros(2, E), torch.zeros(3, E)], layout=torch.jagged)
    with pytest.raises(UnsupportedError, match=r"nested tensor; .* enable_nested_tensor=False"):
        tapped(layer, Taps(), x, x, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(B, S, 5)}, r"must be \(6, 6, 6\) wide"),
        ({"key": torch.zeros(B, S + 1, E)}, "keys and values of one length"),
        ({"query": torch.zeros(1, T, E)}, "must be over one batch"),
        ({"attn_mask": torch.zeros(1, S)}, r"attn_mask must have shape \(5, 3\) or \(8, 5, 3\), got \(1, 3\)"),
        ({"attn_mask": torch.zeros(T, S, dtype=torch.int64)}, "attn_mask must be bool or floating point"),
        ({"key_padding_mask": torch.zeros(1, S)}, r"key_padding_mask must have shape \(4, 3\), got \(1, 3\)"),
        ({"is_causal": True}, "is_causal=True is a hint and needs the mask"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    layer = _layer(torch.float32, batch_first=True)
    arguments = {"query": torch.zeros(B, T, E), "key": torch.zeros(B, S, E), "value": torch.zeros(B, S, E), **change}
    with pytest.raises((RuntimeError, AssertionError)):
        layer(**arguments)
    with pytest.raises(ValueError, match=message):
        tapped(layer, Taps(), **arguments)
