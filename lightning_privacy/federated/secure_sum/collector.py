"""The server of a secure sum: adds up masked vectors and takes the masks off the sum."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.federated.secure_sum.fixed_point import Words
from lightning_privacy.federated.secure_sum.masks import add_mask, agree, commitment, public_bytes
from lightning_privacy.federated.secure_sum.party import KEYS_BYTES, MASK_KEY
from lightning_privacy.federated.secure_sum.roll import Roll
from lightning_privacy.federated.secure_sum.shares import combine

__all__ = ["Collector"]


class Collector:
    """Keeps one running sum, whatever the number of parties.

    Args:
        roll: what all agreed on.
        keys: what the parties advertised.
        sharers: parties that shared their secrets; every vector carries a mask for each of them.
        length: P, entries of a vector.

    Raises:
        PrivacyViolation: too few advertised or shared.

    Example:
        >>> roll = Roll(parties=(0, 1), threshold=2, session=b"demo")
        >>> Collector(roll, keys={0: bytes(96)}, sharers=[0], length=3)
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.PrivacyViolation: 1 of 2 parties shared their secrets, and the threshold ...
    """

    def __init__(self, roll: Roll, keys: Mapping[int, bytes], sharers: list[int], length: int) -> None:
        roll.check_known(keys)
        if set(sharers) - set(keys):
            raise PrivacyViolation("parties shared secrets that advertised no keys")
        roll.check_enough(sharers, "shared their secrets")
        self._roll = roll
        self._keys = dict(keys)
        self._sharers = sorted(sharers)
        self._total: Words = np.zeros(length, dtype=np.uint64)
        self._survivors: list[int] = []
        self._shares: dict[int, dict[int, bytes]] = {}

    @property
    def survivors(self) -> list[int]:
        """Parties whose vectors are in the sum, in increasing order."""
        return sorted(self._survivors)

    def add(self, party: int, masked: Words) -> None:
        """Add a masked vector to the sum.

        Raises:
            PrivacyViolation: the party is not one that shared, sent one before, or the vector has another length.
        """
        if party not in self._sharers or party in self._survivors:
            raise PrivacyViolation(f"a vector of party {party} came twice, or without its secrets shared before")
        if masked.shape != self._total.shape:
            raise PrivacyViolation(
                f"the vector of party {party} has {masked.size} entries, and this secure sum {self._total.size}"
            )
        self._total += masked
        self._survivors.append(party)

    def add_shares(self, party: int, shares: Mapping[int, bytes]) -> None:
        """Take in what a party revealed."""
        self._roll.check_known([party])
        self._shares[party] = dict(shares)

    def unmask(self) -> Words:
        """Take the masks off the sum.

        Returns:
            Shape ``(P,)``: the sum of the survivors' vectors modulo 2^64.

        Raises:
            PrivacyViolation: too few vectors or shares came, or a share was changed.
        """
        self._roll.check_enough(self._survivors, "sent their vectors")
        self._roll.check_enough(self._shares, "revealed their shares")
        total = self._total.copy()
        for party in self._sharers:
            shares = {
                self._roll.share_number(holder): revealed[party]
                for holder, revealed in self._shares.items()
                if party in revealed
            }
            secret = combine(shares, threshold=self._roll.threshold)
            if party in self._survivors:
                if commitment(secret) != self._keys[party][2 * len(secret) : KEYS_BYTES]:
                    raise _tampered(party)
                add_mask(total, secret, negative=True)
            else:
                self._without(total, party, X25519PrivateKey.from_private_bytes(secret))
        return total

    def _without(self, total: Words, lost: int, key: X25519PrivateKey) -> None:
        """Take off the masks that the survivors share with a party whose vector is not in the sum."""
        if public_bytes(key) != self._keys[lost][MASK_KEY]:
            raise _tampered(lost)
        for party in self._survivors:
            purpose = self._roll.pair(b"mask", *sorted((lost, party)))
            # The survivor added its mask where the other's number is higher.
            add_mask(total, agree(key, self._keys[party][MASK_KEY], purpose), negative=lost > party)


def _tampered(party: int) -> PrivacyViolation:
    return PrivacyViolation(
        f"the secret of party {party} that its shares give is not the one it committed to: a share was changed, and "
        "the sum can't be unmasked"
    )
