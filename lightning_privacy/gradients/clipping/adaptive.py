"""Adaptive clipping: the bound follows a quantile of the gradient norms, found out privately.

Andrew et al., "Differentially Private Learning with Adaptive Clipping", 2021. In each step the number of examples
whose gradient is within the bound C_t leaves with the gradient, under noise of its own, and moves C_t for the next
step: down where more than the wanted fraction were within it, up where fewer were.

Example:
    >>> import torch
    >>> from lightning_privacy.gradients.clipping import AdaptiveClipping
    >>> policy = AdaptiveClipping(1.0, count_noise_std=2.0)
    >>> long = torch.full((8, 1), 9.0)
    >>> policy.counts(long)
    tensor([-4.])
    >>> policy.observe(policy.counts(long), expected_batch_size=8)
    >>> round(policy.norm_bound, 3)
    1.105
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import positive, within_open_unit
from lightning_privacy.accounting.releases import AdaptiveClippingRelease
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyViolation
from lightning_privacy.gradients.clipping.flat import min_factors
from lightning_privacy.gradients.clipping.policy import ClippingPolicy, one_bound, zero_unless_finite

__all__ = ["AdaptiveClipping"]

# The paper's choice: noise of a twentieth of the batch on the count.
_BATCH_OVER_STD = 20.0


class AdaptiveClipping(ClippingPolicy):
    """Flat clipping whose bound C_t follows the ``target_quantile`` of the norms (Algorithm 1 there).

    With ``b_i = 1`` where ``||g_i|| <= C_t``, else 0, and m the expected batch size, a step gives

        ``b~ = (sum_i (b_i - 1/2) + N(0, count_noise_std^2)) / m + 1/2`` and
        ``C_{t+1} = C_t exp(-learning_rate * (b~ - target_quantile))``.

    The divisor is a constant, as the number of examples drawn is private. With n drawn, of which a fraction f is
    unclipped, b~ is on average ``1/2 + (n / m)(f - 1/2)``. Over the draws of a Poisson sample that averages to
    the fraction in the whole data set, so it is unbiased, and an empty batch says nothing: 1/2. It may leave [0, 1].

    Noise. An example moves the gradient's sum by at most C_t and the count by at most 1/2. Divided by their noise,
    both together move by at most ``sqrt(1 / s^2 + 1 / (2 count_noise_std)^2)``, s being the noise multiplier of the
    gradient, and this is the sensitivity of one Gaussian mechanism with noise 1. To cost what the noise multiplier
    sigma costs, it must be 1 / sigma, which fixes s (Theorem 1 there). Hence the gradient gets a little more noise
    than sigma: 0.5% more where ``count_noise_std`` is five times sigma.

    Args:
        max_grad_norm: C_0, the bound of the first step.
        target_quantile: fraction of the examples that shall be left unclipped, in (0, 1).
        learning_rate: how fast C_t moves; above 0.
        count_noise_std: standard deviation of the noise on the count, in examples; above half the noise multiplier.
            None takes a twentieth of the expected batch size.
        min_norm: C_t stays at or above it.
        max_norm: C_t stays at or below it.

    Raises:
        ConfigurationError: a number out of its range.

    Example:
        >>> policy = AdaptiveClipping()
        >>> policy.prepare(expected_batch_size=100)
        >>> policy.count_std
        5.0
        >>> round(policy.gradient_noise_multiplier(1.0), 4)
        1.005
    """

    def __init__(
        self,
        max_grad_norm: float = 1.0,
        *,
        target_quantile: float = 0.5,
        learning_rate: float = 0.2,
        count_noise_std: float | None = None,
        min_norm: float = 1e-6,
        max_norm: float = 1e6,
    ) -> None:
        self._initial = one_bound(max_grad_norm=max_grad_norm)
        self._target_quantile = within_open_unit(target_quantile=target_quantile)
        self._learning_rate = positive(learning_rate=learning_rate)
        self._given_std = None if count_noise_std is None else positive(count_noise_std=count_noise_std)
        self._min_norm = one_bound(min_norm=min_norm)
        self._max_norm = one_bound(max_norm=max_norm)
        if not self._min_norm <= self._initial <= self._max_norm:
            raise ConfigurationError(
                f"max_grad_norm must be between min_norm and max_norm, got {self._initial!r} with {self._min_norm!r} "
                f"and {self._max_norm!r}"
            )
        self._expected_batch_size: float | None = None
        self._norm = self._initial

    @override
    def prepare(self, expected_batch_size: float) -> None:
        self._expected_batch_size = positive(expected_batch_size=expected_batch_size)

    @property
    @override
    def norm_bound(self) -> float:
        return self._norm

    @override
    def factors(self, squared_norms: Tensor) -> Tensor:
        return zero_unless_finite(min_factors(squared_norms, self._norm), squared_norms)

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

    @override
    def counts(self, squared_norms: Tensor) -> Tensor:
        """Return the sum over the examples of 1/2 where the gradient is within the bound, and -1/2 where it isn't.

        Args:
            squared_norms: shape ``(B, 1)``; a gradient that is not finite is not within the bound.

        Returns:
            Shape ``(1,)``.
        """
        within = (squared_norms >= 0) & (squared_norms.sqrt() <= self._norm)
        return (within.to(squared_norms.dtype) - 0.5).sum(dim=0)

    @property
    @override
    def count_std(self) -> float:
        if self._given_std is not None:
            return self._given_std
        if self._expected_batch_size is None:
            raise ConfigurationError(
                "count_noise_std is not known before the batch size is; call prepare(expected_batch_size) first, or "
                "pass AdaptiveClipping(count_noise_std=...)"
            )
        return self._expected_batch_size / _BATCH_OVER_STD

    @override
    def observe(self, noisy_counts: Tensor, expected_batch_size: float) -> None:
        """Move the bound for the next step.

        Args:
            noisy_counts: shape ``(1,)``, what :meth:`counts` gave for the whole step, plus noise.
            expected_batch_size: average number of examples of a step.

        Raises:
            PrivacyViolation: the count is not a finite number, so C_t would be lost.

        Warns:
            RuntimeWarning: the bound reached ``min_norm`` or ``max_norm``.
        """
        count = float(noisy_counts.item())
        if not math.isfinite(count):
            raise PrivacyViolation(f"the noisy count of unclipped examples is {count!r}, so the bound can't follow it")
        fraction = count / expected_batch_size + 0.5
        # In logarithms, so that a count drowned in noise leads to one of the limits and not to an overflow.
        moved = math.log(self._norm) - self._learning_rate * (fraction - self._target_quantile)
        low, high = math.log(self._min_norm), math.log(self._max_norm)
        before, inside = self._norm, low < moved < high
        self._norm = math.exp(moved) if inside else self._min_norm if moved <= low else self._max_norm
        if not inside and before != self._norm:
            warnings.warn(
                f"adaptive clipping reached its {'min' if moved <= low else 'max'}_norm, {self._norm:g}, and clips "
                "there now: the norms of the gradients are far from what was expected, or count_noise_std is large "
                "for this batch size",
                RuntimeWarning,
                stacklevel=2,
            )

    @override
    def release(self, noise_multiplier: float, sample_rate: float) -> AdaptiveClippingRelease:
        """Return the release of gradient and count together.

        Args:
            noise_multiplier: of both.
            sample_rate: probability with which each example is in a step.

        Returns:
            The release; it doesn't depend on C_t.

        Raises:
            ConfigurationError: the count's noise is so small that no precision is left to the gradient.
        """
        return AdaptiveClippingRelease(noise_multiplier, sample_rate, self.count_std)

    @override
    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "max_grad_norm": self._initial,
            "target_quantile": self._target_quantile,
            "learning_rate": self._learning_rate,
            "count_noise_std": self._given_std,
            "min_norm": self._min_norm,
            "max_norm": self._max_norm,
        }

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the bound of the next step."""
        return {"max_grad_norm": self._norm}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved bound.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            CheckpointError: there is no such bound in it, or it is outside the limits.
        """
        norm = state.get("max_grad_norm")
        if set(state) != {"max_grad_norm"} or not isinstance(norm, float):
            raise CheckpointError(
                f"the saved state of adaptive clipping must be a max_grad_norm, got {dict(state)!r}; it is damaged or "
                "of another clipping policy"
            )
        if not self._min_norm <= norm <= self._max_norm:
            raise CheckpointError(
                f"the saved max_grad_norm of adaptive clipping is {norm!r}, outside of min_norm {self._min_norm!r} and "
                f"max_norm {self._max_norm!r}; resume with the limits the run was started with"
            )
        self._norm = norm
