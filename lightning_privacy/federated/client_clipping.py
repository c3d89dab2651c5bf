"""Bounding what one client can add to a round, as a pure function.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.client_clipping import clip_delta
    >>> clip_delta(torch.tensor([[3.0, 4.0], [0.3, 0.4], [float("nan"), 0.0]]), max_delta_norm=1.0)
    (tensor([[0.6000, 0.8000],
            [0.3000, 0.4000],
            [0.0000, 0.0000]]), tensor([-0.5000,  0.5000, -0.5000]))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_privacy._validate import positive, within_open_unit
from lightning_privacy.errors import ConfigurationError

__all__ = ["AdaptiveNorm", "clip_delta"]

# The factor is a little below C / norm, so that rounding of the product can't lead above the bound.
_INWARDS = 1.0 - 2.0**-22


def clip_delta(delta: Tensor, max_delta_norm: float) -> tuple[Tensor, Tensor]:
    """Scale a delta down to a norm, over all of its entries together.

    The norm is computed in float64 where the device has it, so a clipped delta is never longer than the bound. A delta
    that is not finite, or whose squared norm is not, becomes zero: what a client sends can't void the bound.

    Args:
        delta: shape ``(..., P)``, float32 or float64: parameters, buffers and everything else the client changes.
        max_delta_norm: the bound, in the units of the delta.

    Returns:
        The clipped delta, and of shape ``(...)`` its vote for the adaptive norm: 1/2 where it was within the bound and
        -1/2 where not. Half, so that a client's part in the sum of votes changes by no more when it leaves.

    Raises:
        ConfigurationError: the delta is of another type, or has no entries.
    """
    if delta.dtype not in (torch.float32, torch.float64) or delta.dim() < 1 or delta.shape[-1] == 0:
        # Half precisions round a clipped delta to one that may be longer than the bound.
        raise ConfigurationError(
            f"delta must be a flat vector of float32 or float64, got {delta.dtype} of shape {tuple(delta.shape)}"
        )
    wide = delta.dtype if delta.device.type == "mps" else torch.float64
    norm = torch.linalg.vector_norm(delta, dim=-1, keepdim=True, dtype=wide)
    finite = norm.isfinite()
    within = finite & (norm <= max_delta_norm)
    factor = torch.where(within, 1.0, max_delta_norm * _INWARDS / norm).to(delta.dtype)
    clipped = torch.where(finite, delta * factor, torch.zeros_like(delta))
    return clipped, within.squeeze(-1).to(delta.dtype) - 0.5


@dataclass(frozen=True)
class AdaptiveNorm:
    """How the clipping norm of the clients follows a quantile of their norms.

    Andrew et al., "Differentially Private Learning with Adaptive Clipping", 2021, Algorithm 1, whose unit is the
    client; :class:`~lightning_privacy.gradients.clipping.AdaptiveClipping` has the mathematics.

    Args:
        target_quantile: fraction of the clients that shall be left unclipped, in (0, 1).
        learning_rate: how fast the norm moves; above 0.
        count_noise_std: standard deviation of the noise on the number of unclipped clients, in clients. None takes a
            twentieth of the expected cohort, as the paper does, and at least the noise multiplier, which leaves 87% of
            the precision to the delta.
        min_norm: the norm stays at or above it.
        max_norm: the norm stays at or below it.

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> AdaptiveNorm(target_quantile=0.8).count_std(noise_multiplier=1.0, expected_cohort_size=100)
        5.0
    """

    target_quantile: float = 0.5
    learning_rate: float = 0.2
    count_noise_std: float | None = None
    min_norm: float = 1e-6
    max_norm: float = 1e6

    def __post_init__(self) -> None:
        within_open_unit(target_quantile=self.target_quantile)
        positive(learning_rate=self.learning_rate)
        if self.count_noise_std is not None:
            positive(count_noise_std=self.count_noise_std)
        if positive(min_norm=self.min_norm) > positive(max_norm=self.max_norm):
            raise ConfigurationError(
                f"min_norm must be at most max_norm, got min_norm={self.min_norm!r} and max_norm={self.max_norm!r}"
            )

    def count_std(self, noise_multiplier: float, expected_cohort_size: float) -> float:
        """Standard deviation of the noise on the count.

        Args:
            noise_multiplier: of delta and count together.
            expected_cohort_size: how many clients are drawn on average.
        """
        if self.count_noise_std is not None:
            return self.count_noise_std
        return max(expected_cohort_size / 20.0, noise_multiplier)
