"""What can be wrong with a key or an encrypted file, each under its own name.

All are :class:`EncryptionError`, so one ``except`` catches them. None is ever raised after a byte that was not
authenticated has been handed out.

Example:
    >>> from lightning_privacy.security import EncryptionError, TamperedError
    >>> issubclass(TamperedError, EncryptionError)
    True
"""

from __future__ import annotations

from lightning_privacy.errors import LightningPrivacyError

__all__ = [
    "EncryptionError",
    "KeyExpiredError",
    "NewerFormatError",
    "NotEncryptedError",
    "TamperedError",
    "WrongKeyError",
]


class EncryptionError(LightningPrivacyError, RuntimeError):
    """Base class of what can go wrong with an encrypted file; raised itself where no other name fits."""


class KeyExpiredError(EncryptionError):
    """The key is past its date; it encrypts nothing more, and decrypts only as an older key of a ring."""


class WrongKeyError(EncryptionError):
    """The file was encrypted with another key, or for another use or context than it is read for."""


class TamperedError(EncryptionError):
    """The file was altered, cut short, lengthened or put together from pieces; nothing of it was handed out."""


class NewerFormatError(EncryptionError):
    """The file says it was written by a newer version of the package than this one."""


class NotEncryptedError(EncryptionError):
    """The file does not start as an encrypted file of this package does."""
