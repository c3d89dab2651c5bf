"""Many records in one encrypted file, each readable without decrypting the others.

The content: the records one after the other, then where each ends (8 bytes each, little-endian), then how many there
are (8 bytes). Opening reads the last two; a record then costs the segments of 64 KiB it lies in.

Example:
    >>> import pathlib, tempfile
    >>> from lightning_privacy.security import EncryptedRecords, Key, write_records
    >>> key = Key.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "people.records")
    ...     written = write_records(path, (b"person %d" % number for number in range(1000)), key)
    ...     with EncryptedRecords(path, key) as records:
    ...         written, len(records), records[500], records[-1]
    (1000, 1000, b'person 500', b'person 999')
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.errors import EncryptionError
from lightning_privacy.security.header import Content
from lightning_privacy.security.key_ring import KeyLike
from lightning_privacy.security.reader import EncryptedReader
from lightning_privacy.security.writer import EncryptedWriter

__all__ = ["EncryptedRecords", "write_records"]

_WORD = np.dtype("<u8")
_ENDS_AT_ONCE = 1 << 16


def write_records(path: str | Path, records: Iterable[bytes], key: KeyLike, *, context: bytes = b"") -> int:
    """Write records, encrypted, one after the other; memory holds one of them and 8 bytes for each before it.

    Args:
        path: The file; replaced if it is there, and unchanged if ``records`` raises.
        records: Each as bytes, of any length.
        key: 32 bytes, a key, or a ring whose current key encrypts.
        context: Must be given again to read.

    Returns:
        How many there were.

    Raises:
        ConfigurationError: A record is not bytes, or the key is none.
        KeyExpiredError: The key is past its date.
        OSError: The file can't be written; the error names it.
    """
    full: list[NDArray[np.uint64]] = []
    ends: list[int] = []
    end = 0
    with EncryptedWriter(path, key, context=context, content=Content.RECORDS) as file:
        for record in records:
            _check_bytes(record, len(full) * _ENDS_AT_ONCE + len(ends))
            end += file.write(record)
            ends.append(end)
            if len(ends) == _ENDS_AT_ONCE:
                full.append(np.array(ends, _WORD))
                ends = []
        every = np.concatenate([*full, np.array(ends, _WORD)])
        file.write(every.tobytes())
        file.write(len(every).to_bytes(_WORD.itemsize, "little"))
    return len(every)


def _check_bytes(record: object, number: int) -> None:
    if not isinstance(record, bytes | bytearray | memoryview):
        raise ConfigurationError(f"records must be bytes, got {type(record).__name__} as record {number}")


class EncryptedRecords(Sequence[bytes]):
    """The records of a file, by their numbers.

    Usable in processes made by fork, and, where its key can be fetched again, in those that pickle it.

    Args:
        path: A file of :func:`write_records`.
        key: 32 bytes, a key, or a ring.
        context: What it was written with.

    Raises:
        EncryptionError: By the name of what is wrong; also from an access that meets an altered segment.
        OSError: The file can't be read; the error names it.
    """

    def __init__(self, path: str | Path, key: KeyLike, *, context: bytes = b"") -> None:
        self._reader = EncryptedReader(path, key, context=context, content=Content.RECORDS)
        try:
            self._ends = _read_ends(self._reader, path)
        except BaseException:
            self._reader.close()
            raise

    @override
    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: SupportsIndex) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    @override
    def __getitem__(self, index: SupportsIndex | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = operator.index(index)
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):
            raise IndexError(f"record {operator.index(index)} of {len(self)}")
        start = int(self._ends[number - 1]) if number else 0
        return self._reader.read_at(start, int(self._ends[number]) - start)

    @override
    def __iter__(self) -> Iterator[bytes]:
        return (self[number] for number in range(len(self)))

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_ends(reader: EncryptedReader, path: str | Path) -> NDArray[np.uint64]:
    """Where each record ends; in order and within the file."""
    word = _WORD.itemsize
    count = int.from_bytes(reader.read_at(max(0, reader.length - word), word), "little")
    start = reader.length - word * (count + 1)
    ends = np.frombuffer(reader.read_at(start, word * count), _WORD) if start >= 0 else None
    # Authentic, so written by a holder of the key, but perhaps not by write_records.
    if ends is None or (count and ends[-1] != start) or (not count and start) or (ends[1:] < ends[:-1]).any():
        raise EncryptionError(f"{path} does not hold records as write_records writes them: write it anew")
    return ends
