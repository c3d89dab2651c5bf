"""Rule of ``nn.Linear``, with any number of dimensions between batch and features."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.outer import Outer, Pair
from lightning_privacy.gradients.rules.base import Rule

__all__ = ["LinearRule"]


class LinearRule(Rule):
    """The gradient of the weight is ``sum_t g_t x_t^T`` over the positions t of an example."""

    def batched_dimensions(self, module: nn.Linear) -> int:
        """See :meth:`Rule.batched_dimensions`."""
        return 2

    def forward(
        self, module: nn.Linear, parameters: Mapping[str, Tensor | None], *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Rule.forward`."""
        (x,) = inputs
        weight = parameters["weight"]
        if weight is None:
            raise TypeError("nn.Linear has no weight")
        return F.linear(x, weight, parameters.get("bias")), x.detach()

    def contributions(
        self, module: nn.Linear, kept: Tensor, output_gradient: Tensor, names: frozenset[str]
    ) -> dict[str, Contribution]:
        """See :meth:`Rule.contributions`."""
        g = output_gradient
        result: dict[str, Contribution] = {}
        if "bias" in names:
            result["bias"] = Dense(g if g.dim() == 2 else g.flatten(1, -2).sum(1))
        if "weight" in names:
            pair = Pair(_positions(g), _positions(kept))
            result["weight"] = Outer([pair], (module.out_features, module.in_features))
        return result


def _positions(values: Tensor) -> Tensor:
    """Return ``(B, *, features)`` as ``(B, T, features)``."""
    return values.unsqueeze(1) if values.dim() == 2 else values.flatten(1, -2)
