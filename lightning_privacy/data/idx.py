"""Reads the idx format of MNIST and its siblings, plain or gzip-compressed, and never writes.

The format (Y. LeCun, "The MNIST database", section "File formats"): two zero bytes, a type code, the number
of dimensions, each dimension as a big-endian 32-bit number, then the values.

Example:
    >>> import gzip, pathlib, tempfile
    >>> from lightning_privacy.data.idx import read_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte.gz")
    ...     _ = path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1])))
    ...     read_idx(path)
    tensor([7, 2, 1], dtype=torch.uint8)
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch

from lightning_privacy.errors import ConfigurationError

__all__ = ["find_idx", "read_idx"]

_UNSIGNED_BYTE = 0x08
_HEADER = 4
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path) -> torch.Tensor:
    """Read one file of unsigned bytes.

    Args:
        path: The file; whether it is compressed is seen from its first bytes.

    Returns:
        A uint8 tensor of the shape the header gives.

    Raises:
        ConfigurationError: The file is not idx of unsigned bytes, or is cut short; the message names it.
    """
    content = path.read_bytes()
    if content[:2] == _GZIP_MAGIC:
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ConfigurationError(f"{path} is not a complete gzip file ({error}): fetch it again") from error
    if len(content) < _HEADER or content[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise ConfigurationError(f"{path} is not an idx file of unsigned bytes: check data.root")
    dimensions = content[3]
    start = _HEADER + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[_HEADER:start]) if len(content) >= start else (0,)
    if len(content) != start + math.prod(shape):
        raise ConfigurationError(
            f"{path} has {len(content)} bytes where its header announces {start + math.prod(shape)}: fetch it again"
        )
    # A bytearray, since torch warns about tensors over memory it must not write to.
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).reshape(shape)


def find_idx(folders: list[Path], name: str) -> Path | None:
    """The file ``name``, plain or with ``.gz``, in the first folder that has it; ``None`` if none has."""
    candidates = (folder / file for folder in folders for file in (name, f"{name}.gz"))
    return next((path for path in candidates if path.is_file()), None)
