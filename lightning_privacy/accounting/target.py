"""What a user asks of private training, in numbers: checks that all kinds of it share.

Example:
    >>> check_target(delta=1e-5, epsilon=None, noise_multiplier=None, steps="the run's rounds")
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.ConfigurationError: neither epsilon nor noise_multiplier was given: ...
    >>> ledger_for(None, delta=1e-5, epsilon=3.0, unit="client")
    PrivacyLedger(delta=1e-05, budget=3.0, unit='client', charged=0)
"""

from __future__ import annotations

from lightning_privacy._validate import non_negative, positive, within_open_unit
from lightning_privacy.accounting.ledger import PrivacyLedger
from lightning_privacy.errors import ConfigurationError

__all__ = ["caveat_of_delta", "check_target", "ledger_for"]


def caveat_of_delta(delta: float, count: int, unit: str) -> str | None:
    """What to say of a delta that guarantees nothing.

    Args:
        delta: Of the guarantee.
        count: Examples, or other units, that there are.
        unit: What is counted, in the singular.

    Returns:
        A caveat, or None where delta is below one over the count.

    Example:
        >>> caveat_of_delta(1e-5, 1000, "client") is None
        True
    """
    if delta * count < 1:
        return None
    return (
        f"delta={delta:g} is not below 1/{count}, one over the number of {unit}s: at this delta a mechanism that "
        f"publishes one random {unit} in full counts as private."
    )


def check_target(*, delta: float, epsilon: float | None, noise_multiplier: float | None, steps: str) -> None:
    """Refuse numbers that are out of range, no target, or one that can't be met.

    Args:
        delta: Of the guarantee.
        epsilon: What the run may cost, or None.
        noise_multiplier: Of a step, or None.
        steps: What sets how many steps a target is reached with, for the message.

    Raises:
        ConfigurationError: Naming the argument.
    """
    within_open_unit(delta=delta)
    if epsilon is not None:
        positive(epsilon=epsilon)
    if noise_multiplier is not None:
        non_negative(noise_multiplier=noise_multiplier)
    if epsilon is None and noise_multiplier is None:
        raise ConfigurationError(
            f"neither epsilon nor noise_multiplier was given: pass epsilon for a target to reach with {steps}, "
            "noise_multiplier for a fixed amount of noise, or both to stop at epsilon"
        )
    if epsilon is not None and noise_multiplier == 0:
        raise ConfigurationError(
            f"noise_multiplier=0 can't keep epsilon={epsilon:g}: without noise epsilon is infinite. "
            "Pass a noise_multiplier above 0, or leave epsilon out for a run without privacy"
        )


def ledger_for(given: object, *, delta: float, epsilon: float | None, unit: str) -> PrivacyLedger:
    """The user's ledger when it agrees with the target, or a new one when there is none.

    Args:
        given: What the user passed as ``ledger``.
        delta: Of the target.
        epsilon: Of the target, or None.
        unit: What a new one protects.

    Raises:
        ConfigurationError: It is no ledger, or for another delta or budget.
    """
    if given is None:
        return PrivacyLedger(delta=delta, budget=epsilon, unit=unit)
    if not isinstance(given, PrivacyLedger):
        raise ConfigurationError(f"ledger must be a PrivacyLedger, got {given!r}")
    if given.delta != delta:
        raise ConfigurationError(
            f"delta={delta:g} differs from the ledger's delta={given.delta:g}: pass the same to both"
        )
    if epsilon is not None and given.budget != epsilon:
        raise ConfigurationError(
            f"epsilon={epsilon:g} differs from the ledger's budget={given.budget}: make the ledger with "
            f"budget={epsilon:g}, or pass epsilon={given.budget}"
        )
    return given
