"""Recurrent layers against autograd example by example, in float64 to 1e-10 and in float32 to 1e-5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from taps import Taps, check_rule, example_losses, tapped
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

from lightning_privacy.errors import UnsupportedError

FAMILIES: dict[str, Any] = {
    "RNN": nn.RNN,
    "RNN of relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "GRU": nn.GRU,
    "LSTM": nn.LSTM,
    "LSTM with projection": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=2, **options),
}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)


def _rows(layer: nn.RNNBase, *, final_only: bool = False) -> Any:
    def rows(result: Any) -> Sequence[Tensor]:
        output, last = result
        if isinstance(output, PackedSequence):
            output = pad_packed_sequence(output, batch_first=True)[0]
        elif not layer.batch_first:
            output = output.transpose(0, 1)
        states = last if isinstance(last, tuple) else (last,)
        return [*([] if final_only else [output]), *(state.transpose(0, 1) for state in states)]

    return rows


def _data(layer: nn.RNNBase, batch: int, steps: int, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = (batch, steps, layer.input_size) if layer.batch_first else (steps, batch, layer.input_size)
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def _states(layer: nn.RNNBase, batch: int) -> Any:
    directions = 2 if layer.bidirectional else 1
    sizes = [layer.proj_size or layer.hidden_size] + ([layer.hidden_size] if isinstance(layer, nn.LSTM) else [])
    states = [
        torch.randn(layer.num_layers * directions, batch, size, dtype=torch.float64, requires_grad=True)
        for size in sizes
    ]
    return tuple(states) if len(states) > 1 else states[0]


@every_family
@pytest.mark.parametrize("given_states", [False, True], ids=["from zero", "from given states"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True, "bias": False},
        {"num_layers": 2, "bidirectional": True},
        {"num_layers": 3, "dropout": 0.4, "batch_first": True},
        {"num_layers": 2, "dropout": 0.5, "bidirectional": True, "bias": False, "batch_first": True},
    ],
    ids=str,
)
def test_sequences_of_one_length(make: Any, options: dict[str, Any], given_states: bool) -> None:
    layer = make(3, 4, **options).double()
    args = (_data(layer, 5, 6), *([_states(layer, 5)] if given_states else []))
    check_rule(layer, args, rows=_rows(layer))


@every_family
@pytest.mark.parametrize(("batch", "steps"), [(1, 4), (3, 1), (1, 1), (4, 30)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_sizes(make: Any, batch: int, steps: int, bidirectional: bool) -> None:
    layer = make(3, 4, bidirectional=bidirectional).double()
    check_rule(layer, (_data(layer, batch, steps),), rows=_rows(layer))


@every_family
def test_only_the_final_states_are_used(make: Any) -> None:
    layer = make(3, 4, num_layers=2, bidirectional=True).double()
    check_rule(layer, (_data(layer, 4, 5), _states(layer, 4)), rows=_rows(layer, final_only=True))


@every_family
@pytest.mark.parametrize("given_states", [False, True], ids=["from zero", "from given states"])
@pytest.mark.parametrize(("enforce_sorted", "lengths"), [(True, [6, 4, 4, 1]), (False, [2, 6, 1, 4]), (False, [1, 1])])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.3}], ids=str)
def test_packed_sequences(
    make: Any, options: dict[str, Any], enforce_sorted: bool, lengths: list[int], given_states: bool
) -> None:
    layer = make(3, 4, **options).double()
    x = torch.randn(max(lengths), len(lengths), 3, dtype=torch.float64, requires_grad=True)

    def call(run: Any, x: Tensor, *states: Any) -> Any:
        return run(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=enforce_sorted), *states)

    args = (x, *([_states(layer, len(lengths))] if given_states else []))
    check_rule(layer, args, rows=_rows(layer), call=call)


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    sizes=st.tuples(st.integers(1, 5), st.integers(3, 6)),
    seed=st.integers(0, 1000),
)
def test_any_lengths_and_sizes(
    family: str,
    lengths: list[int],
    layers: int,
    bidirectional: bool,
    bias: bool,
    sizes: tuple[int, int],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    layer = FAMILIES[family](*sizes, num_layers=layers, bidirectional=bidirectional, bias=bias).double()
    x = torch.randn(max(lengths), len(lengths), sizes[0], dtype=torch.float64)

    def call(run: Any, x: Tensor) -> Any:
        return run(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))

    check_rule(layer, (x,), rows=_rows(layer), call=call)


@every_family
@pytest.mark.parametrize("trained", ["weight_ih_l1", "weight_hh_l0", "bias_hh_l0_reverse", "bias_ih_l1"])
def test_one_trained_parameter(make: Any, trained: str) -> None:
    layer = make(3, 4, num_layers=2, bidirectional=True).double()
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name == trained)
    check_rule(layer, (_data(layer, 4, 5),), rows=_rows(layer))


@every_family
@pytest.mark.parametrize(("train", "dropout"), [(True, 0.4), (False, 0.4)], ids=["training", "evaluating"])
def test_single_precision(make: Any, train: bool, dropout: float) -> None:
    layer = make(12, 16, num_layers=2, bidirectional=True, dropout=dropout).train(train)
    check_rule(layer, (_data(layer, 6, 20, torch.float32),), rows=_rows(layer), tolerance=1e-5)


@every_family
def test_what_lies_behind_the_end_of_a_sequence_adds_nothing(make: Any) -> None:
    layer = make(3, 4, bidirectional=True).double()
    x = torch.randn(6, 3, 3, dtype=torch.float64)
    x[2:, 1] = float("nan")  # never read: packing drops it

    def call(run: Any, x: Tensor) -> Any:
        return run(pack_padded_sequence(x, torch.tensor([6, 2, 4]), enforce_sorted=False))

    check_rule(layer, (x,), rows=_rows(layer), call=call)


@every_family
def test_an_example_that_is_not_finite_stays_alone(make: Any) -> None:
    layer = make(3, 4, num_layers=2, bidirectional=True).double()
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    spoiled = x.clone()
    spoiled[2, 1, 0] = float("nan")
    results = []
    for data in (x, spoiled):
        taps = Taps()
        example_losses(_rows(layer)(tapped(layer, taps, data))).sum().backward()
        results.append({name: item.per_example() for name, item in taps.merged().items()})
    for name, values in results[0].items():
        assert torch.equal(results[1][name][[0, 2]], values[[0, 2]])
        assert not results[1][name][1].isfinite().all()


@every_family
def test_an_empty_batch(make: Any) -> None:
    layer = make(3, 4, num_layers=2, bidirectional=True).double()
    taps = Taps()
    output, _ = tapped(layer, taps, torch.zeros(5, 0, 3, dtype=torch.float64))
    output.sum().backward()
    for name, contribution in taps.merged().items():
        parameter = layer.get_parameter(name)
        assert contribution.squared_norms().shape == (0,)
        total = torch.zeros_like(parameter)
        contribution.add_weighted_sum(total, torch.zeros(0, dtype=torch.float64))
        assert not total.any()


@every_family
def test_a_sequence_without_a_batch_is_refused(make: Any) -> None:
    layer = make(3, 4).double()
    with pytest.raises(UnsupportedError, match=r"got an input of shape \(5, 3\); .* needs a batch of sequences"):
        tapped(layer, Taps(), torch.zeros(5, 3, dtype=torch.float64))


@every_family
def test_wrong_arguments_raise_what_torch_raises(make: Any) -> None:
    layer = make(3, 4).double()
    for run in (layer, lambda *args: tapped(layer, Taps(), *args)):
        with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 3, got 2"):
            run(torch.zeros(5, 2, 2, dtype=torch.float64))
        with pytest.raises(RuntimeError, match="Expected hidden"):
            run(torch.zeros(5, 2, 3, dtype=torch.float64), _states(layer, 3))


@every_family
def test_mixed_precision(make: Any) -> None:
    layer, taps = make(3, 4, num_layers=2, bidirectional=True), Taps()
    x = _data(layer, 3, 6, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = layer(x), tapped(layer, taps, x)
    for one, two in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        # With a projection torch returns states of different dtypes on a CPU, which is no example to follow.
        assert one.dtype == two.dtype or layer.proj_size > 0
        torch.testing.assert_close(one.float(), two.float(), rtol=0, atol=0.03)
    example_losses([rows.float() for rows in _rows(layer)(found)]).sum().backward()
    assert x.grad is not None
    assert all(contribution.squared_norms().isfinite().all() for contribution in taps.merged().values())
