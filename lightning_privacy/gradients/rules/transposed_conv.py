"""Rule of ``nn.ConvTranspose1d``, ``nn.ConvTranspose2d`` and ``nn.ConvTranspose3d``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy.gradients.convolution import ConvContribution, ConvGeometry
from lightning_privacy.gradients.rules.conv import ConvolutionRule

__all__ = ["TransposedConvRule"]

_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class TransposedConvRule(ConvolutionRule):
    """A transposed convolution is the adjoint of a convolution with the same weight.

    ``<g, conv_transpose(x, W)> = <conv(g, W), x>``, so the gradient of the weight is that of a convolution whose
    input is g and whose output gradient is x.
    """

    def forward(
        self, module: nn.modules.conv._ConvTransposeNd, parameters: Mapping[str, Tensor | None], *inputs: Any
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Rule.forward`."""
        x, output_size = (*inputs, None)[:2]
        spatial = len(module.kernel_size)
        stride, dilation, kernel = list(module.stride), list(module.dilation), list(module.kernel_size)
        padding = [int(pad) for pad in module.padding]
        output_padding = module._output_padding(x, output_size, stride, padding, kernel, spatial, dilation)
        transposed: Callable[..., Tensor] = _CONV_TRANSPOSE[spatial]
        output = transposed(
            x,
            parameters["weight"],
            parameters.get("bias"),
            stride,
            padding,
            output_padding,
            module.groups,
            dilation,
        )
        return output, x.detach()

    def of_weight(
        self, module: nn.modules.conv._ConvNd, kept: Any, output_gradient: Tensor, geometry: ConvGeometry
    ) -> ConvContribution:
        """See :meth:`ConvolutionRule.of_weight`."""
        g, padding = _matching(output_gradient, kept.shape[2:], geometry, module.padding)
        return ConvContribution(g, kept, tuple(module.weight.shape), geometry, padding)


def _matching(
    g: Tensor, positions: Sequence[int], geometry: ConvGeometry, padding: Sequence[int | str]
) -> tuple[Tensor, tuple[int, ...]]:
    """Return g as the input of a convolution that has as many outputs as x has positions, and its padding left."""
    pads = [int(pad) for pad in padding]
    # What the convolution reads, padding included; an output padding makes g longer or shorter than that.
    reads = [
        (size - 1) * stride + dilation * (kernel - 1) + 1
        for size, stride, dilation, kernel in zip(
            positions, geometry.stride, geometry.dilation, geometry.kernel, strict=True
        )
    ]
    after = [size - pad - length for size, pad, length in zip(reads, pads, g.shape[2:], strict=True)]
    if after == pads:
        return g, tuple(pads)
    sizes = [size for pad, end in zip(reversed(pads), reversed(after), strict=True) for size in (pad, end)]
    return F.pad(g, sizes), (0,) * len(pads)
