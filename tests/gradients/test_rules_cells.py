"""Recurrent cells, called step by step, against autograd example by example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from taps import Taps, check_rule, example_losses, tapped
from torch import Tensor, nn

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.outer import Outer

CELLS: dict[str, Any] = {
    "RNNCell": nn.RNNCell,
    "RNNCell of relu": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
    "LSTMCell": nn.LSTMCell,
    "GRUCell": nn.GRUCell,
}
every_cell = pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)


def _state(cell: nn.RNNCellBase, batch: int) -> Any:
    states = [torch.randn(batch, cell.hidden_size, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    return tuple(states) if isinstance(cell, nn.LSTMCell) else states[0]


def _steps(run: Any, x: Tensor, *state: Any) -> list[Tensor]:
    """Call the cell for each time step of ``(B, T, features)`` and return all states."""
    current = state[0] if state else None
    found = []
    for step in x.unbind(1):
        current = run(step) if current is None else run(step, current)
        found.extend(current if isinstance(current, tuple) else (current,))
    return found


@every_cell
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize(("batch", "steps"), [(4, 1), (4, 6), (1, 3)])
def test_cells(make: Any, batch: int, steps: int, given_state: bool, bias: bool) -> None:
    cell = make(3, 5, bias=bias).double()
    x = torch.randn(batch, steps, 3, dtype=torch.float64, requires_grad=True)
    check_rule(cell, (x, *([_state(cell, batch)] if given_state else [])), rows=list, call=_steps)


@every_cell
@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
def test_single_precision(make: Any, cheaper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outer, "_instantiation_is_cheaper", lambda self: cheaper)
    check_rule(make(8, 16), (torch.randn(6, 12, 8),), rows=list, call=_steps, tolerance=1e-5)


@every_cell
@pytest.mark.parametrize("trained", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_one_trained_parameter(make: Any, trained: str) -> None:
    cell = make(3, 5).double()
    for name, parameter in cell.named_parameters():
        parameter.requires_grad_(name == trained)
    check_rule(cell, (torch.randn(4, 3, 3, dtype=torch.float64),), rows=list, call=_steps)


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(sorted(CELLS)),
    batch=st.integers(1, 4),
    steps=st.integers(1, 5),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
def test_any_sizes(kind: str, batch: int, steps: int, sizes: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(batch, steps, sizes[0], dtype=torch.float64)
    check_rule(CELLS[kind](*sizes).double(), (x,), rows=list, call=_steps)


@every_cell
def test_calls_of_a_step_become_one_product(make: Any) -> None:
    cell, taps = make(3, 5).double(), Taps()
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    example_losses(_steps(lambda *args: tapped(cell, taps, *args), x)).sum().backward()
    for name in ("weight_ih", "weight_hh"):
        contribution = taps.merged()[name]
        assert isinstance(contribution, Outer)
        assert [pair.left.shape[1] for pair in contribution.pairs] == [7]


@every_cell
def test_inputs_that_are_refused(make: Any) -> None:
    cell = make(3, 5).double()
    with pytest.raises(UnsupportedError, match=r"Cell got an input of shape \(3,\); .* needs a batch"):
        tapped(cell, Taps(), torch.zeros(3, dtype=torch.float64))
    state = _state(cell, 1)
    x = torch.zeros(4, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        cell(x, state)
    with pytest.raises(ValueError, match=r"hx of nn.\w+Cell must have shape \(4, 5\), got \(1, 5\)"):
        tapped(cell, Taps(), x, state)
