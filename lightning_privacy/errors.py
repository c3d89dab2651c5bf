"""The exceptions of the package: one for each way a private run can go wrong.

All inherit from :class:`LightningPrivacyError`, so one ``except`` catches them; each also
inherits from the built-in exception a caller would expect in its place.

Example:
    >>> from lightning_privacy.errors import ConfigurationError, LightningPrivacyError
    >>> issubclass(ConfigurationError, (ValueError, LightningPrivacyError))
    True
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "LightningPrivacyError",
    "PrivacyBudgetExceeded",
    "PrivacyViolation",
    "UnsupportedError",
]


class LightningPrivacyError(Exception):
    """Base class of every exception this package raises on purpose."""


class ConfigurationError(LightningPrivacyError, ValueError):
    """An argument, or a combination of arguments, is not usable; the message names it."""


class UnsupportedError(LightningPrivacyError, NotImplementedError):
    """What was asked for would void the guarantee here, or is not built; the message says which."""


class PrivacyViolation(LightningPrivacyError, RuntimeError):  # noqa: N818 - says what happened
    """Training did something the guarantee does not cover; nothing was released."""


class PrivacyBudgetExceeded(LightningPrivacyError, RuntimeError):  # noqa: N818 - says what happened
    """A release would break the budget of the ledger; it was not charged and must not happen."""


class CheckpointError(LightningPrivacyError, RuntimeError):
    """A checkpoint is corrupt, foreign, or of a run whose privacy is not known."""
