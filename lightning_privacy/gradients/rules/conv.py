"""Rule of ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``: stride, padding, dilation, groups, padding modes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.convolution import ConvContribution, ConvGeometry
from lightning_privacy.gradients.rules.base import Rule

__all__ = ["ConvRule", "ConvolutionRule"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class ConvolutionRule(Rule):
    """What convolutions and transposed ones share."""

    def batched_dimensions(self, module: nn.modules.conv._ConvNd) -> int:
        """See :meth:`Rule.batched_dimensions`."""
        return 2 + len(module.kernel_size)

    def contributions(
        self, module: nn.modules.conv._ConvNd, kept: Any, output_gradient: Tensor, names: frozenset[str]
    ) -> dict[str, Contribution]:
        """See :meth:`Rule.contributions`."""
        result: dict[str, Contribution] = {}
        if "bias" in names:
            result["bias"] = Dense(output_gradient.flatten(2).sum(2))
        if "weight" in names:
            geometry = ConvGeometry(module.kernel_size, module.stride, module.dilation, module.groups)
            result["weight"] = self.of_weight(module, kept, output_gradient, geometry)
        return result

    @abstractmethod
    def of_weight(
        self, module: nn.modules.conv._ConvNd, kept: Any, output_gradient: Tensor, geometry: ConvGeometry
    ) -> ConvContribution:
        """Return the contribution to the weight; arguments as of :meth:`Rule.contributions`."""


class ConvRule(ConvolutionRule):
    """Padding that the kernels can't imply (other modes, uneven ``'same'``) is applied to the input first."""

    def forward(
        self, module: nn.modules.conv._ConvNd, parameters: Mapping[str, Tensor | None], *inputs: Tensor
    ) -> tuple[Tensor, tuple[Tensor, tuple[int, ...]]]:
        """See :meth:`Rule.forward`."""
        (x,) = inputs
        x, padding = _explicit_padding(module, x)
        convolution: Callable[..., Tensor] = _CONV[len(module.kernel_size)]
        output = convolution(
            x,
            parameters["weight"],
            parameters.get("bias"),
            module.stride,
            padding,
            module.dilation,
            module.groups,
        )
        return output, (x.detach(), padding)

    def of_weight(
        self, module: nn.modules.conv._ConvNd, kept: Any, output_gradient: Tensor, geometry: ConvGeometry
    ) -> ConvContribution:
        """See :meth:`ConvolutionRule.of_weight`."""
        x, padding = kept
        return ConvContribution(x, output_gradient, tuple(module.weight.shape), geometry, padding)


def _explicit_padding(module: nn.modules.conv._ConvNd, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return the input, padded as far as needed, and the symmetric zero padding left to the kernel."""
    spatial = len(module.kernel_size)
    none = (0,) * spatial
    if module.padding == "valid":
        return x, none
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if module.padding_mode == "zeros" and all(total % 2 == 0 for total in totals):
            return x, tuple(total // 2 for total in totals)
        # As PyTorch does: the odd element goes to the end.
        sizes = [size for total in reversed(totals) for size in (total // 2, total - total // 2)]
    else:
        padding = tuple(int(pad) for pad in module.padding)
        if module.padding_mode == "zeros":
            return x, padding
        sizes = [size for pad in reversed(padding) for size in (pad, pad)]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(x, sizes, mode=mode), none
