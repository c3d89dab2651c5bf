"""The interface of a layer rule.

A rule runs its layer on detached parameters, so that autograd spends nothing on weight gradients, and afterwards
says from the layer's input and output gradient what each example adds to each parameter. One family of layers, one
file; :data:`lightning_privacy.gradients.rules.RULES` maps layer classes to rules.

A :class:`Rule` is for layers that return one tensor which is linear in each parameter. A layer that needs several
hooks, returns something else, or computes with parameters of its children has a :class:`CompositeRule`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from lightning_privacy.gradients.contributions import Contribution

__all__ = ["CompositeRule", "Rule", "Tap"]


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


class Tap(Protocol):
    """Hooks a tensor inside a layer; given to :meth:`CompositeRule.forward`."""

    def __call__(
        self, output: Tensor, kept: Any, contributions: Callable[[Any, Tensor], Mapping[str, Contribution]]
    ) -> Tensor:
        """Hook the gradient of ``output``.

        Args:
            output: computed from detached parameters, batch first: ``(rows, ...)``.
            kept: what ``contributions`` needs of the input: a tensor or a tuple, detached.
            contributions: called as ``contributions(kept, gradient)`` when the gradient of ``output`` arrives, both
                in at least single precision. Returns contributions by local parameter name, dotted for those of
                sub-modules (``"out_proj.weight"``); those of frozen parameters are ignored.

        Returns:
            The tensor to compute on with, in place of ``output``.
        """


class CompositeRule(ABC):
    """How a layer computes that has several hooks or outputs, or uses the parameters of its children.

    The children of such a layer are not listened to on their own.
    """

    def unsupported(self, module: Any) -> str | None:
        """Return why this module can't be trained privately at all, or None when it can."""
        return None

    @abstractmethod
    def forward(self, module: Any, parameters: Mapping[str, Tensor | None], tap: Tap, *args: Any, **kwargs: Any) -> Any:
        """Run the layer.

        Args:
            module: the layer.
            parameters: its parameters and those of its children by dotted local name, detached.
            tap: hooks a tensor; whatever a parameter is used for must go through it.
            *args: positional arguments of the call.
            **kwargs: keyword arguments of the call.

        Returns:
            What the layer's own forward returns in its present mode.
        """
