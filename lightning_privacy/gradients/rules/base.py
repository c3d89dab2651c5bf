"""The interface of a layer rule.

A rule runs its layer on detached parameters, so that autograd spends nothing on weight gradients, and afterwards
says from the layer's input and output gradient what each example adds to each parameter. One family of layers, one
file; :data:`lightning_privacy.gradients.rules.RULES` maps layer classes to rules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_privacy.gradients.contributions import Contribution

__all__ = ["Rule"]


class Rule(ABC):
    """How one family of layers computes and what its examples contribute."""

    def unsupported(self, module: nn.Module) -> str | None:
        """Return why this module can't be trained privately at all, or None when it can."""
        return None

    @abstractmethod
    def batched_dimensions(self, module: Any) -> int:
        """Return how many dimensions the output has at least, batch included."""

    @abstractmethod
    def forward(self, module: Any, parameters: Mapping[str, Tensor | None], *inputs: Any) -> tuple[Tensor, Any]:
        """Run the layer.

        Args:
            module: the layer.
            parameters: its parameters by local name, detached.
            *inputs: the positional arguments of the call, keyword arguments bound in order.

        Returns:
            The output, whose first dimension is the batch, and what :meth:`contributions` needs of the input: a
            tensor or a tuple, detached.
        """

    @abstractmethod
    def contributions(
        self, module: Any, kept: Any, output_gradient: Tensor, names: frozenset[str]
    ) -> dict[str, Contribution]:
        """Return the contribution to each parameter in ``names`` (local names of the trainable ones).

        Args:
            module: the layer.
            kept: the second value :meth:`forward` returned.
            output_gradient: the loss's gradient with respect to the output.
            names: which parameters to cover.
        """
