r"""How a key is written down: in a file of its own, in an environment variable, or as 32 bare bytes.

The package writes one line of JSON with the secret, the key's id and its date of expiry. It also reads what other
tools make: 64 hexadecimal digits, base64 of 32 bytes, or the 32 bytes themselves.

Example:
    >>> parse_key(b"00" * 32)
    (b'\x00\x00...\x00', None, None)
    >>> parse_key(b"correct horse battery staple")
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.ConfigurationError: not a key: expected 32 bytes, ... as hexadecimal digits, ...
"""

from __future__ import annotations

import base64
import binascii
import json
import string
from datetime import datetime

from lightning_privacy.errors import ConfigurationError

__all__ = ["SECRET_BYTES", "format_key", "parse_key"]

SECRET_BYTES = 32
"""Length of every secret: AES-256."""

_FIELD = "lightning_privacy_key"
_VERSION = 1
_LONGEST = 4096
_EXPECTED = (
    "not a key: expected 32 bytes, or those as hexadecimal digits, as base64 or as written by Key.save; "
    "make one with Key.generate().save(path), or turn a passphrase into one with Key.from_passphrase"
)
_PRINTABLE = frozenset(string.printable.encode())


def parse_key(content: bytes) -> tuple[bytes, str | None, datetime | None]:
    """Read a key.

    Args:
        content: What the file or variable holds.

    Returns:
        The secret of 32 bytes, the key's id and its date of expiry, as far as they are given.

    Raises:
        ConfigurationError: It is none of the forms above. The message never quotes the content.
    """
    if len(content) == SECRET_BYTES and not _PRINTABLE.issuperset(content):
        return bytes(content), None, None
    text = content.strip()
    if len(text) > _LONGEST:
        raise ConfigurationError(_EXPECTED)
    if text.startswith(b"{"):
        return _from_json(text)
    secret = _from_digits(text)
    if secret is None:
        raise ConfigurationError(_EXPECTED)
    return secret, None, None


def format_key(secret: bytes, key_id: str, expires: datetime | None) -> str:
    """One line of JSON that :func:`parse_key` reads back."""
    fields = {
        _FIELD: _VERSION,
        "key_id": key_id,
        "secret": base64.urlsafe_b64encode(secret).decode(),
        "expires": None if expires is None else expires.isoformat(),
    }
    return json.dumps(fields) + "\n"


def _from_digits(text: bytes) -> bytes | None:
    """The secret behind hexadecimal digits or base64 of either alphabet; None when it is neither."""
    try:
        if len(text) == 2 * SECRET_BYTES:
            return bytes.fromhex(text.decode("ascii"))
        padded = text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(text) % 4)
        secret = base64.b64decode(padded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return secret if len(secret) == SECRET_BYTES else None


def _from_json(text: bytes) -> tuple[bytes, str | None, datetime | None]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(_EXPECTED) from error
    version = fields.get(_FIELD)
    if type(version) is int and version > _VERSION:
        raise ConfigurationError(
            f"the key is written in version {version} of its form, and this package knows {_VERSION}: update it"
        )
    secret, key_id, expires = (fields.get(name) for name in ("secret", "key_id", "expires"))
    if type(version) is not int or version != _VERSION or not isinstance(secret, str):
        raise ConfigurationError(_EXPECTED)
    decoded = _from_digits(secret.encode("utf-8", "replace"))
    if decoded is None or not isinstance(key_id, str | None) or not isinstance(expires, str | None):
        raise ConfigurationError(_EXPECTED)
    return decoded, key_id, None if expires is None else _date(expires)


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(_EXPECTED) from error
