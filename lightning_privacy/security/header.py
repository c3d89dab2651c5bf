"""The first bytes of an encrypted file, and the key of the file that follows from them.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway and Vizar, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", CRYPTO 2015, section 5) with AES-256-GCM, laid out as Tink's streaming AEAD and age do:
the content is cut into segments of 64 KiB; each is encrypted and authenticated by itself, with its number and whether
it is the last one in the nonce, so that segments can't be left out, repeated, exchanged or appended, and any one can be
read alone. Chosen over ChaCha20-Poly1305, which is as safe but two to three times slower where the processor has AES,
and over the age and Tink packages, since ``cryptography`` is a dependency already and none of them reads at random.

Each file has a key of its own: HKDF-SHA256 of the secret with 32 random bytes of salt, so nonces may count from zero,
and the limits of GCM hold for each file: 2**32 segments, 256 TiB. The whole header and the caller's context go into
the derivation, so a changed header gives another key. GCM does not commit to its key: a file can be made that two keys
decrypt, which helps to guess passphrases (Len, Grubbs and Ristenpart, "Partitioning Oracle Attacks", USENIX Security
2021). So 32 further bytes of the same derivation stand in the header; only the right key gives them, and a wrong key
is told from a damaged file.

Layout: magic (8 bytes), version (1), content (1), binary logarithm of the segment size (1), length of the key's id (1),
salt (32), id, commitment (32). What is not protected: that the file exists, its length, times and name, the id of the
key, and which of two valid files of one key, content and context stands under a name.

Example:
    >>> from lightning_privacy.security import Key
    >>> key = Key.generate(key_id="k1")
    >>> written, file_key = FileHeader.new(key, Content.BYTES, b"")
    >>> header = FileHeader.parse(written, "the file")
    >>> header.key_id, header.size == len(written), header.open(key, b"", "the file") == file_key
    ('k1', True, True)
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from lightning_privacy.security.errors import NewerFormatError, NotEncryptedError, TamperedError, WrongKeyError
from lightning_privacy.security.keys import Key

__all__ = ["LARGEST_HEADER", "MAGIC", "SEGMENT_BITS", "Content", "FileHeader"]

MAGIC = b"LPCRYPT\x9a"
"""An encrypted file begins with it."""
_VERSION = 1
_SALT, _COMMITMENT, _FILE_KEY = 32, 32, 32
_FIXED = len(MAGIC) + 4 + _SALT
_LONGEST_ID = 64
_INFO = b"lightning_privacy encrypted file\x00"

SEGMENT_BITS = 16
"""Binary logarithm of the bytes in a segment: at 64 KiB AES-GCM is at its fastest here, and a record costs 12 us."""

_SEGMENT_BITS_READ = range(10, 25)
LARGEST_HEADER = _FIXED + _LONGEST_ID + _COMMITMENT
"""So many bytes hold any header."""


class Content(IntEnum):
    """What a file holds; part of its key, so a file of one content can't be passed off as another."""

    BYTES = 0
    TABLE = 1
    RECORDS = 2
    ARRAYS = 3
    CHECKPOINT = 4


@dataclass(frozen=True)
class FileHeader:
    """The header of a file, read but not yet verified.

    Args:
        content: What the file holds.
        segment_bits: Binary logarithm of the bytes in a segment.
        key_id: Id of the key it was encrypted with.
        salt: 32 bytes.
        bound: The bytes of the header that its key depends on.
        commitment: 32 bytes that only the right key gives.
    """

    content: int
    segment_bits: int
    key_id: str
    salt: bytes
    bound: bytes
    commitment: bytes

    @classmethod
    def new(cls, key: Key, content: Content, context: bytes, segment_bits: int = SEGMENT_BITS) -> tuple[bytes, bytes]:
        """A fresh header, as bytes, and the file's key."""
        name, salt = key.key_id.encode("ascii"), os.urandom(_SALT)
        bound = MAGIC + bytes([_VERSION, content, segment_bits, len(name)]) + salt + name
        file_key, commitment = _derive(key, bound, salt, context)
        return bound + commitment, file_key

    @classmethod
    def parse(cls, start: bytes, place: str) -> Self:
        """Read a header.

        Args:
            start: The first bytes of a file, ``LARGEST_HEADER`` of them or the whole file if it is shorter.
            place: Name of the file for messages.

        Raises:
            NotEncryptedError: It is no encrypted file of this package.
            NewerFormatError: It was written by a newer version.
            TamperedError: The header is cut short or makes no sense.
        """
        if not start.startswith(MAGIC):
            raise NotEncryptedError(
                f"{place} is not encrypted by lightning_privacy, or its first bytes were altered: "
                "check the path; encrypt_file makes an encrypted file of a plain one"
            )
        if len(start) < _FIXED:
            raise TamperedError(f"{place} was cut short within its header: fetch it again, or take another copy")
        version, content, segment_bits, length = start[len(MAGIC) : len(MAGIC) + 4]
        if version > _VERSION:
            raise NewerFormatError(
                f"{place} is written in version {version} of the format, and this package knows {_VERSION}: update "
                "lightning_privacy; if no newer one ever wrote it, the file was altered"
            )
        bound, commitment = start[: _FIXED + length], start[_FIXED + length : _FIXED + length + _COMMITMENT]
        name = bound[_FIXED:]
        sensible = version == _VERSION and segment_bits in _SEGMENT_BITS_READ and 0 < length <= _LONGEST_ID
        if not sensible or not name.isascii() or len(commitment) < _COMMITMENT:
            raise TamperedError(f"{place} has a header that was altered or cut short: take another copy")
        salt = start[len(MAGIC) + 4 : _FIXED]
        return cls(content, segment_bits, name.decode("ascii"), salt, bound, commitment)

    @property
    def size(self) -> int:
        """How many bytes of the file it takes."""
        return len(self.bound) + len(self.commitment)

    def open(self, key: Key, context: bytes, place: str) -> bytes:
        """The file's key.

        Raises:
            WrongKeyError: The key or context is not the one it was written with, or the header was altered.
        """
        file_key, commitment = _derive(key, self.bound, self.salt, context)
        if not hmac.compare_digest(commitment, self.commitment):
            raise WrongKeyError(
                f"the key {key.key_id!r} does not open {place}: it is another secret of that name (another "
                "passphrase or salt), the context differs from the one it was written with, or the header was altered"
            )
        return file_key


def _derive(key: Key, bound: bytes, salt: bytes, context: bytes) -> tuple[bytes, bytes]:
    # The header says its own length, so header and context can't run into each other.
    both = key.derive_bound(_INFO + bound + context, length=_FILE_KEY + _COMMITMENT, salt=salt)
    return both[:_FILE_KEY], both[_FILE_KEY:]
