"""Rule of ``transformers.pytorch_utils.Conv1D``, the linear layer of GPT-2, whose weight is transposed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.outer import Outer, Pair
from lightning_privacy.gradients.rules.base import Rule

__all__ = ["TransposedLinearRule", "is_transposed_linear"]


def is_transposed_linear(module: nn.Module) -> bool:
    """Return whether ``module`` is exactly the class of Hugging Face's; that library is not imported for it."""
    library = sys.modules.get("transformers.pytorch_utils")
    return library is not None and type(module) is getattr(library, "Conv1D", None)


class TransposedLinearRule(Rule):
    """``y = x W + b`` with W of shape ``(in, out)``."""

    def batched_dimensions(self, module: nn.Module) -> int:
        """See :meth:`Rule.batched_dimensions`."""
        return 2

    def forward(self, module: Any, parameters: Mapping[str, Tensor | None], *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Rule.forward`."""
        (x,) = inputs
        weight, bias = parameters["weight"], parameters["bias"]
        if weight is None or bias is None:
            raise TypeError("transformers' Conv1D has no weight or no bias")
        output = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight)
        return output.reshape(*x.shape[:-1], weight.shape[1]), x.detach()

    def contributions(
        self, module: Any, kept: Tensor, output_gradient: Tensor, names: frozenset[str]
    ) -> dict[str, Contribution]:
        """See :meth:`Rule.contributions`."""
        g, x = (
            values.reshape(values.shape[0], values.shape[1:-1].numel(), values.shape[-1])
            for values in (output_gradient, kept)
        )
        result: dict[str, Contribution] = {}
        if "bias" in names:
            result["bias"] = Dense(g.sum(1))
        if "weight" in names:
            result["weight"] = Outer([Pair(x, g)], (x.shape[2], g.shape[2]))
        return result
