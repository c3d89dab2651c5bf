"""Per-example clipped gradients in one forward and one backward."""

from lightning_privacy.gradients.clipping import (
    AdaptiveClipping,
    AutomaticClipping,
    ClippingPolicy,
    FlatClipping,
    GlobalAdaptClipping,
    PerLayerClipping,
)
from lightning_privacy.gradients.engine import PrivateGradients
from lightning_privacy.gradients.optimizer import DPOptimizer

__all__ = [
    "AdaptiveClipping",
    "AutomaticClipping",
    "ClippingPolicy",
    "DPOptimizer",
    "FlatClipping",
    "GlobalAdaptClipping",
    "PerLayerClipping",
    "PrivateGradients",
]
