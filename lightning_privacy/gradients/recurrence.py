"""Recurrences over time that tell the gradient of every step's pre-activation.

The weights of a recurrent layer are used once per time step. Written as ``a_t = P_t + h_{t-1} W_hh^T`` with the input
projection ``P`` of all steps computed beforehand, one backward through time gives the gradient of all ``a_t`` as the
gradient of ``P``; the gradients of the weights of one example are then ``sum_t da_t x_t^T`` and
``sum_t da_t h_{t-1}^T``. So a layer of T steps costs one hook, and its contribution is an outer one over T positions.

Everything is time first, ``(T, B, ...)``. Sequences of unequal length are sorted, longest first, and ``active[t]``
says how many are still running at step t, as in :class:`torch.nn.utils.rnn.PackedSequence`. What lies behind the end
of a sequence is zero in the output and gets a gradient of exactly zero. The backward passes are written out by hand:
recording a graph of every step costs several times as much.

Example:
    >>> import torch
    >>> projected = torch.zeros(5, 2, 3, requires_grad=True)
    >>> run = Run([2, 2, 2, 1, 1])
    >>> states, last = ElmanRecurrence.apply(projected, torch.zeros(2, 3), torch.eye(3), torch.tanh, run)
    >>> states.sum().backward()
    >>> projected.grad[:, :, 0]
    tensor([[5., 3.],
            [4., 2.],
            [3., 1.],
            [2., 0.],
            [1., 0.]])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["ElmanRecurrence", "GRURecurrence", "LSTMRecurrence", "Run"]


class Run:
    """One pass over the time steps of one layer in one direction, and what its backward found.

    Args:
        active: how many sequences are running at each step; not increasing.
        backwards: from the last step to the first.
    """

    def __init__(self, active: Sequence[int], *, backwards: bool = False) -> None:
        self.active = list(active)
        self.backwards = backwards
        self.previous: Tensor | None = None
        """``h_{t-1}`` of every step, ``(T, B, features)``; known after backward."""
        self.hidden_gradient: Tensor | None = None
        """GRU: gradient of ``h_{t-1} W_hn^T + b_hn``, which the reset gate multiplies, ``(T, B, H)``."""
        self.unprojected: tuple[Tensor, Tensor] | None = None
        """LSTM with a projection: gradient of the projected state, and the state before its projection."""

    def steps(self) -> Iterator[tuple[int, int]]:
        """Return the steps in the order they are computed, with the number of running sequences."""
        order = range(len(self.active))
        return ((t, self.active[t]) for t in (reversed(order) if self.backwards else order))

    def steps_back(self) -> Iterator[tuple[int, int]]:
        """Return the steps in the order of backpropagation."""
        order = range(len(self.active))
        return ((t, self.active[t]) for t in (order if self.backwards else reversed(order)))

    def shifted(self, states: Tensor, initial: Tensor) -> Tensor:
        """Return the state before each step, from that after each step and the initial one."""
        before = torch.zeros_like(states)
        if self.backwards:
            before[:-1] = states[1:]
            ended = 0
            for t in reversed(range(len(self.active))):
                # Sequences that begin here, seen from behind.
                before[t, ended : self.active[t]] = initial[ended : self.active[t]]
                ended = self.active[t]
        else:
            before[1:] = states[:-1]
            before[0] = initial
        return before


class ElmanRecurrence(Function):
    """``h_t = f(P_t + h_{t-1} W^T)`` with f one of ``torch.tanh`` and ``torch.relu``."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        initial: Tensor,
        weight: Tensor,
        activation: Callable[[Tensor], Tensor],
        run: Run,
    ) -> tuple[Tensor, Tensor]:
        """Return the states ``(T, B, H)`` and the last one of each sequence, ``(B, H)``.

        Args:
            ctx: of autograd.
            projected: ``(T, B, H)``.
            initial: ``(B, H)``.
            weight: ``(H, H)``; gets no gradient.
            activation: f.
            run: the steps; learns ``previous`` in backward.
        """
        states, state = projected.new_zeros(projected.shape), initial.clone()
        for t, n in run.steps():
            new = activation(torch.addmm(projected[t, :n], state[:n], weight.t()))
            states[t, :n] = new
            state[:n] = new
        ctx.save_for_backward(states, initial, weight)
        ctx.activation, ctx.run = activation, run
        return states, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, states_gradient: Tensor, last_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the pre-activations and of the initial state."""
        states, initial, weight = ctx.saved_tensors
        run: Run = ctx.run
        run.previous = run.shifted(states, initial)
        slope = (states > 0).to(states.dtype) if ctx.activation is torch.relu else 1 - states.square()
        projected_gradient, carried = torch.zeros_like(states), last_gradient.clone()
        for t, n in run.steps_back():
            step = torch.mul(carried[:n].add_(states_gradient[t, :n]), slope[t, :n], out=projected_gradient[t, :n])
            torch.mm(step, weight, out=carried[:n])
        return projected_gradient, carried, None, None, None


class LSTMRecurrence(Function):
    """Gates i, f, g, o as in ``nn.LSTM``, with an optional projection of the state."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        initial: Tensor,
        initial_cell: Tensor,
        weight: Tensor,
        projection: Tensor | None,
        run: Run,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the states ``(T, B, P)``, and the last state and cell of each sequence.

        Args:
            ctx: of autograd.
            projected: ``(T, B, 4 H)``.
            initial: ``(B, P)``, where P = H without a projection.
            initial_cell: ``(B, H)``.
            weight: ``(4 H, P)``; gets no gradient.
            projection: ``(P, H)`` or None; gets no gradient.
            run: the steps; learns ``previous`` and ``unprojected`` in backward.
        """
        steps, batch, _ = projected.shape
        size = initial_cell.shape[1]
        states = projected.new_zeros(steps, batch, initial.shape[1])
        # Zero, not empty: there may be NaN in memory that is never written, behind the end of a sequence.
        gates, cells = projected.new_zeros(steps, batch, 4 * size), projected.new_zeros(steps, batch, size)
        state, cell = initial.clone(), initial_cell.clone()
        for t, n in run.steps():
            now = gates[t, :n]
            torch.addmm(projected[t, :n], state[:n], weight.t(), out=now)
            now[:, : 2 * size].sigmoid_()
            now[:, 2 * size : 3 * size].tanh_()
            now[:, 3 * size :].sigmoid_()
            let_in, keep, new, out = now.chunk(4, 1)
            cell[:n].mul_(keep).addcmul_(let_in, new)
            cells[t, :n] = cell[:n]
            hidden = cell[:n].tanh().mul_(out)
            states[t, :n] = hidden if projection is None else hidden @ projection.t()
            state[:n] = states[t, :n]
        ctx.save_for_backward(states, gates, cells, initial, initial_cell, weight, projection)
        ctx.run = run
        return states, state, cell

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, states_gradient: Tensor, last_gradient: Tensor, last_cell_gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of the pre-activations and of the initial state and cell."""
        states, gates, cells, initial, initial_cell, weight, projection = ctx.saved_tensors
        run: Run = ctx.run
        run.previous = run.shifted(states, initial)
        let_in, keep, new, out = gates.chunk(4, 2)
        squashed = cells.tanh()
        # All that does not depend on what comes back from later steps, for all steps at once.
        slopes = torch.stack(
            [
                new * let_in * (1 - let_in),
                run.shifted(cells, initial_cell) * keep * (1 - keep),
                let_in * (1 - new.square()),
                squashed * out * (1 - out),
            ],
            2,
        )
        into_cell = out * (1 - squashed.square())
        hidden_gradients = None if projection is None else torch.zeros_like(states)
        projected_gradient = torch.zeros_like(slopes)
        carried, carried_cell = last_gradient.clone(), last_cell_gradient.clone()
        for t, n in run.steps_back():
            hidden = carried[:n].add_(states_gradient[t, :n])
            if hidden_gradients is not None:
                hidden_gradients[t, :n] = hidden
                hidden = hidden @ projection
            cell = carried_cell[:n].addcmul_(hidden, into_cell[t, :n])
            step = projected_gradient[t, :n]
            torch.mul(slopes[t, :n, :3], cell.unsqueeze(1), out=step[:, :3])
            torch.mul(slopes[t, :n, 3], hidden, out=step[:, 3])
            cell.mul_(keep[t, :n])
            torch.mm(step.flatten(1), weight, out=carried[:n])
        if hidden_gradients is not None:
            run.unprojected = hidden_gradients, squashed.mul_(out)
        return projected_gradient.flatten(2), carried, carried_cell, None, None, None


class GRURecurrence(Function):
    """Gates r, z, n as in ``nn.GRU``: the reset gate multiplies ``h_{t-1} W_hn^T + b_hn``."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, initial: Tensor, weight: Tensor, bias: Tensor | None, run: Run
    ) -> tuple[Tensor, Tensor]:
        """Return the states ``(T, B, H)`` and the last one of each sequence.

        Args:
            ctx: of autograd.
            projected: ``(T, B, 3 H)``.
            initial: ``(B, H)``.
            weight: ``(3 H, H)``; gets no gradient.
            bias: ``(3 H,)``, added to ``h_{t-1} W^T``, or None; gets no gradient.
            run: the steps; learns ``previous`` and ``hidden_gradient`` in backward.
        """
        size = initial.shape[1]
        steps, batch, _ = projected.shape
        states, candidates = projected.new_zeros(steps, batch, size), projected.new_zeros(steps, batch, size)
        gates = projected.new_zeros(projected.shape)
        state = initial.clone()
        for t, n in run.steps():
            before = state[:n]
            recurrent = before @ weight.t() if bias is None else torch.addmm(bias, before, weight.t())
            candidates[t, :n] = recurrent[:, 2 * size :]
            now = gates[t, :n]
            torch.add(projected[t, :n, : 2 * size], recurrent[:, : 2 * size], out=now[:, : 2 * size]).sigmoid_()
            reset, update, new = now.chunk(3, 1)
            torch.addcmul(projected[t, :n, 2 * size :], reset, recurrent[:, 2 * size :], out=new).tanh_()
            before.sub_(new).mul_(update).add_(new)
            states[t, :n] = before
        ctx.save_for_backward(states, gates, candidates, initial, weight)
        ctx.run = run
        return states, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, states_gradient: Tensor, last_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the pre-activations and of the initial state."""
        states, gates, candidates, initial, weight = ctx.saved_tensors
        run: Run = ctx.run
        run.previous = run.shifted(states, initial)
        reset, update, new = gates.chunk(3, 2)
        size = states.shape[2]
        into_new = (1 - update) * (1 - new.square())
        slopes = torch.stack(
            [
                candidates * into_new * reset * (1 - reset),
                (run.previous - new) * update * (1 - update),
                reset * into_new,
            ],
            2,
        )
        gradients, recurrent_gradient = torch.zeros_like(states), torch.zeros_like(slopes)
        carried = last_gradient.clone()
        for t, n in run.steps_back():
            hidden = torch.add(carried[:n], states_gradient[t, :n], out=gradients[t, :n])
            step = torch.mul(slopes[t, :n], hidden.unsqueeze(1), out=recurrent_gradient[t, :n])
            torch.addmm(hidden * update[t, :n], step.flatten(1), weight, out=carried[:n])
        projected_gradient = recurrent_gradient.flatten(2).clone()
        torch.mul(into_new, gradients, out=projected_gradient[..., 2 * size :])
        run.hidden_gradient = recurrent_gradient[:, :, 2]
        return projected_gradient, carried, None, None, None
