"""Encrypts and decrypts the segments of one file; the construction is in ``header.py``.

Example:
    >>> cipher = SegmentCipher(bytes(32))
    >>> sealed = cipher.seal(0, b"content", last=True)
    >>> cipher.open(0, sealed, last=True), len(sealed) - len(b"content")
    (b'content', 16)
    >>> cipher.open(0, sealed, last=False) is None
    True
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lightning_privacy.security.errors import EncryptionError

__all__ = ["TAG_BYTES", "SegmentCipher"]

TAG_BYTES = 16
"""How much longer an encrypted segment is."""

_MOST_SEGMENTS = 2**32


class SegmentCipher:
    """AES-256-GCM with the number of the segment, and whether it is the last, as nonce.

    Args:
        file_key: 32 bytes that no other file uses.
    """

    def __init__(self, file_key: bytes) -> None:
        self._cipher = AESGCM(file_key)

    def seal(self, number: int, segment: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """The segment, encrypted, with its tag."""
        if number >= _MOST_SEGMENTS:
            raise EncryptionError(f"a file has at most {_MOST_SEGMENTS} segments: spread the content over several")
        return self._cipher.encrypt(_nonce(number, last), segment, None)

    def open(self, number: int, sealed: bytes | memoryview, *, last: bool) -> bytes | None:
        """The segment, or None when it is not what was sealed under this number."""
        try:
            return self._cipher.decrypt(_nonce(number, last), sealed, None)
        except InvalidTag:
            return None


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")
