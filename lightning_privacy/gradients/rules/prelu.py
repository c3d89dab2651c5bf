"""Rule of ``nn.PReLU``."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.rules.base import Rule

__all__ = ["PReLURule"]


class PReLURule(Rule):
    """One slope for all channels or one each: ``dL/da = sum_t g_t min(x_t, 0)`` over the positions that share it."""

    def batched_dimensions(self, module: nn.PReLU) -> int:
        """See :meth:`Rule.batched_dimensions`."""
        return 1 if module.num_parameters == 1 else 2

    def forward(
        self, module: nn.PReLU, parameters: Mapping[str, Tensor | None], *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Rule.forward`."""
        (x,) = inputs
        weight = parameters["weight"]
        if weight is None:
            raise TypeError("nn.PReLU has no weight")
        return F.prelu(x, weight), x.detach()

    def contributions(
        self, module: nn.PReLU, kept: Tensor, output_gradient: Tensor, names: frozenset[str]
    ) -> dict[str, Contribution]:
        """See :meth:`Rule.contributions`."""
        if "weight" not in names:
            return {}
        products = output_gradient * kept.clamp_max(0)
        if module.num_parameters == 1:
            return {"weight": Dense(products.reshape(products.shape[0], 1, products.shape[1:].numel()).sum(2))}
        return {"weight": Dense(products.reshape(*products.shape[:2], products.shape[2:].numel()).sum(2))}
