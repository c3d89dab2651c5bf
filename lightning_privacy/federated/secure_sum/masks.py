"""The cryptography behind the masks: agreed keys, seeds of 256 bits, and streams of words.

X25519 (RFC 7748), HKDF with SHA-256 (RFC 5869), AES-256 in counter mode and AES-256-GCM, all from ``cryptography``.

Example:
    >>> from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    >>> from lightning_privacy.federated.secure_sum.masks import agree, public_bytes
    >>> one, two = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    >>> agree(one, public_bytes(two), b"demo") == agree(two, public_bytes(one), b"demo")
    True
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.federated.secure_sum.fixed_point import Words

__all__ = ["SEED_BYTES", "add_mask", "agree", "commitment", "decrypt", "encrypt", "public_bytes"]

SEED_BYTES = 32
"""Bytes of every seed and key: 256 bits."""

_CHUNK = 1 << 17  # words of a mask made at once: 1 MB
_NONCE_BYTES = 12


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The public half of a key: 32 bytes."""
    return key.public_key().public_bytes_raw()


def agree(own: X25519PrivateKey, other: bytes, purpose: bytes) -> bytes:
    """A seed that two parties share and nobody else can compute.

    Args:
        own: the private key of one.
        other: the public key of the other, 32 bytes.
        purpose: what the seed is for; other purposes have independent seeds.

    Returns:
        32 bytes.

    Raises:
        PrivacyViolation: the public key is none, or one with which the secret would be known to all.
    """
    try:
        secret = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise PrivacyViolation(f"a public key of the secure sum is not usable: {error}") from error
    material = HKDF(algorithm=hashes.SHA256(), length=SEED_BYTES, salt=None, info=b"secure sum: " + purpose)
    return material.derive(secret)


def commitment(seed: bytes) -> bytes:
    """A digest from which a seed of 256 random bits can't be found, and with which it can be checked."""
    return hashlib.sha256(b"secure sum, seed of an own mask: " + seed).digest()


def add_mask(words: Words, seed: bytes, *, negative: bool = False) -> None:
    """Add the stream of a seed to a vector modulo 2^64, in place, or take it away.

    Args:
        words: shape ``(P,)``, contiguous.
        seed: 32 bytes, used for one vector only.
        negative: take it away.

    Raises:
        ConfigurationError: the seed has another length: a short one could be searched.
    """
    if len(seed) != SEED_BYTES:
        raise ConfigurationError(f"seed must have {SEED_BYTES} bytes, got {len(seed)}: a shorter one can be searched")
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    combine = np.subtract if negative else np.add
    zeros = bytes(8 * min(_CHUNK, len(words)))
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK]
        mask = np.frombuffer(stream.update(zeros[: 8 * len(part)]), dtype="<u8")
        combine(part, mask, out=part)


def encrypt(key: bytes, message: bytes, header: bytes) -> bytes:
    """Encrypt a message so that nobody can read it, or change it or its header unnoticed.

    Args:
        key: 32 bytes.
        message: any bytes.
        header: what the message is bound to, such as sender and receiver; not sent.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, message, header)


def decrypt(key: bytes, sealed: bytes, header: bytes) -> bytes:
    """Decrypt what :func:`encrypt` made.

    Raises:
        PrivacyViolation: message or header were changed, or the key is another.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], header)
    except (InvalidTag, ValueError) as error:
        raise PrivacyViolation(
            "a share of the secure sum was changed on its way, or is not from who it is said to be from"
        ) from error
