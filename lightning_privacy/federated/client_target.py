"""What a user asks of client-level privacy, checked.

Example:
    >>> from lightning_privacy.federated.client_target import ClientTarget
    >>> target = ClientTarget(delta=1e-5, epsilon=8.0, noise_multiplier=None, max_delta_norm=1.0, adaptive=None)
    >>> target.ledger(None)
    PrivacyLedger(delta=1e-05, budget=8.0, unit='client', charged=0)
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_privacy._validate import positive
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.target import check_target, ledger_for
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.client_clipping import AdaptiveNorm
from lightning_privacy.gradients.clipping import AdaptiveClipping

__all__ = ["UNIT", "ClientTarget"]

UNIT = "client"


@dataclass(frozen=True)
class ClientTarget:
    """The arguments of :class:`~lightning_privacy.federated.client_privacy.ClientPrivacy`.

    Args:
        delta: in (0, 1).
        epsilon: above 0, or None.
        noise_multiplier: at least 0, or None.
        max_delta_norm: above 0.
        adaptive: how the norm adapts, or None.

    Raises:
        ConfigurationError: a number is out of range, or there is no target, or one that can't be met.

    Example:
        >>> ClientTarget(delta=1e-5, epsilon=None, noise_multiplier=None, max_delta_norm=1.0, adaptive=None)
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.ConfigurationError: neither epsilon nor noise_multiplier was given: ...
    """

    delta: float
    epsilon: float | None
    noise_multiplier: float | None
    max_delta_norm: float
    adaptive: AdaptiveNorm | None

    def __post_init__(self) -> None:
        positive(max_delta_norm=self.max_delta_norm)
        check_target(
            delta=self.delta, epsilon=self.epsilon, noise_multiplier=self.noise_multiplier, steps="the run's rounds"
        )
        if self.adaptive is None:
            return
        if not isinstance(self.adaptive, AdaptiveNorm):
            raise ConfigurationError(f"adaptive must be True, False or an AdaptiveNorm, got {self.adaptive!r}")
        if not self.adaptive.min_norm <= self.max_delta_norm <= self.adaptive.max_norm:
            raise ConfigurationError(
                f"max_delta_norm must be between min_norm and max_norm of the adaptive norm, got "
                f"{self.max_delta_norm!r} with {self.adaptive!r}"
            )

    def ledger(self, given: object) -> PrivacyLedger:
        """The user's ledger when it agrees with this target, or a new one when there is none.

        Raises:
            ConfigurationError: it is for another unit, delta or budget.
        """
        if isinstance(given, PrivacyLedger) and given.unit != UNIT:
            raise ConfigurationError(
                f"the ledger protects the unit {given.unit!r}, and client privacy is charged for the unit 'client'; "
                "epsilons of different units don't add up: make one with PrivacyLedger(..., unit='client')"
            )
        return ledger_for(given, delta=self.delta, epsilon=self.epsilon, unit=UNIT)

    def policy(self, noise_multiplier: float, expected_cohort_size: float) -> AdaptiveClipping | None:
        """What moves the norm, None where it stays.

        Args:
            noise_multiplier: of a round as a whole.
            expected_cohort_size: clients of a round, on average.

        Raises:
            ConfigurationError: the noise on the count is so small that nothing is left to the delta.
        """
        if self.adaptive is None:
            return None
        policy = AdaptiveClipping(
            self.max_delta_norm,
            target_quantile=self.adaptive.target_quantile,
            learning_rate=self.adaptive.learning_rate,
            count_noise_std=self.adaptive.count_std(noise_multiplier, expected_cohort_size),
            min_norm=self.adaptive.min_norm,
            max_norm=self.adaptive.max_norm,
        )
        policy.gradient_noise_multiplier(noise_multiplier)
        return policy
