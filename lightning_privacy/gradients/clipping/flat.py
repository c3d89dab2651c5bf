"""Flat clipping: one bound for the whole gradient of an example.

Example:
    >>> import torch
    >>> from lightning_privacy.gradients.clipping import FlatClipping
    >>> FlatClipping(max_grad_norm=1.0).factors(torch.tensor([[4.0], [0.25], [float("nan")]]))
    tensor([[0.5000],
            [1.0000],
            [0.0000]])
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy.gradients.clipping.policy import OneBound, zero_unless_finite

__all__ = ["FlatClipping", "flat_clip_factors", "min_factors"]


class FlatClipping(OneBound):
    """``c_i = min(1, C / ||g_i||)``: Abadi et al., "Deep Learning with Differential Privacy", 2016, Algorithm 1.

    Args:
        max_grad_norm: the bound C, in the units of the gradient of one example's loss.

    Raises:
        ConfigurationError: C is not a finite number of at least 1e-10.

    Example:
        >>> FlatClipping(2.0).norm_bound
        2.0
    """

    @override
    def factors(self, squared_norms: Tensor) -> Tensor:
        return zero_unless_finite(min_factors(squared_norms, self._max_grad_norm), squared_norms)


def min_factors(squared_norms: Tensor, bound: float | Tensor) -> Tensor:
    """Return ``min(1, bound / norm)``, whatever comes out where the norm is not a number."""
    norms = squared_norms.sqrt()
    return (bound / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)


def flat_clip_factors(squared_norms: Tensor, *, max_grad_norm: float) -> Tensor:
    """Return the flat clip factor of each example.

    Args:
        squared_norms: shape ``(B,)``, squared L2 norms of the per-example gradients over all parameters.
        max_grad_norm: the bound C, in the units of the gradient.

    Returns:
        Shape ``(B,)``: ``min(1, C / norm)``, and 0 where the norm is not finite.
    """
    return FlatClipping(max_grad_norm).factors(squared_norms[:, None])[:, 0]
