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

import warnings
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import within_open_unit
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.clipping.counted import CountedClipping, halves_within, noisy_fraction
from lightning_privacy.gradients.clipping.flat import min_factors
from lightning_privacy.gradients.clipping.moving_bound import MovingBound
from lightning_privacy.gradients.clipping.policy import one_bound, zero_unless_finite

__all__ = ["AdaptiveClipping"]


class AdaptiveClipping(CountedClipping):
    """Flat clipping whose bound C_t follows the ``target_quantile`` of the norms (Algorithm 1 there).

    With ``b_i = 1`` where ``||g_i|| <= C_t``, else 0, and m the expected batch size, a step gives

        ``b~ = (sum_i (b_i - 1/2) + N(0, count_noise_std^2)) / m + 1/2`` and
        ``C_{t+1} = C_t exp(-learning_rate * (b~ - target_quantile))``.

    Noise is split between gradient and count as :class:`~lightning_privacy.gradients.clipping.counted.CountedClipping`
    says. Hence the gradient gets a little more noise than sigma: 0.5% more where ``count_noise_std`` is five times
    sigma.

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
        first = one_bound(max_grad_norm=max_grad_norm)
        self._target_quantile = within_open_unit(target_quantile=target_quantile)
        self._min_norm = one_bound(min_norm=min_norm)
        self._max_norm = one_bound(max_norm=max_norm)
        if not self._min_norm <= first <= self._max_norm:
            raise ConfigurationError(
                f"max_grad_norm must be between min_norm and max_norm, got {first!r} with {self._min_norm!r} "
                f"and {self._max_norm!r}"
            )
        bound = MovingBound("max_grad_norm", first, low=self._min_norm, high=self._max_norm)
        super().__init__(count_noise_std, learning_rate=learning_rate, bound=bound)

    @property
    @override
    def norm_bound(self) -> float:
        return self._bound.value

    @override
    def factors(self, squared_norms: Tensor) -> Tensor:
        return zero_unless_finite(min_factors(squared_norms, self.norm_bound), squared_norms)

    @override
    def counts(self, squared_norms: Tensor) -> Tensor:
        """Return the sum over the examples of 1/2 where the gradient is within the bound, and -1/2 where it isn't.

        Args:
            squared_norms: shape ``(B, 1)``; a gradient that is not finite is not within the bound.

        Returns:
            Shape ``(1,)``.
        """
        return halves_within(squared_norms, self.norm_bound)

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
        fraction = noisy_fraction(noisy_counts, expected_batch_size)
        if self._bound.move(-self._learning_rate * (fraction - self._target_quantile)):
            limit = "min" if self.norm_bound == self._min_norm else "max"
            warnings.warn(
                f"adaptive clipping reached its {limit}_norm, {self.norm_bound:g}, and clips "
                "there now: the norms of the gradients are far from what was expected, or count_noise_std is large "
                "for this batch size",
                RuntimeWarning,
                stacklevel=2,
            )

    @override
    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "max_grad_norm": self._bound.initial,
            "target_quantile": self._target_quantile,
            "min_norm": self._min_norm,
            "max_norm": self._max_norm,
        }
