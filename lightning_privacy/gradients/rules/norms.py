"""Rules of the normalisation layers that treat examples one by one.

Layer, group, instance and RMS norm all end in ``weight * z + bias`` with z the normalised input, so the gradient of
the weight is ``sum_t g_t z_t`` over an example's positions, and that of the bias ``sum_t g_t``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy.gradients.contributions import Contribution, Dense, examples_at_once
from lightning_privacy.gradients.rules.base import Rule

__all__ = ["ChannelNormRule", "TrailingNormRule"]


class TrailingNormRule(Rule):
    """``nn.LayerNorm`` and ``nn.RMSNorm``: statistics and parameters over the trailing dimensions."""

    def batched_dimensions(self, module: nn.LayerNorm | nn.RMSNorm) -> int:
        """See :meth:`Rule.batched_dimensions`."""
        return 1 + len(module.normalized_shape)

    def forward(
        self, module: nn.LayerNorm | nn.RMSNorm, parameters: Mapping[str, Tensor | None], *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Rule.forward`."""
        (x,) = inputs
        shape = list(module.normalized_shape)
        if isinstance(module, nn.RMSNorm):
            return F.rms_norm(x, shape, parameters.get("weight"), module.eps), x.detach()
        return F.layer_norm(x, shape, parameters.get("weight"), parameters.get("bias"), module.eps), x.detach()

    def contributions(
        self, module: nn.LayerNorm | nn.RMSNorm, kept: Tensor, output_gradient: Tensor, names: frozenset[str]
    ) -> dict[str, Contribution]:
        """See :meth:`Rule.contributions`."""
        result: dict[str, Contribution] = {}
        shape = list(module.normalized_shape)
        between = list(range(1, output_gradient.dim() - len(shape)))
        if "weight" in names:

            def normalised(x: Tensor) -> Tensor:
                if isinstance(module, nn.RMSNorm):
                    return F.rms_norm(x, shape, None, module.eps)
                return F.layer_norm(x, shape, None, None, module.eps)

            result["weight"] = Dense(_weight_gradients(kept, output_gradient, normalised, between))
        if "bias" in names:
            result["bias"] = Dense(_sum(output_gradient, between))
        return result


class ChannelNormRule(Rule):
    """``nn.GroupNorm`` and ``nn.InstanceNorm1d/2d/3d``: one weight and bias per channel."""

    def unsupported(self, module: nn.Module) -> str | None:
        """See :meth:`Rule.unsupported`."""
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            return "running statistics are computed from the batch without noise; set track_running_stats=False"
        return None

    def batched_dimensions(self, module: nn.GroupNorm | nn.modules.instancenorm._InstanceNorm) -> int:
        """See :meth:`Rule.batched_dimensions`."""
        if isinstance(module, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d):
            return {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}[type(module)]
        return 2

    def forward(
        self,
        module: nn.GroupNorm | nn.modules.instancenorm._InstanceNorm,
        parameters: Mapping[str, Tensor | None],
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Rule.forward`."""
        (x,) = inputs
        weight, bias = parameters.get("weight"), parameters.get("bias")
        if isinstance(module, nn.GroupNorm):
            return F.group_norm(x, module.num_groups, weight, bias, module.eps), x.detach()
        return F.instance_norm(x, weight=weight, bias=bias, eps=module.eps), x.detach()

    def contributions(
        self,
        module: nn.GroupNorm | nn.modules.instancenorm._InstanceNorm,
        kept: Tensor,
        output_gradient: Tensor,
        names: frozenset[str],
    ) -> dict[str, Contribution]:
        """See :meth:`Rule.contributions`."""
        result: dict[str, Contribution] = {}
        positions = list(range(2, output_gradient.dim()))
        if "weight" in names:

            def normalised(x: Tensor) -> Tensor:
                if isinstance(module, nn.GroupNorm):
                    return F.group_norm(x, module.num_groups, eps=module.eps)
                return F.instance_norm(x, eps=module.eps)

            result["weight"] = Dense(_weight_gradients(kept, output_gradient, normalised, positions))
        if "bias" in names:
            result["bias"] = Dense(_sum(output_gradient, positions))
        return result


def _weight_gradients(
    x: Tensor, gradient: Tensor, normalised: Callable[[Tensor], Tensor], dimensions: list[int]
) -> Tensor:
    """Return each example's sum over ``dimensions`` of output gradient times normalised input.

    Normalising anew costs less than keeping the result from the forward, a few examples at a time stay in cache.
    """
    step = examples_at_once(4 * (gradient.numel() // max(1, gradient.shape[0])), gradient.device)
    parts = zip(torch.split(x, step), torch.split(gradient, step), strict=True)
    sums = [_sum(normalised(some).mul_(part), dimensions) for some, part in parts]
    return sums[0] if len(sums) == 1 else torch.cat(sums)


def _sum(values: Tensor, dimensions: list[int]) -> Tensor:
    # An empty list would sum over everything.
    return torch.sum(values, dimensions) if dimensions else values
