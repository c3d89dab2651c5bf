"""What can be wrong with an exported folder, and what a request is refused for.

Example:
    >>> from lightning_privacy.errors import LightningPrivacyError
    >>> issubclass(ExportError, LightningPrivacyError), issubclass(RequestError, ValueError)
    (True, True)
"""

from __future__ import annotations

from lightning_privacy.errors import ConfigurationError, LightningPrivacyError

__all__ = ["ExportError", "RequestError"]


class ExportError(LightningPrivacyError, RuntimeError):
    """An exported folder is damaged, altered, foreign or of a newer version; nothing of it was used."""


class RequestError(ConfigurationError):
    """What a client sent can't be answered; the message says what would be right. Nothing was charged."""
