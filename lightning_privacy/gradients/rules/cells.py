"""Rules of ``nn.RNNCell``, ``nn.LSTMCell`` and ``nn.GRUCell``, which the user calls once per time step.

Each call is a linear map of the input and one of the state. The calls of a step are put together afterwards, as
those of any layer that is used more than once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.outer import Outer, Pair
from lightning_privacy.gradients.rules.base import CompositeRule, Tap

__all__ = ["ElmanCellRule", "GRUCellRule", "LSTMCellRule"]

Parameters = Mapping[str, Tensor | None]


class ElmanCellRule(CompositeRule):
    """``nn.RNNCell`` with tanh or relu."""

    def forward(self, module: nn.RNNCell, parameters: Parameters, tap: Tap, *args: Any, **kwargs: Any) -> Tensor:
        """See :meth:`CompositeRule.forward`."""
        x, state = _arguments(module, *args, **kwargs)
        state = _zeros(module, x) if state is None else _checked(module, x, state)
        activation = torch.relu if module.nonlinearity == "relu" else torch.tanh
        return activation(_gates(parameters, tap, x, state))


class LSTMCellRule(CompositeRule):
    """``nn.LSTMCell``."""

    def forward(
        self, module: nn.LSTMCell, parameters: Parameters, tap: Tap, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`CompositeRule.forward`."""
        x, states = _arguments(module, *args, **kwargs)
        state, cell = (_zeros(module, x),) * 2 if states is None else (_checked(module, x, each) for each in states)
        let_in, keep, new, out = _gates(parameters, tap, x, state).chunk(4, 1)
        cell = keep.sigmoid() * cell + let_in.sigmoid() * new.tanh()
        return out.sigmoid() * cell.tanh(), cell


class GRUCellRule(CompositeRule):
    """``nn.GRUCell``: the reset gate multiplies the recurrent half of the candidate, so the halves are hooked apart."""

    def forward(self, module: nn.GRUCell, parameters: Parameters, tap: Tap, *args: Any, **kwargs: Any) -> Tensor:
        """See :meth:`CompositeRule.forward`."""
        x, state = _arguments(module, *args, **kwargs)
        state = _zeros(module, x) if state is None else _checked(module, x, state)
        reset, update, new = _half(parameters, tap, x, "ih").chunk(3, 1)
        recurrent_reset, recurrent_update, recurrent_new = _half(parameters, tap, state, "hh").chunk(3, 1)
        new = torch.tanh(new + (reset + recurrent_reset).sigmoid() * recurrent_new)
        return new + (update + recurrent_update).sigmoid() * (state - new)


def _arguments(module: nn.RNNCellBase, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:  # noqa: A002
    if input.dim() != 2:
        raise UnsupportedError(
            f"nn.{type(module).__name__} got an input of shape {tuple(input.shape)}; to be trained privately it needs "
            "a batch, two dimensions"
        )
    return input, hx


def _zeros(module: nn.RNNCellBase, x: Tensor) -> Tensor:
    return x.new_zeros(x.shape[0], module.hidden_size)


def _checked(module: nn.RNNCellBase, x: Tensor, state: Tensor) -> Tensor:
    # A state of one row would be broadcast here, where torch refuses it.
    if state.shape != (x.shape[0], module.hidden_size):
        raise ValueError(
            f"hx of nn.{type(module).__name__} must have shape {(x.shape[0], module.hidden_size)}, got "
            f"{tuple(state.shape)}"
        )
    return state


def _linear(parameters: Parameters, x: Tensor, half: str) -> Tensor:
    weight = parameters[f"weight_{half}"]
    if weight is None:
        raise TypeError(f"the cell has no weight_{half}")
    return F.linear(x, weight, parameters.get(f"bias_{half}"))


def _contributions(half: str, x: Tensor, gradient: Tensor) -> dict[str, Contribution]:
    pair = Pair(gradient.unsqueeze(1), x.unsqueeze(1))
    return {
        f"weight_{half}": Outer([pair], (gradient.shape[1], x.shape[1])),
        f"bias_{half}": Dense(gradient),
    }


def _half(parameters: Parameters, tap: Tap, x: Tensor, half: str) -> Tensor:
    """Return the hooked linear map of the input (``ih``) or of the state (``hh``)."""

    def contributions(kept: tuple[Tensor], gradient: Tensor) -> dict[str, Contribution]:
        return _contributions(half, kept[0], gradient)

    return tap(_linear(parameters, x, half), (x.detach(),), contributions)


def _gates(parameters: Parameters, tap: Tap, x: Tensor, state: Tensor) -> Tensor:
    """Return the hooked sum of both linear maps."""

    def contributions(kept: tuple[Tensor, Tensor], gradient: Tensor) -> dict[str, Contribution]:
        return {**_contributions("ih", kept[0], gradient), **_contributions("hh", kept[1], gradient)}

    gates = _linear(parameters, x, "ih") + _linear(parameters, state, "hh")
    return tap(gates, (x.detach(), state.detach()), contributions)
