"""Small grey pictures as PNG, in the text of a page.

Example:
    >>> data_uri([[0.0, 1.0]])[:22]
    'data:image/png;base64,'
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

__all__ = ["data_uri"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_8_BIT = bytes([8, 0, 0, 0, 0])


def data_uri(rows: Sequence[Sequence[float]]) -> str:
    """A picture as an address that holds it (PNG, 3rd edition, W3C 2025; RFC 2397).

    Args:
        rows: Brightness from 0 (black) to 1, at least one row of at least one value, all of one length.
    """
    lines = b"".join(b"\0" + bytes(round(255 * min(max(value, 0.0), 1.0)) for value in row) for row in rows)
    header = struct.pack(">II", len(rows[0]), len(rows)) + _GREY_8_BIT
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    image = _SIGNATURE + b"".join(_chunk(*part) for part in parts)
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
