"""One party of a secure sum: what a client does, message by message."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.federated.secure_sum.fixed_point import Words
from lightning_privacy.federated.secure_sum.masks import (
    SEED_BYTES,
    add_mask,
    agree,
    commitment,
    decrypt,
    encrypt,
    public_bytes,
)
from lightning_privacy.federated.secure_sum.roll import Roll
from lightning_privacy.federated.secure_sum.shares import split

__all__ = ["KEYS_BYTES", "MASK_KEY", "Party"]

KEYS_BYTES = 3 * SEED_BYTES
"""Bytes of what a party advertises: key of its shares, key of its masks, commitment to its own mask."""

MASK_KEY = slice(SEED_BYTES, 2 * SEED_BYTES)
_SHARE_KEY = slice(0, SEED_BYTES)


class Party:
    """Makes a party's messages: :meth:`advertise`, :meth:`share`, :meth:`mask`, :meth:`reveal`, each once.

    All secrets are drawn from the operating system, here, and never leave but in shares.

    Args:
        number: of this party.
        roll: what all agreed on.

    Example:
        >>> import numpy as np
        >>> roll = Roll(parties=(0, 1), threshold=2, session=b"demo")
        >>> parties = {number: Party(number, roll) for number in roll.parties}
        >>> keys = {number: party.advertise() for number, party in parties.items()}
        >>> sealed = {number: party.share(keys) for number, party in parties.items()}
        >>> masked = []
        >>> for number, party in parties.items():
        ...     to_me = {sender: messages[number] for sender, messages in sealed.items() if number in messages}
        ...     masked.append(party.mask(np.array([5], dtype=np.uint64), to_me))
        >>> bool(masked[0] == 5)  # the own mask hides it, and the pair masks
        False
    """

    def __init__(self, number: int, roll: Roll) -> None:
        roll.check_known([number])
        self.number = number
        self._roll = roll
        self._share_key = X25519PrivateKey.generate()
        self._mask_key = X25519PrivateKey.generate()
        self._own_seed = secrets.token_bytes(SEED_BYTES)
        self._keys: dict[int, bytes] = {}
        self._own_shares: bytes | None = None
        self._sealed: dict[int, bytes] | None = None
        self._revealed = False

    def advertise(self) -> bytes:
        """First message, to all: two public keys and a commitment; 96 bytes."""
        return public_bytes(self._share_key) + public_bytes(self._mask_key) + commitment(self._own_seed)

    def share(self, keys: Mapping[int, bytes]) -> dict[int, bytes]:
        """Second message: to each other party a share of the two secrets, which only it can read.

        Args:
            keys: what each party advertised, this one included.

        Raises:
            PrivacyViolation: there are too few, an unknown one, one of the wrong length, or two that are equal.
        """
        if self._keys:
            raise PrivacyViolation("a party of a secure sum shares its secrets once")
        self._roll.check_known(keys)
        self._roll.check_enough(keys, "advertised their keys")
        if any(len(key) != KEYS_BYTES for key in keys.values()) or len(set(keys.values())) != len(keys):
            raise PrivacyViolation("advertised keys of a secure sum have the wrong length, or two are equal")
        if keys.get(self.number) != self.advertise():
            raise PrivacyViolation(f"party {self.number} was advertised with keys that are not its own")
        self._keys = dict(keys)
        count, threshold = len(self._roll.parties), self._roll.threshold
        mask_parts = split(self._mask_key.private_bytes_raw(), threshold=threshold, count=count)
        seed_parts = split(self._own_seed, threshold=threshold, count=count)
        messages = {}
        for party in keys:
            place = self._roll.share_number(party) - 1
            both = mask_parts[place] + seed_parts[place]
            if party == self.number:
                self._own_shares = both
                continue
            header = self._roll.pair(b"share", self.number, party)
            messages[party] = encrypt(agree(self._share_key, keys[party][_SHARE_KEY], header), both, header)
        return messages

    def mask(self, words: Words, sealed: Mapping[int, bytes]) -> Words:
        """Third message: the vector under its own mask and one for each party that shared its secrets.

        Args:
            words: shape ``(P,)``, not changed.
            sealed: the second messages to this party, by sender.

        Returns:
            Shape ``(P,)``.

        Raises:
            PrivacyViolation: too few parties shared their secrets, or it was done before.
        """
        if self._own_shares is None or self._sealed is not None:
            raise PrivacyViolation("a party of a secure sum masks one vector, after it shared its secrets")
        if set(sealed) - (set(self._keys) - {self.number}):
            raise PrivacyViolation("shares came from parties that advertised no keys")
        self._roll.check_enough([self.number, *sealed], "shared their secrets")
        self._sealed = dict(sealed)
        masked = words.copy()
        add_mask(masked, self._own_seed)
        for party in sealed:
            purpose = self._roll.pair(b"mask", *sorted((self.number, party)))
            seed = agree(self._mask_key, self._keys[party][MASK_KEY], purpose)
            add_mask(masked, seed, negative=party < self.number)
        return masked

    def reveal(self, survivors: Collection[int]) -> dict[int, bytes]:
        """Last message: for each who stayed the share of its own mask, for each who didn't that of its mask key.

        Never both of one party: with both, its vector could be unmasked alone. So this answers once.

        Args:
            survivors: parties whose masked vectors arrived.

        Returns:
            A share of 32 bytes for each party that had shared its secrets.

        Raises:
            PrivacyViolation: it answered before, the survivors are too few or others than those who shared, or a share
                was changed on its way.
        """
        if self._sealed is None or self._own_shares is None or self._revealed:
            raise PrivacyViolation(
                f"party {self.number} was asked twice to reveal shares, or before it masked: two answers for different "
                "survivors would unmask a single vector"
            )
        stayed = set(survivors)
        if stayed - {self.number, *self._sealed}:
            raise PrivacyViolation("survivors of a secure sum include parties that never shared their secrets")
        self._roll.check_enough(stayed, "sent their vectors")
        self._revealed = True
        answer = {}
        for party in sorted({self.number, *self._sealed}):
            both = self._own_shares if party == self.number else self._opened(party, self._sealed[party])
            answer[party] = both[SEED_BYTES:] if party in stayed else both[:SEED_BYTES]
        return answer

    def _opened(self, sender: int, sealed: bytes) -> bytes:
        header = self._roll.pair(b"share", sender, self.number)
        both = decrypt(agree(self._share_key, self._keys[sender][_SHARE_KEY], header), sealed, header)
        if len(both) != 2 * SEED_BYTES:
            raise PrivacyViolation(f"the shares of party {sender} have the wrong length")
        return both
