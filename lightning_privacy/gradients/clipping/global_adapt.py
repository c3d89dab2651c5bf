"""Global scaling: gradients are scaled alike instead of cut one by one, which treats groups alike.

Clipping cuts the long gradients of hard examples most, and turns the mean away from the gradient of the groups they
are of. Scaling all gradients by one factor leaves the direction of every group's gradient as it is. Esipova et al.,
"Disparate impact in differential privacy from gradient misalignment", ICLR 2023: DPSGD-Global-Adapt, Algorithm 2.

Example:
    >>> import torch
    >>> from lightning_privacy.gradients.clipping import GlobalAdaptClipping
    >>> policy = GlobalAdaptClipping(1.0, strict_norm=4.0, count_noise_std=2.0)
    >>> policy.factors(torch.tensor([[4.0], [16.0], [64.0]]))  # norms 2 and 4 by 1/4; norm 8 to the bound of 1
    tensor([[0.2500],
            [0.2500],
            [0.1250]])
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import positive
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.clipping.counted import CountedClipping, halves_within, noisy_fraction
from lightning_privacy.gradients.clipping.moving_bound import MovingBound
from lightning_privacy.gradients.clipping.policy import one_bound, zero_unless_finite

__all__ = ["GlobalAdaptClipping"]


class GlobalAdaptClipping(CountedClipping):
    """``c_i = C / max(Z_t, ||g_i||)``, with a strict bound Z_t that the norms seldom pass.

    A gradient up to Z_t is scaled by C / Z_t, a longer one to the length C. So what an example adds is never longer
    than C, whatever Z_t is: C is the sensitivity, and Z_t no part of the release. With m the expected batch size and
    ``b_i = 1`` where ``||g_i|| > tolerance * Z_t``, else 0, a step gives

        ``b~ = (sum_i (b_i - 1/2) + N(0, count_noise_std^2)) / m + 1/2`` and
        ``Z_{t+1} = Z_t exp(-learning_rate + b~)``, no less than C.

    So Z_t comes to rest where a fraction ``learning_rate`` of the examples is above ``tolerance * Z_t``. The paper
    counts b_i itself, divides by the number of examples drawn and accounts for the count as a release of its own; here
    the count is shifted by 1/2, which halves what an example moves it by, the divisor is a constant, as the number
    drawn is private, and gradient and count are one release whose noise is shared out as
    :class:`~lightning_privacy.gradients.clipping.counted.CountedClipping` says.

    The step's size goes with C / Z_t: it takes a learning rate larger by about Z_t / C than that of flat clipping, or
    an optimizer that finds its own, such as Adam.

    Args:
        max_grad_norm: C, the length that no contribution exceeds.
        strict_norm: Z_0, in the units of the gradient of one example's loss; at least C. None takes ten times C.
        learning_rate: how fast Z_t falls, and the fraction of examples above ``tolerance * Z_t`` at which it stops to;
            in (0, 1).
        tolerance: tau; above 0.
        count_noise_std: standard deviation of the noise on the count, in examples; above half the noise multiplier.
            None takes a twentieth of the expected batch size.
        max_strict_norm: Z_t stays at or below it.

    Raises:
        ConfigurationError: a number out of its range.

    Example:
        >>> import torch
        >>> policy = GlobalAdaptClipping(1.0, strict_norm=10.0, learning_rate=0.1, count_noise_std=2.0)
        >>> policy.observe(torch.tensor([-4.0]), expected_batch_size=8)  # all 8 within: Z falls
        >>> round(policy.strict_norm, 3), policy.norm_bound
        (9.048, 1.0)
    """

    def __init__(
        self,
        max_grad_norm: float = 1.0,
        *,
        strict_norm: float | None = None,
        learning_rate: float = 0.1,
        tolerance: float = 1.0,
        count_noise_std: float | None = None,
        max_strict_norm: float = 1e6,
    ) -> None:
        self._max_grad_norm = one_bound(max_grad_norm=max_grad_norm)
        first = 10.0 * self._max_grad_norm if strict_norm is None else one_bound(strict_norm=strict_norm)
        self._max_strict_norm = one_bound(max_strict_norm=max_strict_norm)
        if not self._max_grad_norm <= first <= self._max_strict_norm:
            raise ConfigurationError(
                f"strict_norm must be between max_grad_norm and max_strict_norm, got {first!r} with "
                f"{self._max_grad_norm!r} and {self._max_strict_norm!r}"
            )
        bound = MovingBound("strict_norm", first, low=self._max_grad_norm, high=self._max_strict_norm)
        super().__init__(count_noise_std, learning_rate=learning_rate, bound=bound)
        if self._learning_rate >= 1:
            raise ConfigurationError(
                f"learning_rate must be in (0, 1), as it is the fraction of examples above the strict bound at which "
                f"that comes to rest, got {learning_rate!r}"
            )
        self._tolerance = positive(tolerance=tolerance)

    @property
    def strict_norm(self) -> float:
        """Z_t: gradients up to this norm are scaled alike in the next step."""
        return self._bound.value

    @property
    @override
    def norm_bound(self) -> float:
        return self._max_grad_norm

    @override
    def factors(self, squared_norms: Tensor) -> Tensor:
        lengths = squared_norms.sqrt().clamp_min(self.strict_norm)
        return zero_unless_finite(self._max_grad_norm / lengths, squared_norms)

    @override
    def counts(self, squared_norms: Tensor) -> Tensor:
        """Return the sum over the examples of 1/2 where the gradient is above ``tolerance * Z_t``, else -1/2.

        Args:
            squared_norms: shape ``(B, 1)``; a gradient that is not finite is above it.

        Returns:
            Shape ``(1,)``.
        """
        return -halves_within(squared_norms, self._tolerance * self.strict_norm)

    @override
    def observe(self, noisy_counts: Tensor, expected_batch_size: float) -> None:
        """Move the strict bound for the next step.

        Args:
            noisy_counts: shape ``(1,)``, what :meth:`counts` gave for the whole step, plus noise.
            expected_batch_size: average number of examples of a step.

        Raises:
            PrivacyViolation: the count is not a finite number, so Z_t would be lost.

        Warns:
            RuntimeWarning: the strict bound reached ``max_strict_norm``.
        """
        above = noisy_fraction(noisy_counts, expected_batch_size)
        # At its other limit, the length C, it is flat clipping: nothing to warn of.
        if self._bound.move(above - self._learning_rate) and self.strict_norm == self._max_strict_norm:
            warnings.warn(
                f"global scaling reached its max_strict_norm, {self.strict_norm:g}: the norms of the gradients grow "
                "without end, or count_noise_std is large for this batch size",
                RuntimeWarning,
                stacklevel=2,
            )

    @override
    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "max_grad_norm": self._max_grad_norm,
            "strict_norm": self._bound.initial,
            "tolerance": self._tolerance,
            "max_strict_norm": self._max_strict_norm,
        }
