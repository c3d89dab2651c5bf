"""Clipping policies: how much of each example's gradient enters the sum."""

from lightning_privacy.gradients.clipping.flat import FlatClipping, flat_clip_factors
from lightning_privacy.gradients.clipping.named import POLICIES, clipping_policy
from lightning_privacy.gradients.clipping.policy import ClippingPolicy

__all__ = ["POLICIES", "ClippingPolicy", "FlatClipping", "clipping_policy", "flat_clip_factors"]
