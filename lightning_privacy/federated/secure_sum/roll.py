"""What all parties of a secure sum agree on, and what binds their messages to it.

Example:
    >>> from lightning_privacy.federated.secure_sum.roll import Roll
    >>> roll = Roll(parties=(2, 5, 9), threshold=2, session=b"round 4")
    >>> roll.share_number(5)
    2
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError, PrivacyViolation

__all__ = ["Roll", "default_threshold"]


def default_threshold(parties: int) -> int:
    """More than two thirds, and not everybody where that can be helped: up to a third may drop out or look on."""
    return 2 * parties // 3 + 1 if parties > 2 else parties


@dataclass(frozen=True)
class Roll:
    """Who takes part, how many are needed, and in what.

    Args:
        parties: their numbers, distinct, in increasing order, at least two.
        threshold: how many must stay to the end; more than half, so that no two lists of survivors that have too
            little in common can both be unmasked.
        session: names the sum; no two sums of the same parties may share it.

    Raises:
        ConfigurationError: there are too few parties, one twice, or the threshold does not fit.

    Example:
        >>> Roll(parties=(0, 1, 2, 3), threshold=2, session=b"x")
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.ConfigurationError: threshold must be above half of the 4 parties ... got 2
    """

    parties: tuple[int, ...]
    threshold: int
    session: bytes

    def __post_init__(self) -> None:
        count = len(self.parties)
        if list(self.parties) != sorted(set(self.parties)) or any(party < 0 for party in self.parties):
            raise ConfigurationError(f"parties must be distinct numbers in increasing order, got {self.parties!r}")
        if count < 2:
            raise ConfigurationError(
                f"a secure sum needs at least 2 parties, got {count}: the sum of one is its vector"
            )
        positive_int(threshold=self.threshold)
        if not count < 2 * self.threshold <= 2 * count:
            raise ConfigurationError(
                f"threshold must be above half of the {count} parties and at most all, got {self.threshold}"
            )

    def share_number(self, party: int) -> int:
        """The number of a party's shares, from 1."""
        return self.parties.index(party) + 1

    def pair(self, purpose: bytes, one: int, two: int) -> bytes:
        """What a seed of two parties is bound to; the order of the two matters."""
        return b"|".join((purpose, self.session, b"%d" % one, b"%d" % two))

    def check_known(self, parties: Iterable[int]) -> None:
        """Refuse messages of somebody else.

        Raises:
            PrivacyViolation: one is no party.
        """
        strangers = sorted(set(parties) - set(self.parties))
        if strangers:
            raise PrivacyViolation(f"messages of {strangers} came to a secure sum of {list(self.parties)}")

    def check_enough(self, parties: Iterable[int], what: str) -> None:
        """Refuse to go on with fewer than the threshold.

        Raises:
            PrivacyViolation: too many dropped out.
        """
        count = len(set(parties))
        if count < self.threshold:
            raise PrivacyViolation(
                f"{count} of {len(self.parties)} parties {what}, and the threshold of this secure sum is "
                f"{self.threshold}: too many dropped out, and nothing can be unmasked. Draw more clients, or set a "
                "lower threshold"
            )
