"""Reads an encrypted file at any place, and hands out only what was authenticated.

Opening it verifies the header and the last segment, so a file that was cut short or lengthened is refused before
anything is read. Each read decrypts the segments it touches and no others.

Example:
    >>> import pathlib, tempfile
    >>> from lightning_privacy.security import EncryptedReader, EncryptedWriter, Key
    >>> key = Key.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "numbers")
    ...     with EncryptedWriter(path, key) as file:
    ...         _ = file.write(bytes(range(100)))
    ...     with EncryptedReader(path, key) as file:
    ...         _ = file.seek(50)
    ...         file.read(2), file.length
    (b'23', 100)
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from typing_extensions import Buffer, override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.errors import TamperedError, WrongKeyError
from lightning_privacy.security.header import LARGEST_HEADER, Content, FileHeader
from lightning_privacy.security.key_ring import KeyLike, KeyRing, as_key_ring
from lightning_privacy.security.segments import TAG_BYTES, SegmentCipher

__all__ = ["EncryptedReader", "open_header"]


def open_header(
    start: bytes, ring: KeyRing, *, context: bytes, content: Content, place: str
) -> tuple[FileHeader, SegmentCipher]:
    """Verify the header at the start of a file.

    Args:
        start: The file's first bytes.
        ring: What may open it.
        context: What it was written with.
        content: What it must hold.
        place: Name of the file for messages.

    Returns:
        The header, and what decrypts the segments.

    Raises:
        EncryptionError: By the name of what is wrong.
    """
    header = FileHeader.parse(start, place)
    try:
        found = ring.decrypting(header.key_id)
    except WrongKeyError as error:
        raise WrongKeyError(f"{place} is {error}") from None
    cipher = SegmentCipher(header.open(found, context, place))
    if header.content != content:
        held = Content(header.content).name.lower() if header.content in list(Content) else "something newer"
        raise WrongKeyError(f"{place} holds {held}, not {content.name.lower()}: read it with the function for that")
    return header, cipher


class EncryptedReader(io.BufferedIOBase):
    """A seekable binary file over an encrypted one.

    A copy of it in a process made by fork may be used beside it. Pickled, it is opened anew.

    Args:
        source: A path, or a seekable binary file, which is not closed.
        key: 32 bytes, a key, or a ring.
        context: What the file was written with.
        content: What it must hold.

    Raises:
        EncryptionError: ``NotEncryptedError``, ``WrongKeyError``, ``KeyExpiredError``, ``NewerFormatError`` or
            ``TamperedError``; reads raise the last of these when they come to a segment that was altered.
        OSError: The file can't be read; the error names it.
    """

    def __init__(
        self, source: str | Path | BinaryIO, key: KeyLike, *, context: bytes = b"", content: Content = Content.BYTES
    ) -> None:
        self._descriptor = -1
        self._file: BinaryIO | None = None
        self._failure: TamperedError | None = None
        if isinstance(source, str | Path):
            self._place = str(source)
            self._descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        else:
            self._place = str(getattr(source, "name", "the stream"))
            self._file = source
        ring = as_key_ring(key)
        self._arguments = (source, ring, context, content)
        try:
            size = os.fstat(self._descriptor).st_size if self._file is None else self._file.seek(0, io.SEEK_END)
            start = self._fetch(0, LARGEST_HEADER)
            header, self._cipher = open_header(start, ring, context=context, content=content, place=self._place)
            self._start, self._segment = header.size, 1 << header.segment_bits
            self._measure(size - header.size)
        except BaseException:
            self.close()
            raise

    def _measure(self, body: int) -> None:
        """Find how long the content is, and verify that this is how long it was."""
        sealed = self._segment + TAG_BYTES
        self._count, rest = -(-body // sealed), body % sealed or sealed
        self._cached: tuple[int, bytes] = (-1, b"")
        self._position = 0
        # Only an empty file has an empty last segment.
        if self._count < 1 or rest < TAG_BYTES + (self._count > 1):
            raise self._altered("its end was cut off")
        self._length = (self._count - 1) * self._segment + rest - TAG_BYTES
        self._plain(self._count - 1)

    @property
    def length(self) -> int:
        """Bytes of the content."""
        return self._length

    @property
    def failure(self) -> TamperedError | None:
        """The last error of a read: a library that reads this file may hide it behind one of its own."""
        return self._failure

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset`` on, fewer than ``length`` only at the end; leaves the position as it is.

        Raises:
            TamperedError: A segment they lie in was altered.
        """
        end = min(offset + length, self._length)
        pieces = []
        while offset < end:
            number, within = divmod(offset, self._segment)
            piece = self._plain(number)[within : within + end - offset]
            pieces.append(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _plain(self, number: int) -> bytes:
        cached, segment = self._cached
        if cached == number:
            return segment
        if self.closed:
            raise ValueError("read of a closed file")
        sealed = self._segment + TAG_BYTES
        opened = self._cipher.open(
            number, self._fetch(self._start + number * sealed, sealed), last=number == self._count - 1
        )
        if opened is None:
            raise self._altered(f"segment {number + 1} of {self._count} is not what was written")
        self._cached = (number, opened)
        return opened

    def _fetch(self, offset: int, length: int) -> bytes:
        if self._file is not None:
            self._file.seek(offset)
            return self._file.read(length)
        # By position: processes made by fork share the one of the descriptor.
        content = os.pread(self._descriptor, length, offset)
        while 0 < len(content) < length and (
            more := os.pread(self._descriptor, length - len(content), offset + len(content))
        ):
            content += more
        return content

    def _altered(self, what: str) -> TamperedError:
        self._failure = TamperedError(f"{self._place} was altered, cut short or lengthened ({what}): take another copy")
        return self._failure

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        """The next ``size`` bytes, or all that follow."""
        rest = max(0, self._length - self._position)
        content = self.read_at(self._position, rest if size is None or size < 0 else min(size, rest))
        self._position += len(content)
        return content

    @override
    def read1(self, size: int = -1, /) -> bytes:
        return self.read(self._segment if size < 0 else size)

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        """Fill the buffer as far as the content goes; returns the number of bytes."""
        raw, filled = memoryview(buffer), 0
        view = raw.cast("B") if raw.nbytes else raw  # an empty one can't be cast
        while filled < len(view) and self._position < self._length:
            number, within = divmod(self._position, self._segment)
            piece = memoryview(self._plain(number))[within : within + len(view) - filled]
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
        return filled

    @override
    def readinto1(self, buffer: Buffer, /) -> int:
        return self.readinto(buffer)

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}
        if whence not in bases or bases[whence] + offset < 0:
            raise ValueError(f"no such place in the file: {offset} from {whence}")
        self._position = bases[whence] + offset
        return self._position

    @override
    def tell(self) -> int:
        return self._position

    @override
    def close(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        self._cached = (-1, b"")
        super().close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._file is not None:
            raise ConfigurationError("a reader over an open file is not pickled: open it by its path")
        source, key, context, content = self._arguments
        return _reopen, (str(Path(source).absolute()), key, context, content)  # type: ignore[arg-type] # a path here


def _reopen(path: str, key: KeyLike, context: bytes, content: Content) -> EncryptedReader:
    return EncryptedReader(path, key, context=context, content=content)
