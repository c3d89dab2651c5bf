"""Secret bytes: from the operating system, or from a seed, where whoever knows the seed knows them.

Example:
    >>> secret(7, "normals", 16) == secret(7, "normals", 16), secret(None, "normals", 16) == secret(None, "normals", 16)
    (True, False)
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["secret"]


def secret(seed: int | None, purpose: str, length: int) -> bytes:
    """Return bytes that depend on ``seed`` and ``purpose`` only (HKDF, RFC 5869), or new ones from the system.

    Args:
        seed: a whole number >= 0, or None for bytes that nobody can predict.
        purpose: names the use, so that two uses of one seed get unrelated bytes.
        length: how many.
    """
    if seed is None:
        return os.urandom(length)
    material = seed.to_bytes(max(1, (seed.bit_length() + 7) // 8), "big")
    info = b"lightning_privacy noise: " + purpose.encode()
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(material)
