"""Clip factors: how much of each example's gradient enters the sum.

Flat clipping bounds the norm of the whole per-example gradient (Abadi et al. 2016, Algorithm 1):
``c_i = min(1, C / ||g_i||)``. An example whose gradient is not finite gets factor 0, so it adds nothing and its
influence stays bounded like that of any other.

Example:
    >>> import torch
    >>> flat_clip_factors(torch.tensor([4.0, 0.25, float("nan")]), max_grad_norm=1.0)
    tensor([0.5000, 1.0000, 0.0000])
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["flat_clip_factors"]


def flat_clip_factors(squared_norms: Tensor, *, max_grad_norm: float) -> Tensor:
    """Return the flat clip factor of each example.

    Args:
        squared_norms: shape ``(B,)``, squared L2 norms of the per-example gradients over all parameters.
        max_grad_norm: the bound C, in the units of the gradient.

    Returns:
        Shape ``(B,)``: ``min(1, C / norm)``, and 0 where the norm is not finite.
    """
    norms = squared_norms.sqrt()
    smallest = torch.finfo(norms.dtype).tiny
    factors = (max_grad_norm / norms.clamp_min(smallest)).clamp_max(1.0)
    return torch.where(norms.isfinite(), factors, torch.zeros_like(factors))
