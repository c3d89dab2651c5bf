"""A file to write to that only ever holds ciphertext.

Example:
    >>> import pathlib, tempfile
    >>> from lightning_privacy.security import EncryptedReader, EncryptedWriter, Key
    >>> key = Key.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "notes")
    ...     with EncryptedWriter(path, key) as file:
    ...         _ = file.write(b"plain text")
    ...     with EncryptedReader(path, key) as file:
    ...         b"plain" in path.read_bytes(), file.read()
    (False, b'plain text')
"""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from typing_extensions import Buffer, override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.atomic_file import AtomicFile
from lightning_privacy.security.header import SEGMENT_BITS, Content, FileHeader
from lightning_privacy.security.key_ring import KeyLike, as_key_ring
from lightning_privacy.security.segments import SegmentCipher

__all__ = ["EncryptedWriter"]


class EncryptedWriter(io.BufferedIOBase):
    """Encrypts what is written to it, segment by segment; memory holds one segment.

    The file gets its name at :meth:`close`, or at the end of a ``with`` block that no exception leaves. Dropped or
    left by an exception, it leaves what was there before.

    Args:
        target: A path, or a binary file open for writing, such as a pipe; that one is not closed, and gets its last
            bytes at :meth:`close`.
        key: 32 bytes, a key, or a ring whose current key encrypts.
        context: Must be given again to read; binds the file to its use, such as ``b"patients/2026"``.
        content: What the file holds.
        segment_bits: Binary logarithm of the bytes in a segment.

    Raises:
        KeyExpiredError: The key is past its date.
        ConfigurationError: The key is none.
        EncryptionError: Another process or thread is writing this file.
        OSError: The file can't be written; the error names it.
    """

    def __init__(
        self,
        target: str | Path | BinaryIO,
        key: KeyLike,
        *,
        context: bytes = b"",
        content: Content = Content.BYTES,
        segment_bits: int = SEGMENT_BITS,
    ) -> None:
        # Set before anything can fail: __del__ looks at it.
        self._file: AtomicFile | None = None
        header, file_key = FileHeader.new(as_key_ring(key).encrypting(), content, context, segment_bits)
        self._cipher = SegmentCipher(file_key)
        self._segment = 1 << segment_bits
        self._pending = bytearray()
        self._number = 0
        self._position = 0
        self._failure: OSError | None = None
        if isinstance(target, str | Path):
            self._file = AtomicFile(target)
            self._sink: AtomicFile | BinaryIO = self._file
        else:
            self._sink = target
        self._emit(header)

    @property
    def failure(self) -> OSError | None:
        """The first error of the disk: a library that writes to this file may hide it behind one of its own."""
        return self._failure

    @override
    def write(self, content: Buffer, /) -> int:
        """Take all of it.

        Raises:
            OSError: The disk is full or can't be written to; the error names the file.
            ValueError: The file is closed.
        """
        if self.closed:
            raise ValueError("write to a closed file")
        rest = memoryview(content)
        length = rest.nbytes
        if not length:
            return 0  # an empty view can't be cast
        rest = rest.cast("B")
        # The last segment is marked, so a full one stays until something follows it.
        while len(self._pending) + len(rest) > self._segment:
            if self._pending:
                room = self._segment - len(self._pending)
                self._pending += rest[:room]
                self._seal(self._pending)
                self._pending = bytearray()
            else:
                room = self._segment
                self._seal(rest[:room])
            rest = rest[room:]
        self._pending += rest
        self._position += length
        return length

    def _seal(self, segment: bytearray | memoryview, *, last: bool = False) -> None:
        self._emit(self._cipher.seal(self._number, segment, last=last))
        self._number += 1

    def _emit(self, sealed: bytes) -> None:
        if self._failure is not None:
            raise self._failure  # what follows a lost segment can't be written
        try:
            _write_all(self._sink, sealed)
        except OSError as error:
            self._failure = error
            raise

    @override
    def close(self) -> None:
        """Write the rest and give the file its name; nothing when closed already.

        Raises:
            OSError: It could not be written; what was there before is unchanged.
        """
        if self.closed:
            return
        try:
            self._seal(self._pending, last=True)
            if self._file is not None:
                self._file.commit()
            else:
                self._sink.flush()  # type: ignore[union-attr] # a file here: there is no atomic one
        except BaseException:
            self.abort()
            raise
        self._finish()

    def abort(self) -> None:
        """Close and leave what was there before."""
        if self.closed:
            return
        if self._file is not None:
            self._file.abort()
        self._finish()

    def _finish(self) -> None:
        self._pending = bytearray()
        super().close()

    @override
    def writable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        """How many bytes were written."""
        return self._position

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # The base class would close, and so commit, a file that was dropped half written.
        self.abort()


def _write_all(sink: AtomicFile | BinaryIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        # A raw file may take a part; one that does not block takes some of it at least.
        written = sink.write(rest)
        if not written:
            raise ConfigurationError("target took no bytes: it must be a blocking binary file open for writing")
        rest = rest[written:]
