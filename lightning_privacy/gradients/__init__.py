"""Per-example clipped gradients in one forward and one backward."""

from lightning_privacy.gradients.engine import PrivateGradients
from lightning_privacy.gradients.optimizer import DPOptimizer

__all__ = ["DPOptimizer", "PrivateGradients"]
