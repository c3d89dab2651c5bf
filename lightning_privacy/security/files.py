"""Encrypts and decrypts whole files and streams, and moves files to another key.

Example:
    >>> import pathlib, tempfile
    >>> from lightning_privacy.security import Key, KeyRing, decrypt_file, encrypt_file, rotate
    >>> old, new = Key.generate(key_id="old"), Key.generate(key_id="new")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plain, sealed = pathlib.Path(folder, "plain"), pathlib.Path(folder, "sealed")
    ...     _ = plain.write_bytes(b"content")
    ...     encrypt_file(plain, sealed, old)
    ...     moved = rotate(sealed, KeyRing(new, old))
    ...     decrypt_file(sealed, plain, new)
    ...     moved, plain.read_bytes()
    (True, b'content')
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.atomic_file import AtomicFile
from lightning_privacy.security.errors import TamperedError
from lightning_privacy.security.header import LARGEST_HEADER, Content, FileHeader
from lightning_privacy.security.key_ring import KeyLike, KeyRing, as_key_ring
from lightning_privacy.security.reader import EncryptedReader, open_header
from lightning_privacy.security.segments import TAG_BYTES
from lightning_privacy.security.writer import EncryptedWriter

__all__ = ["decrypt_file", "decrypt_stream", "encrypt_file", "encrypt_stream", "rotate"]

_PIECE = 1 << 18


def encrypt_file(source: str | Path, target: str | Path, key: KeyLike, *, context: bytes = b"") -> None:
    """Encrypt a file into another, which appears when it is complete. The source stays where it is.

    Args:
        source: The plain file.
        target: The encrypted one; replaced if it is there.
        key: 32 bytes, a key, or a ring whose current key encrypts.
        context: Must be given again to decrypt.

    Raises:
        ConfigurationError: Both are the same file, or the key is none.
        KeyExpiredError: The key is past its date.
        OSError: A file can't be read or written; the error names it.
    """
    _check_apart(source, target)
    with Path(source).open("rb", buffering=0) as plain, EncryptedWriter(target, key, context=context) as sealed:
        _copy(plain, sealed)


def decrypt_file(source: str | Path, target: str | Path, key: KeyLike, *, context: bytes = b"") -> None:
    """Decrypt a file into another, which only its owner can read and which appears when all of it was authenticated.

    This writes plain text to the disk. To read without doing so, take
    :class:`~lightning_privacy.security.EncryptedReader`.

    Args:
        source: A file written by :func:`encrypt_file`.
        target: The plain one; replaced if it is there.
        key: 32 bytes, a key, or a ring.
        context: What it was encrypted with.

    Raises:
        EncryptionError: By the name of what is wrong; the target is then as it was.
        OSError: A file can't be read or written; the error names it.
    """
    _check_apart(source, target)
    with EncryptedReader(source, key, context=context) as sealed, AtomicFile(target, mode=0o600) as plain:
        _copy(sealed, plain)


def encrypt_stream(source: BinaryIO, target: BinaryIO, key: KeyLike, *, context: bytes = b"") -> None:
    """Encrypt all that ``source`` gives into ``target``; neither has to be seekable, neither is closed.

    Raises:
        KeyExpiredError: The key is past its date.
        OSError: Reading or writing failed.
    """
    with EncryptedWriter(target, key, context=context) as sealed:
        while piece := source.read(_PIECE):
            sealed.write(piece)


def decrypt_stream(source: BinaryIO, key: KeyLike, *, context: bytes = b"") -> Iterator[bytes]:
    """The content of an encrypted stream, in pieces of 64 KiB, each authenticated.

    That the stream was not cut short is known when the last piece has come: until the iterator has ended by itself,
    what came may be the beginning only.

    Args:
        source: A binary file that need not be seekable.
        key: 32 bytes, a key, or a ring.
        context: What it was encrypted with.

    Raises:
        EncryptionError: By the name of what is wrong.
    """
    place = str(getattr(source, "name", "the stream"))
    start = _read_fully(source, LARGEST_HEADER)
    header, cipher = open_header(start, as_key_ring(key), context=context, content=Content.BYTES, place=place)
    sealed_bytes = (1 << header.segment_bits) + TAG_BYTES
    number, pending = 0, start[header.size :]
    while True:
        # One byte more than the segment shows whether another follows.
        pending += _read_fully(source, sealed_bytes + 1 - len(pending))
        last = len(pending) <= sealed_bytes
        opened = cipher.open(number, pending[:sealed_bytes], last=last)
        if opened is None or (last and number and not opened):
            raise TamperedError(
                f"{place} was altered, cut short or lengthened at segment {number + 1}: take another copy"
            )
        yield opened
        if last:
            return
        number, pending = number + 1, pending[sealed_bytes:]


def rotate(path: str | Path, ring: KeyRing, *, context: bytes = b"") -> bool:
    """Re-encrypt a file of any content under the current key of a ring, unless it is under that already.

    The former file stays in place until the new one is complete. Copies elsewhere, such as backups, remain under
    the former key.

    Args:
        path: The file.
        ring: The new key first, then the older ones.
        context: What the file was written with.

    Returns:
        Whether it was re-encrypted.

    Raises:
        ConfigurationError: ``ring`` is no ring.
        EncryptionError: By the name of what is wrong; the file is then as it was.
        OSError: It can't be read or written; the error names it.
    """
    if not isinstance(ring, KeyRing):
        raise ConfigurationError(f"ring must be a KeyRing(new_key, old_key), got {type(ring).__name__}")
    with Path(path).open("rb") as file:
        header = FileHeader.parse(file.read(LARGEST_HEADER), str(path))
    if header.content not in list(Content):
        raise TamperedError(f"{path} holds something this version does not know: update lightning_privacy")
    content = Content(header.content)
    with EncryptedReader(path, ring, context=context, content=content) as old:
        if header.key_id == ring.encrypting().key_id:
            return False
        with EncryptedWriter(path, ring, context=context, content=content, segment_bits=header.segment_bits) as new:
            _copy(old, new)
    return True


def _copy(source: FileIO | EncryptedReader, target: EncryptedWriter | AtomicFile) -> None:
    # One buffer for all: memory that is new for every piece costs more than the cipher.
    piece = memoryview(bytearray(_PIECE))
    while length := source.readinto(piece):
        target.write(piece[:length])


def _read_fully(source: BinaryIO, length: int) -> bytes:
    """As many bytes as there are, up to ``length``: a pipe gives fewer than asked for."""
    pieces = []
    while length > 0 and (piece := source.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _check_apart(source: str | Path, target: str | Path) -> None:
    if Path(target).exists() and os.path.samefile(source, target):  # noqa: PTH121 - reads best with both as arguments
        raise ConfigurationError(f"source and target are the same file, {source}: give another target")
