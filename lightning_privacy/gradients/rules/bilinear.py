"""Rule of ``nn.Bilinear``."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy.gradients.arrangements import Reshaped
from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.outer import Outer, Pair
from lightning_privacy.gradients.rules.base import Rule

__all__ = ["BilinearRule"]


class BilinearRule(Rule):
    """A linear map of the products of both inputs' features: ``y_k = sum_ij W_kij x_i z_j + b_k``."""

    def batched_dimensions(self, module: nn.Bilinear) -> int:
        """See :meth:`Rule.batched_dimensions`."""
        return 2

    def forward(
        self, module: nn.Bilinear, parameters: Mapping[str, Tensor | None], *inputs: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See :meth:`Rule.forward`."""
        first, second = inputs
        weight = parameters["weight"]
        if weight is None:
            raise TypeError("nn.Bilinear has no weight")
        return F.bilinear(first, second, weight, parameters.get("bias")), (first.detach(), second.detach())

    def contributions(
        self, module: nn.Bilinear, kept: tuple[Tensor, Tensor], output_gradient: Tensor, names: frozenset[str]
    ) -> dict[str, Contribution]:
        """See :meth:`Rule.contributions`."""
        g, first, second = (x.reshape(x.shape[0], _positions(x), x.shape[-1]) for x in (output_gradient, *kept))
        result: dict[str, Contribution] = {}
        if "bias" in names:
            result["bias"] = Dense(g.sum(1))
        if "weight" in names:
            products = (first.unsqueeze(3) * second.unsqueeze(2)).flatten(2)
            shape = (g.shape[2], products.shape[2])
            result["weight"] = Reshaped(Outer([Pair(g, products)], shape), shape, tuple(module.weight.shape))
        return result


def _positions(x: Tensor) -> int:
    """Return how many positions there are between batch and features."""
    return x.shape[1:-1].numel()
