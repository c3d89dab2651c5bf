"""Per-example clipped gradients in one forward and one backward."""

from lightning_privacy.gradients.engine import PrivateGradients

__all__ = ["PrivateGradients"]
