"""A secret key of its own for each purpose, from whatever was given as a key.

The room of keys lies below this one, so that a key is known here by what it can do: bytes are taken as they are, a key
has ``secret`` and may have ``check_usable()``, a ring of keys has ``encrypting()``.

Example:
    >>> key = bytes(range(32))
    >>> derived_key(key, "pseudonyms") == derived_key(key, "pseudonyms") != derived_key(key, "order of rows")
    True
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from lightning_privacy.errors import ConfigurationError

__all__ = ["SECRET_BYTES", "derived_key"]

SECRET_BYTES = 32
_CONTEXT = b"lightning_privacy.preparation/1/"


def derived_key(key: Any, purpose: str) -> bytes:
    """Return 32 bytes that tell nothing about the key, nor about those of another purpose.

    Args:
        key: 32 bytes, a key of ``security``, or a ring of them, of which the current one counts.
        purpose: what for.

    Raises:
        ConfigurationError: it is none of these; or whatever an expired key raises.
    """
    if hasattr(key, "encrypting"):
        key = key.encrypting()
    if hasattr(key, "check_usable"):
        key.check_usable()
    secret = key if isinstance(key, bytes | bytearray) else getattr(key, "secret", None)
    if not isinstance(secret, bytes | bytearray):
        raise ConfigurationError(
            f"key must be {SECRET_BYTES} random bytes or a key of lightning_privacy.security, got "
            f"{type(key).__name__}: security.Key.from_file and Key.from_environment make one"
        )
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(f"key must be {SECRET_BYTES} bytes, got {len(secret)}: secrets.token_bytes(32)")
    return hmac.digest(bytes(secret), _CONTEXT + purpose.encode(), hashlib.sha256)
