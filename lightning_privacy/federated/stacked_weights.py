"""Weights of several clients, one to a row, and an optimizer that steps all of them.

The optimizer must step every entry by itself, so that rows don't mix.

Example:
    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = torch.optim.SGD([weight], lr=0.5)
    >>> stack = StackedWeights(optimizer, [weight], [[torch.zeros(2)], [torch.ones(2)]])
    >>> stack.parameters[0].grad = torch.ones(2, 2)
    >>> stack.step()
    >>> stack.take(1), weight.tolist()
    ([tensor([0.5000, 0.5000])], [0.0, 0.0])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["StackedWeights"]


class StackedWeights:
    """Weights of several clients, one to a row, and an optimizer over them.

    Args:
        optimizer: Whose kind and groups are taken.
        parameters: Of one client.
        starts: Weights of each client, as ``parameters``.

    Attributes:
        parameters: The stacked weights; the first dimension is the client.
        rows: How many clients there are.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor], starts: Sequence[Sequence[Tensor]]) -> None:
        self._kind: Callable[[list[dict[str, Any]]], Optimizer] = type(optimizer)
        self._groups = [
            ({name: value for name, value in group.items() if name != "params"}, [id(p) for p in group["params"]])
            for group in optimizer.param_groups
        ]
        self._keys = [id(p) for p in parameters]
        self.rows = len(starts)
        self.parameters = [nn.Parameter(torch.stack(rows)) for rows in zip(*starts, strict=True)]
        self._optimizer = self._over(self.parameters)

    def _over(self, parameters: Sequence[nn.Parameter]) -> Optimizer:
        by_key = dict(zip(self._keys, parameters, strict=True))
        groups = [
            {**options, "params": [by_key[key] for key in keys if key in by_key]} for options, keys in self._groups
        ]
        return self._kind([group for group in groups if group["params"]])

    def step(self) -> None:
        """Step, and drop the gradients."""
        self._optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def take(self, row: int) -> list[Tensor]:
        """Copies of a client's weights."""
        return [p.detach()[row].clone() for p in self.parameters]

    def shrink(self, rows: int) -> None:
        """Keep the first ``rows`` clients, with what the optimizer knows of them."""
        if rows == self.rows:
            return
        before, states = self.parameters, self._optimizer.state
        self.parameters = [nn.Parameter(p.detach()[:rows].clone()) for p in before]
        self._optimizer = self._over(self.parameters)
        for old, new in zip(before, self.parameters, strict=True):
            if old in states:
                self._optimizer.state[new] = {
                    name: value[:rows].clone() if isinstance(value, Tensor) and value.shape == old.shape else value
                    for name, value in states[old].items()
                }
        self.rows = rows
