"""What is said of a backward before it runs: how many micro-batches make its step, and how its gradient is scaled.

Example:
    >>> due = Announcement(step=3, noise_multiplier=1.0, expected_batch_size=8.0, loss_scale=0.5)
    >>> due.closes_step, due.scale(examples=4, views=1, mean=True)
    (True, 8.0)
    >>> due.repeated().release
    1
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from lightning_privacy._validate import positive

__all__ = ["Announcement"]


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the next backward is about; see :meth:`~lightning_privacy.gradients.engine.PrivateGradients.arm`.

    Args:
        step: number of the step it belongs to.
        noise_multiplier: of the step.
        expected_batch_size: of the step.
        loss_scale: factor on the loss.
        gradient_scale: factor on the gradient that is released.
        closes_step: release at the end of the backward.
        empty: the batch is a placeholder, and its contribution is zero.
        again: further backwards over the same batch make a release each.
        example_weights: factors on the losses of the examples, shape ``(B,)``.
        entries: examples whose gradient is a single entry, int64, shape ``(K,)``.
        release: number of releases that it made before.

    Raises:
        ConfigurationError: a scale that is not above 0.
    """

    step: int
    noise_multiplier: float
    expected_batch_size: float
    loss_scale: float = 1.0
    gradient_scale: float = 1.0
    closes_step: bool = True
    empty: bool = False
    again: bool = False
    example_weights: Tensor | None = None
    entries: Tensor | None = None
    release: int = 0

    def __post_init__(self) -> None:
        positive(loss_scale=self.loss_scale)
        positive(gradient_scale=self.gradient_scale)

    @property
    def repeats(self) -> bool:
        """Whether a release was made of it and another may follow."""
        return self.again and self.release > 0

    def scale(self, *, examples: int, views: int, mean: bool) -> float:
        """Return the factor from what autograd found to the gradients of the examples, each the mean over its views.

        Args:
            examples: how many there are.
            views: rows of the batch that belong to one example.
            mean: whether the loss averages over the rows, or adds them up.
        """
        # Autograd saw loss_scale * (sum of losses) / rows.
        return (examples if mean else 1 / views) / self.loss_scale

    def anew(self) -> Announcement:
        """Return it as it was before any release."""
        return replace(self, release=0)

    def repeated(self) -> Announcement:
        """Return what is due after one more release."""
        return replace(self, release=self.release + 1)
