"""Clipping policies whose bound is moved by a noisy count; their noise is split between that and the gradient.

Example:
    >>> from lightning_privacy.gradients.clipping import AdaptiveClipping
    >>> policy = AdaptiveClipping(count_noise_std=1.0)
    >>> policy.release(noise_multiplier=1.0, sample_rate=0.01).label
    'Gaussian, sampled (sigma 1: gradient 1.1547, count 1; rate 0.01)'
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import positive
from lightning_privacy.accounting.releases import AdaptiveClippingRelease
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.gradients.clipping.moving_bound import MovingBound
from lightning_privacy.gradients.clipping.policy import ClippingPolicy

__all__ = ["CountedClipping", "halves_within", "noisy_fraction"]

# The choice of Andrew et al., 2021: noise of a twentieth of the batch on the count.
_BATCH_OVER_STD = 20.0


class CountedClipping(ClippingPolicy):
    """A policy that counts the examples whose gradient is within a bound, and releases the count under noise.

    Each example adds 1/2 or -1/2 to the count, and nothing where it is not in the batch, so it moves it by at most
    1/2. It moves the gradient's sum by at most the norm bound. Divided by their noise, both together move by at most
    ``sqrt(1 / s^2 + 1 / (2 count_noise_std)^2)``, s being the noise multiplier of the gradient, and this is the
    sensitivity of one Gaussian mechanism with noise 1. To cost what the noise multiplier sigma costs, it must be
    1 / sigma, which fixes s (Andrew et al., "Differentially Private Learning with Adaptive Clipping", 2021,
    Theorem 1).

    Args:
        count_noise_std: standard deviation of the noise on the count, in examples; above half the noise multiplier.
            None takes a twentieth of the expected batch size.
        learning_rate: how fast the count moves the bound; above 0.
        bound: what the count moves.

    Raises:
        ConfigurationError: a number out of its range.
    """

    def __init__(self, count_noise_std: float | None, *, learning_rate: float, bound: MovingBound) -> None:
        self._given_std = None if count_noise_std is None else positive(count_noise_std=count_noise_std)
        self._learning_rate = positive(learning_rate=learning_rate)
        self._bound = bound
        self._expected_batch_size: float | None = None

    @override
    def prepare(self, expected_batch_size: float) -> None:
        self._expected_batch_size = positive(expected_batch_size=expected_batch_size)

    @override
    def gradient_noise_multiplier(self, noise_multiplier: float) -> float:
        """Return what the count leaves of the noise multiplier's precision to the gradient.

        Args:
            noise_multiplier: of gradient and count together.

        Returns:
            Noise multiplier of the gradient.

        Raises:
            ConfigurationError: the count's noise is so small that nothing is left.
        """
        # The split doesn't depend on how the examples are drawn.
        return self.release(noise_multiplier, sample_rate=1.0).gradient_noise_multiplier

    @property
    @override
    def count_std(self) -> float:
        if self._given_std is not None:
            return self._given_std
        if self._expected_batch_size is None:
            raise ConfigurationError(
                "count_noise_std is not known before the batch size is; call prepare(expected_batch_size) first, or "
                f"pass {type(self).__name__}(count_noise_std=...)"
            )
        return self._expected_batch_size / _BATCH_OVER_STD

    @override
    def release(self, noise_multiplier: float, sample_rate: float) -> AdaptiveClippingRelease:
        """Return the release of gradient and count together.

        Args:
            noise_multiplier: of both.
            sample_rate: probability with which each example is in a step.

        Returns:
            The release; it doesn't depend on what the count has moved.

        Raises:
            ConfigurationError: the count's noise is so small that no precision is left to the gradient.
        """
        return AdaptiveClippingRelease(noise_multiplier, sample_rate, self.count_std)

    @override
    def describe(self) -> dict[str, Any]:
        own = {"learning_rate": self._learning_rate, "count_noise_std": self._given_std}
        return {**super().describe(), **own}

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the bound of the next step."""
        return self._bound.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved bound.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            CheckpointError: there is no such bound in it, or it is outside the limits.
        """
        self._bound.load_state_dict(state)


def halves_within(squared_norms: Tensor, bound: float) -> Tensor:
    """Return the sum over the examples of 1/2 where the gradient is within the bound, and -1/2 where it isn't.

    Args:
        squared_norms: shape ``(B, 1)``; a gradient that is not finite is not within the bound.
        bound: in the units of the gradient of one example's loss.

    Returns:
        Shape ``(1,)``.
    """
    within = (squared_norms >= 0) & (squared_norms.sqrt() <= bound)
    return (within.to(squared_norms.dtype) - 0.5).sum(dim=0)


def noisy_fraction(noisy_counts: Tensor, expected_batch_size: float) -> float:
    """Return the fraction of examples within the bound that a noisy sum of halves stands for; it may leave [0, 1].

    The divisor is a constant, as the number of examples drawn is private. With n drawn, of which a fraction f is
    within, the result is on average ``1/2 + (n / m)(f - 1/2)`` for an expected batch size of m. Over the draws of a
    Poisson sample that averages to the fraction in the whole data set, and an empty batch says nothing: 1/2.

    Args:
        noisy_counts: shape ``(1,)``, what :func:`halves_within` gave for the whole step, plus noise.
        expected_batch_size: m.

    Raises:
        PrivacyViolation: the count is not a finite number, so the bound would be lost.
    """
    count = float(noisy_counts.item())
    if not math.isfinite(count):
        raise PrivacyViolation(f"the noisy count of unclipped examples is {count!r}, so the bound can't follow it")
    return count / expected_batch_size + 0.5
