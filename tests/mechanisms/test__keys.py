"""Secret bytes, against the construction of RFC 5869 written out with ``hmac``."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from lightning_privacy.mechanisms._keys import secret


def expected(material: bytes, info: bytes, length: int) -> bytes:
    extracted = hmac.new(bytes(32), material, hashlib.sha256).digest()
    found, block = b"", b""
    while len(found) < length:
        block = hmac.new(extracted, block + info + bytes([len(found) // 32 + 1]), hashlib.sha256).digest()
        found += block
    return found[:length]


@pytest.mark.parametrize(
    ("seed", "material"),
    [(0, b"\x00"), (1, b"\x01"), (255, b"\xff"), (256, b"\x01\x00"), (2**70 + 3, b"\x40" + bytes(7) + b"\x03")],
    ids=["zero", "one", "one byte", "two bytes", "nine bytes"],
)
@pytest.mark.parametrize("length", [8, 32, 70])
def test_a_seeded_secret_is_that_of_rfc_5869(seed: int, material: bytes, length: int) -> None:
    assert secret(seed, "a use", length) == expected(material, b"lightning_privacy noise: a use", length)


def test_seeds_and_purposes_have_secrets_of_their_own() -> None:
    found = [secret(seed, purpose, 16) for seed in range(8) for purpose in ("", "one", "other")]
    assert len(set(found)) == len(found) == 24


def test_p25_a_secret_without_a_seed_is_new_each_time() -> None:
    """Two of 20 are equal with probability below 2**-120."""
    found = [secret(None, "a use", 16) for _ in range(20)]
    assert len(set(found)) == 20
    assert {len(one) for one in found} == {16}
