"""Clipping policies: how much of each example's gradient enters the sum.

Example:
    >>> from lightning_privacy.gradients.clipping import clipping_policy
    >>> clipping_policy("per_layer", [1.0, 2.0])
    PerLayerClipping(max_grad_norm=[1.0, 2.0])
"""

from lightning_privacy.gradients.clipping.adaptive import AdaptiveClipping
from lightning_privacy.gradients.clipping.automatic import AutomaticClipping
from lightning_privacy.gradients.clipping.flat import FlatClipping, flat_clip_factors
from lightning_privacy.gradients.clipping.global_adapt import GlobalAdaptClipping
from lightning_privacy.gradients.clipping.named import POLICIES, clipping_policy
from lightning_privacy.gradients.clipping.per_layer import PerLayerClipping
from lightning_privacy.gradients.clipping.policy import ClippingPolicy

__all__ = [
    "POLICIES",
    "AdaptiveClipping",
    "AutomaticClipping",
    "ClippingPolicy",
    "FlatClipping",
    "GlobalAdaptClipping",
    "PerLayerClipping",
    "clipping_policy",
    "flat_clip_factors",
]
