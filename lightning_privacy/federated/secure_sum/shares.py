"""Secrets cut into shares, of which so many are needed to have it back.

Shamir, "How to Share a Secret", 1979, in the implementation of ``pycryptodome`` over GF(2^128): a secret of 256 bits
is shared in two halves.

Example:
    >>> from lightning_privacy.federated.secure_sum.shares import combine, split
    >>> parts = split(bytes(range(32)), threshold=2, count=3)
    >>> combine({1: parts[0], 3: parts[2]}, threshold=2) == bytes(range(32))
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.federated.secure_sum.masks import SEED_BYTES

__all__ = ["combine", "split"]

_HALF = SEED_BYTES // 2


def _shamir() -> Any:
    try:
        from Crypto.Protocol.SecretSharing import Shamir
    except ImportError as error:
        raise ConfigurationError(
            "a secure sum shares its secrets with pycryptodome, which is not installed: "
            "pip install 'lightning-privacy[secure-sum]'"
        ) from error
    return Shamir


def split(secret: bytes, *, threshold: int, count: int) -> list[bytes]:
    """Cut a secret into shares.

    Args:
        secret: 32 bytes.
        threshold: how many shares give it back; fewer tell nothing.
        count: how many shares there are.

    Returns:
        The shares for the numbers 1 to ``count``, 32 bytes each.

    Raises:
        ConfigurationError: pycryptodome is missing, or the secret has another length.
    """
    if len(secret) != SEED_BYTES:
        raise ConfigurationError(f"secret must have {SEED_BYTES} bytes, got {len(secret)}")
    halves = [_shamir().split(threshold, count, half) for half in (secret[:_HALF], secret[_HALF:])]
    return [bytes(first[1]) + bytes(second[1]) for first, second in zip(*halves, strict=True)]


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """Put a secret together again.

    Args:
        shares: share by number.
        threshold: how many are needed.

    Returns:
        32 bytes; wrong ones if a share is, so check them.

    Raises:
        PrivacyViolation: there are fewer shares, or one has another length.
    """
    if len(shares) < threshold:
        raise PrivacyViolation(
            f"a secret of the secure sum needs {threshold} shares, and {len(shares)} came: too many parties dropped out"
        )
    if any(len(share) != SEED_BYTES for share in shares.values()):
        raise PrivacyViolation(f"a share of the secure sum doesn't have {SEED_BYTES} bytes: a message was changed")
    used = sorted(shares.items())[:threshold]
    halves = (
        _shamir().combine([(number, share[part : part + _HALF]) for number, share in used]) for part in (0, _HALF)
    )
    return b"".join(bytes(half) for half in halves)
