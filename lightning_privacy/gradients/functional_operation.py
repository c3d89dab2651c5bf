"""One call of a torch function in which parameters meet the batch.

Either the function's result is listened to, as that of a layer is (:meth:`Operation.listen`), or the function is given
a copy of the parameter for every row of the batch, as a view, and the gradient of the copies is what each row adds
(:meth:`Operation.in_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.fallback import expand_parameter
from lightning_privacy.gradients.followed import Followed
from lightning_privacy.gradients.interception import grow_root
from lightning_privacy.gradients.layout import FIRST, Layout, fold
from lightning_privacy.gradients.listening import Site, Use, hook
from lightning_privacy.gradients.precision import full_precision
from lightning_privacy.gradients.recorder import Recorder

__all__ = ["Listened", "Operation"]

Listened = Sequence[tuple[Followed, Contribution]]

# A tensor that has rows of its own for the examples is pulled back by a matrix of examples times rows.
_MAX_ELEMENTS = 2**26


class Operation(Site):
    """A call of a function, on parameters of the network.

    Args:
        name: what the call is, for messages.
        network: whose parameters they are.
        recorder: the sites' shared state.
        parameters: those that the call depends on, by name.
    """

    def __init__(self, name: str, network: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__(name, network, recorder, parameters)

    def listen(
        self,
        output: Tensor,
        kept: Any,
        layout: Layout,
        followed: Sequence[Followed],
        contributions: Callable[[Any, Tensor], Listened],
    ) -> Tensor:
        """Return the output, its gradient hooked.

        Args:
            output: computed from detached parameters.
            kept: what ``contributions`` needs of the operands: a tensor or a tuple.
            layout: where the examples are in ``output`` and in what is kept.
            followed: what contributions are to.
            contributions: called with ``kept`` and the gradient, rows first.
        """
        counted: frozenset[str] = frozenset()
        for one in followed:
            self.count_use(one.names & counted)  # once for each way to the parameter; the rest follows below
            counted |= one.names
        use = Use(self.recorder.generation, kept, layout, counted)
        return self.hooked(output, use, partial(self._receive, contributions))

    def in_rows(self, followed: Followed, dimensions: int, place: int, rows: int) -> Tensor:
        """Return a stand-in for ``followed`` whose rows are those of the batch.

        Args:
            followed: what stands in the call.
            dimensions: how many it is broadcast to.
            place: which of them is the batch.
            rows: size of the batch there.

        Returns:
            A tensor with the values of ``followed`` and ``rows`` entries at ``place``, if they were fewer.
        """
        values = followed.graph.detach()
        aligned = (1,) * (dimensions - values.dim()) + tuple(values.shape)
        own = place - (dimensions - values.dim())
        if aligned[place] == 1:
            expanded = expand_parameter(self.recorder.root, values, rows)
            self._hook_rows(expanded, followed, partial(self._receive_rows, followed))
            return expanded.reshape(rows, *aligned).squeeze(place + 1).movedim(0, place)
        if aligned[place] != rows:
            raise UnsupportedError(
                f"{self.name}: the tensor made of parameters has shape {tuple(values.shape)}, and meets {rows} rows of "
                f"the batch in its dimension {own}; it must have size 1 there, or be expanded to the batch"
            )
        if rows and values.stride(own) == 0:
            return self.in_rows(followed.first_of(own), dimensions, place, rows)
        if rows * values.numel() > _MAX_ELEMENTS and not (own == 0 and followed.is_lookup):
            raise UnsupportedError(
                f"{self.name}: a tensor of shape {tuple(values.shape)}, made of parameters, has a row of its own for "
                f"each of {rows} rows of the batch, which takes too much memory to keep apart; use expand, which "
                "copies nothing, or compute with the batch first"
            )
        apart = grow_root(self.recorder.root, values.clone())
        self._hook_rows(apart, followed, partial(self._receive_apart, followed, own))
        return apart

    def _hook_rows(self, tensor: Tensor, followed: Followed, receive: Callable[[Use, Tensor], None]) -> None:
        use = Use(self.recorder.generation, None, FIRST, followed.names)
        self.count_use(followed.names)
        hook(tensor, partial(receive, use))

    def _receive(self, contributions: Callable[[Any, Tensor], Listened], use: Use, gradient: Tensor) -> None:
        self.begin(use)
        with full_precision(gradient.device.type):
            kept, gradient = self.arrived(use, gradient)
            for followed, contribution in contributions(kept, gradient):
                self._hand_over(use, followed, contribution, gradient.shape[0])

    def _receive_rows(self, followed: Followed, use: Use, gradient: Tensor) -> None:
        self.begin(use)
        with full_precision(gradient.device.type):
            self._hand_over(use, followed, Dense(gradient.contiguous().to(self.dtype)), gradient.shape[0])

    def _receive_apart(self, followed: Followed, place: int, use: Use, gradient: Tensor) -> None:
        """Take the gradient of a tensor in which every row of the batch has its own entries."""
        self.begin(use)
        with full_precision(gradient.device.type):
            own = gradient.movedim(place, 0).to(self.dtype)
            looked_up = followed.looked_up(own) if place == 0 else None
            if looked_up is not None:
                examples = self.recorder.expected_examples(self.name)
                each = {name: fold(found, examples, own.shape[0]) for name, found in looked_up.items()}
                self.collect(use, each, examples)
                return
            apart = own.new_zeros(own.shape[0], *own.shape)
            number = torch.arange(own.shape[0], device=own.device)
            apart[number, number] = own
            self._hand_over(use, followed, Dense(apart.movedim(1, place + 1).contiguous()), own.shape[0])

    def _hand_over(self, use: Use, followed: Followed, contribution: Contribution, rows: int) -> None:
        examples = self.recorder.expected_examples(self.name)
        each = followed.contributions(fold(contribution, examples, rows))
        self.collect(use, each, examples)
