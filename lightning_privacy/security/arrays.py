"""NumPy arrays by name in one encrypted file; any one is read without decrypting the others.

The content: the length of an index (8 bytes, little-endian), the index as JSON (name, type, shape and place of each
array), then the arrays in C order. No pickles: arrays of Python objects are refused.

Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from lightning_privacy.security import Key, read_arrays, write_arrays
    >>> key = Key.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "images")
    ...     write_arrays(path, {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array([3, 7])}, key)
    ...     read_arrays(path, key, names=["labels"])
    {'labels': array([3, 7])}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.errors import EncryptionError
from lightning_privacy.security.header import Content
from lightning_privacy.security.key_ring import KeyLike
from lightning_privacy.security.reader import EncryptedReader
from lightning_privacy.security.writer import EncryptedWriter

__all__ = ["read_arrays", "write_arrays"]

_LENGTH_BYTES = 8
# Numbers, truth values, text and bytes of fixed length, dates and durations.
_KINDS = frozenset("biufcSUmM")
# Types as numpy writes them; of what else it reads, some is deprecated or made of several.
_CODE = re.compile(r"[<>|][biufcSUmM]\d+(\[\d*[a-zA-Z]+\])?", re.ASCII)


def write_arrays(path: str | Path, arrays: Mapping[str, NDArray[Any]], key: KeyLike, *, context: bytes = b"") -> None:
    """Write arrays, encrypted; the file appears when it is complete.

    Args:
        path: The file; replaced if it is there.
        arrays: Name to array, of any shape, of numbers, text of fixed length, dates or durations.
        key: 32 bytes, a key, or a ring whose current key encrypts.
        context: Must be given again to read.

    Raises:
        ConfigurationError: A name is no text, or an array holds Python objects.
        KeyExpiredError: The key is past its date.
        OSError: The file can't be written; the error names it.
    """
    index, blocks, offset = [], [], 0
    for name, value in arrays.items():
        array = np.asarray(value)
        if not isinstance(name, str):
            raise ConfigurationError(f"arrays must have text as names, got {name!r}")
        if array.dtype.kind not in _KINDS:
            raise ConfigurationError(
                f"arrays[{name!r}] has the type {array.dtype}, which can't be stored without pickle: turn it into "
                "numbers or text of fixed length, or write a table"
            )
        index.append([name, array.dtype.str, list(array.shape), offset])
        blocks.append(array)
        offset += array.nbytes
    text = json.dumps(index).encode()
    with EncryptedWriter(path, key, context=context, content=Content.ARRAYS) as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for array in blocks:
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def read_arrays(
    path: str | Path, key: KeyLike, *, context: bytes = b"", names: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Read arrays into memory.

    Args:
        path: A file of :func:`write_arrays`.
        key: 32 bytes, a key, or a ring.
        context: What it was written with.
        names: Only these; all, in the order they were written, when None.

    Raises:
        EncryptionError: By the name of what is wrong.
        ConfigurationError: A name is not in the file.
        OSError: The file can't be read; the error names it.
    """
    with EncryptedReader(path, key, context=context, content=Content.ARRAYS) as file:
        index, start = _read_index(file, path)
        wanted = list(index) if names is None else list(names)
        missing = [name for name in wanted if name not in index]
        if missing:
            raise ConfigurationError(f"names must be in {path}, which has {', '.join(index)}; got {missing[0]!r}")
        arrays = {}
        for name in wanted:
            dtype, shape, offset = index[name]
            array = np.empty(shape, dtype)
            file.seek(start + offset)
            file.readinto(array.reshape(-1).view(np.uint8).data)
            arrays[name] = array
    return arrays


def _read_index(file: EncryptedReader, path: str | Path) -> tuple[dict[str, tuple[np.dtype[Any], list[int], int]], int]:
    """What is where, and where the first array starts; every array lies within the file."""
    try:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        start = _LENGTH_BYTES + length
        if start > file.length:
            raise ValueError("the index is longer than the file")
        index: dict[str, tuple[np.dtype[Any], list[int], int]] = {}
        for name, code, shape, offset in json.loads(file.read(length)):
            if not isinstance(code, str) or not _CODE.fullmatch(code):
                raise ValueError(f"entry {len(index)} has the type {code!r:.100}")
            dtype = np.dtype(code)
            if not isinstance(shape, list):  # an empty mapping would pass for one without dimensions
                raise ValueError(f"entry {len(index)} has the shape {shape!r:.100}")
            whole = [number for number in (*shape, offset) if type(number) is int and number >= 0]
            sound = isinstance(name, str) and dtype.str == code and dtype.kind in _KINDS and dtype.itemsize > 0
            if not sound or len(whole) != len(shape) + 1:
                raise ValueError(f"entry {len(index)} is not one of an array")
            if start + offset + math.prod(shape) * dtype.itemsize > file.length:
                raise ValueError(f"{name!r} reaches beyond the end")
            np.broadcast_to(np.zeros((), dtype), shape)  # numpy's own limits of a shape, without the memory
            index[name] = (dtype, shape, offset)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        # Authentic, so written by a holder of the key, but not by write_arrays.
        raise EncryptionError(f"{path} does not hold arrays as write_arrays writes them ({error})") from error
    return index, start
