"""The key that encrypts, and the older ones that still decrypt.

Rotation: make a new key, put it in front, ``KeyRing(new, old)``. What is written from now on is under the new key,
what is there stays readable, and :func:`~lightning_privacy.security.rotate` re-encrypts it file by file; then the old
key is no longer needed.

Example:
    >>> from lightning_privacy.security import Key, KeyRing
    >>> old, new = Key.generate(key_id="2025"), Key.generate(key_id="2026")
    >>> ring = KeyRing(new, old)
    >>> ring.encrypting().key_id, ring.decrypting("2025") is old
    ('2026', True)
"""

from __future__ import annotations

from typing import TypeAlias

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.errors import WrongKeyError
from lightning_privacy.security.key_text import SECRET_BYTES
from lightning_privacy.security.keys import Key

__all__ = ["KeyLike", "KeyRing", "as_key_ring"]


class KeyRing:
    """Several keys, told apart by their ids.

    Args:
        current: Encrypts, and decrypts what it has encrypted, until it expires.
        older: Only decrypt, and do so past their dates too.

    Raises:
        ConfigurationError: One is not a key, or two have the same id.
    """

    def __init__(self, current: Key | bytes, *older: Key | bytes) -> None:
        keys = [_as_key(key) for key in (current, *older)]
        self._current = keys[0]
        self._keys = {key.key_id: key for key in keys}
        if len(self._keys) != len(keys):
            ids = ", ".join(repr(key.key_id) for key in keys)
            raise ConfigurationError(f"the keys of a ring need ids that differ, got {ids}: give them a key_id each")

    @property
    def current(self) -> Key:
        """The key that encrypts."""
        return self._current

    def encrypting(self) -> Key:
        """The current key.

        Raises:
            KeyExpiredError: It is past its date.
        """
        self._current.check_usable()
        return self._current

    def decrypting(self, key_id: str) -> Key:
        """The key of this id.

        Raises:
            WrongKeyError: The ring has none.
            KeyExpiredError: It is the current one and past its date.
        """
        key = self._keys.get(key_id)
        if key is None:
            ids = ", ".join(repr(known) for known in self._keys)
            raise WrongKeyError(f"encrypted with the key {key_id!r}, and only {ids} is here: add it as an older key")
        if key is self._current:
            key.check_usable()
        return key

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(repr(key) for key in self._keys.values())})"


KeyLike: TypeAlias = "bytes | Key | KeyRing"
"""What everything here takes as a key: 32 bytes, a key, or a ring."""


def as_key_ring(key: KeyLike) -> KeyRing:
    """The ring of a key given as 32 bytes, as a key or as a ring.

    Raises:
        ConfigurationError: It is none of these.
    """
    return key if isinstance(key, KeyRing) else KeyRing(key)


def _as_key(key: object) -> Key:
    if isinstance(key, Key):
        return key
    if isinstance(key, bytes | bytearray):
        return Key(bytes(key))
    raise ConfigurationError(
        f"key must be {SECRET_BYTES} bytes, a Key or a KeyRing, got {type(key).__name__}: "
        "Key.from_file, Key.from_environment and Key.from_passphrase make one"
    )
