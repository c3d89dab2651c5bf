"""Rules of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``: one hook for each layer and direction, whatever the length."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.outer import Outer, Pair
from lightning_privacy.gradients.recurrence import ElmanRecurrence, GRURecurrence, LSTMRecurrence, Run
from lightning_privacy.gradients.rules.base import CompositeRule, Tap

__all__ = ["ElmanRule", "GRURule", "LSTMRule", "RecurrentRule"]

Parameters = Mapping[str, Tensor | None]


@dataclass(frozen=True, slots=True)
class Pass:
    """One layer in one direction, about to run over a batch.

    Args:
        parameters: of the whole module, detached.
        suffix: of the names of those of this layer and direction.
        projected: input projection, ``(T, B, gates)``.
        initial: states before the first step, ``(B, features)`` each.
        run: the time steps.
    """

    parameters: Parameters
    suffix: str
    projected: Tensor
    initial: tuple[Tensor, ...]
    run: Run

    def parameter(self, name: str) -> Tensor | None:
        """Return a parameter of this layer and direction; None where it has none of the name."""
        # Autocast has made the projected input half precision, and not yet what the recurrence works with.
        parameter = self.parameters.get(name + self.suffix)
        return None if parameter is None else parameter.to(self.projected.dtype)

    def states(self) -> tuple[Tensor, ...]:
        """Return the initial states in the precision of the recurrence."""
        return tuple(state.to(self.projected.dtype) for state in self.initial)


class RecurrentRule(CompositeRule):
    """What the three families share: layers, directions, packed sequences, dropout.

    Inside, time comes first and sequences are sorted by length, as in a :class:`PackedSequence`; what is hooked has
    the examples first, in the order of the batch.
    """

    def forward(
        self,
        module: nn.RNNBase,
        parameters: Parameters,
        tap: Tap,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """See :meth:`CompositeRule.forward`."""
        return self._forward(module, parameters, tap, *args, **kwargs)

    def _forward(
        self,
        module: Any,
        parameters: Parameters,
        tap: Tap,
        input: Tensor | PackedSequence,  # noqa: A002 - the name of torch's own argument
        hx: Any = None,
    ) -> Any:
        packed = isinstance(input, PackedSequence)
        data, batch_sizes, sorted_indices, unsorted_indices = (
            input if isinstance(input, PackedSequence) else (input, None, None, None)
        )
        if not packed and data.dim() != 3:
            raise UnsupportedError(
                f"nn.{type(module).__name__} got an input of shape {tuple(data.shape)}; to be trained privately it "
                "needs a batch of sequences, three dimensions (or a PackedSequence)"
            )
        states = self.initial_states(module, data, batch_sizes) if hx is None else hx
        module.check_forward_args(data, states, batch_sizes)
        states = module.permute_hidden(states, sorted_indices)
        states = states if isinstance(states, tuple) else (states,)
        if isinstance(input, PackedSequence):
            x, lengths = pad_packed_sequence(PackedSequence(data, input.batch_sizes))
            active = input.batch_sizes.tolist()
        else:
            x, lengths = (data.transpose(0, 1) if module.batch_first else data), None
            active = [x.shape[1]] * x.shape[0]
        order = (sorted_indices, unsorted_indices)
        x, last = self._layers(module, parameters, tap, x, states, active, lengths, order)
        if isinstance(input, PackedSequence):
            output: Any = PackedSequence(_packed(x, lengths), batch_sizes, sorted_indices, unsorted_indices)
        else:
            output = x.transpose(0, 1) if module.batch_first else x
        return output, module.permute_hidden(last if len(last) > 1 else last[0], unsorted_indices)

    def _layers(
        self,
        module: nn.RNNBase,
        parameters: Parameters,
        tap: Tap,
        x: Tensor,
        states: tuple[Tensor, ...],
        active: list[int],
        lengths: Tensor | None,
        order: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output of the last layer, ``(T, B, features)``, and the final states of all."""
        directions = 2 if module.bidirectional else 1
        last: list[tuple[Tensor, ...]] = []
        for layer in range(module.num_layers):
            outputs = []
            for direction in range(directions):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                initial = tuple(state[layer * directions + direction] for state in states)
                run = Run(active, backwards=direction == 1)
                projected = self._projected(parameters, tap, x, suffix, run, order)
                with torch.autocast(projected.device.type, enabled=False):
                    output, *final = self.recur(module, Pass(parameters, suffix, projected, initial, run))
                outputs.append(output)
                last.append(tuple(final))
            x = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
            if module.dropout > 0 and module.training and layer < module.num_layers - 1:
                x = _dropped(x, module.dropout, lengths)
        return x, tuple(torch.stack(each) for each in zip(*last, strict=True))

    def _projected(
        self,
        parameters: Parameters,
        tap: Tap,
        x: Tensor,
        suffix: str,
        run: Run,
        order: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        """Return the hooked input projection of all steps, ``(T, B, gates)``."""
        to_sorted, to_batch = order
        weight = parameters[f"weight_ih{suffix}"]
        if weight is None:
            raise TypeError(f"the layer has no weight_ih{suffix}")

        def rows_of(values: Tensor) -> Tensor:
            values = values.transpose(0, 1)
            return values if to_batch is None else values.index_select(0, to_batch)

        def contributions(kept: tuple[Tensor], gradient: Tensor) -> dict[str, Contribution]:
            return self._contributions(kept[0], gradient, suffix, run, rows_of)

        rows = rows_of(F.linear(x, weight, self.input_bias(parameters, suffix)))
        rows = tap(rows, (rows_of(x.detach()),), contributions)
        return (rows if to_sorted is None else rows.index_select(0, to_sorted)).transpose(0, 1)

    def _contributions(
        self, x: Tensor, gradient: Tensor, suffix: str, run: Run, rows_of: Callable[[Tensor], Tensor]
    ) -> dict[str, Contribution]:
        """Return the contributions of one layer and direction from the gradient of its projected input."""

        def rows(values: Tensor) -> Tensor:
            return rows_of(values.to(gradient.dtype))

        if run.previous is None:
            raise RuntimeError("the gradient of the input projection arrived before that of the recurrence")
        recurrent = self.recurrent_gradient(gradient, run, rows)
        result: dict[str, Contribution] = {
            f"weight_ih{suffix}": _outer(gradient, x),
            f"weight_hh{suffix}": _outer(recurrent, rows(run.previous)),
            f"bias_ih{suffix}": Dense(gradient.sum(1)),
            f"bias_hh{suffix}": Dense(recurrent.sum(1)),
        }
        if run.unprojected is not None:
            result[f"weight_hr{suffix}"] = _outer(rows(run.unprojected[0]), rows(run.unprojected[1]))
        return result

    def initial_states(self, module: nn.RNNBase, data: Tensor, batch_sizes: Tensor | None) -> Any:
        """Return the states that a call without them begins with."""
        return data.new_zeros(module.get_expected_hidden_size(data, batch_sizes))

    def input_bias(self, parameters: Parameters, suffix: str) -> Tensor | None:
        """Return what is added to the input projection of every step."""
        first, second = parameters.get(f"bias_ih{suffix}"), parameters.get(f"bias_hh{suffix}")
        return None if first is None or second is None else first + second

    def recurrent_gradient(self, gradient: Tensor, run: Run, rows: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient of ``h_{t-1} W_hh^T``, from that of the input projection, both ``(B, T, gates)``."""
        return gradient

    @abstractmethod
    def recur(self, module: Any, one: Pass) -> tuple[Tensor, ...]:
        """Run one layer in one direction.

        Args:
            module: the layer.
            one: the direction, its parameters and what they meet.

        Returns:
            The states of all steps, ``(T, B, features)``, and the final ones.
        """


class ElmanRule(RecurrentRule):
    """``nn.RNN`` with tanh or relu."""

    def recur(self, module: nn.RNN, one: Pass) -> tuple[Tensor, ...]:
        """See :meth:`RecurrentRule.recur`."""
        activation = torch.relu if module.mode == "RNN_RELU" else torch.tanh
        (hidden,) = one.states()
        result: tuple[Tensor, ...] = ElmanRecurrence.apply(
            one.projected, hidden, one.parameter("weight_hh"), activation, one.run
        )
        return result


class LSTMRule(RecurrentRule):
    """``nn.LSTM``, with or without ``proj_size``."""

    def initial_states(self, module: nn.RNNBase, data: Tensor, batch_sizes: Tensor | None) -> Any:
        """See :meth:`RecurrentRule.initial_states`."""
        hidden = super().initial_states(module, data, batch_sizes)
        return hidden, data.new_zeros(*hidden.shape[:2], module.hidden_size)

    def recur(self, module: nn.LSTM, one: Pass) -> tuple[Tensor, ...]:
        """See :meth:`RecurrentRule.recur`."""
        hidden, cell = one.states()
        weight, projection = one.parameter("weight_hh"), one.parameter("weight_hr")
        result: tuple[Tensor, ...] = LSTMRecurrence.apply(one.projected, hidden, cell, weight, projection, one.run)
        return result


class GRURule(RecurrentRule):
    """``nn.GRU``, whose reset gate multiplies the recurrent half of the candidate, bias included."""

    def input_bias(self, parameters: Parameters, suffix: str) -> Tensor | None:
        """See :meth:`RecurrentRule.input_bias`."""
        return parameters.get(f"bias_ih{suffix}")

    def recurrent_gradient(self, gradient: Tensor, run: Run, rows: Callable[[Tensor], Tensor]) -> Tensor:
        """See :meth:`RecurrentRule.recurrent_gradient`."""
        if run.hidden_gradient is None:
            raise RuntimeError("the gradient of the input projection arrived before that of the recurrence")
        size = run.hidden_gradient.shape[2]
        return torch.cat([gradient[..., : 2 * size], rows(run.hidden_gradient)], 2)

    def recur(self, module: nn.GRU, one: Pass) -> tuple[Tensor, ...]:
        """See :meth:`RecurrentRule.recur`."""
        if one.projected.device.type == "cpu":
            # There torch has no half precision kernel for this layer, and autocast leaves its states alone.
            wider = torch.promote_types(one.projected.dtype, one.initial[0].dtype)
            one = replace(one, projected=one.projected.to(wider))
        (hidden,) = one.states()
        weight, bias = one.parameter("weight_hh"), one.parameter("bias_hh")
        result: tuple[Tensor, ...] = GRURecurrence.apply(one.projected, hidden, weight, bias, one.run)
        return result


def _outer(left: Tensor, right: Tensor) -> Outer:
    return Outer([Pair(left, right)], (left.shape[2], right.shape[2]))


def _packed(x: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        raise TypeError("only sequences with lengths can be packed")
    return pack_padded_sequence(x, lengths).data


def _dropped(x: Tensor, p: float, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return F.dropout(x, p)
    # On the packed data, as torch does: the same random numbers go to the same places.
    packed = pack_padded_sequence(x, lengths)
    return pad_packed_sequence(PackedSequence(F.dropout(packed.data, p), packed.batch_sizes))[0]
