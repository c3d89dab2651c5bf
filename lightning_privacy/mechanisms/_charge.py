"""Pays for a release before it happens.

Example:
    >>> from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> charge(ledger, LaplaceRelease(epsilon=1.0), None, label="a count")
    >>> ledger.history[0][1:]
    (1, 'a count')
"""

from __future__ import annotations

from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["charge"]


def charge(
    ledger: PrivacyLedger | None,
    release: Release,
    noise: NoiseSource | None,
    *,
    count: int = 1,
    label: str | None = None,
) -> None:
    """Charge ``release``, and note what is to be said about the noise.

    Args:
        ledger: where; None for nowhere.
        release: what is about to happen.
        noise: what it will be drawn from.
        count: how often.
        label: what it is for.

    Raises:
        ConfigurationError: the ledger or the noise is something else.
        PrivacyBudgetExceeded: the ledger can't pay; nothing is charged.
    """
    if noise is not None and not isinstance(noise, NoiseSource):
        raise ConfigurationError(f"noise must be a NoiseSource or None, got {noise!r}")
    if ledger is None:
        return
    if not isinstance(ledger, PrivacyLedger):
        raise ConfigurationError(f"ledger must be a PrivacyLedger or None, got {ledger!r}")
    ledger.charge(release, count=count, label=label)
    if noise is not None and noise.caveat is not None:
        ledger.add_caveat(noise.caveat)
