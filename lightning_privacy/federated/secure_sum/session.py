"""Secure sums in a simulation: all parties and the server on one machine, message by message.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.secure_sum import SecureSum
    >>> session = SecureSum().open([3, 4, 8])
    >>> session.submit(3, torch.tensor([1.0, 2.0]))
    >>> session.submit(4, torch.tensor([0.5, -1.0]))
    >>> session.submit(8, torch.tensor([0.25, 0.0]))
    >>> session.close()
    tensor([1.7500, 1.0000], dtype=torch.float64)
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.federated.aggregation import Aggregator
from lightning_privacy.federated.secure_sum.collector import Collector
from lightning_privacy.federated.secure_sum.fixed_point import FixedPoint
from lightning_privacy.federated.secure_sum.party import Party
from lightning_privacy.federated.secure_sum.roll import Roll, default_threshold

__all__ = ["SecureSum", "SecureSumSession"]


@dataclass(frozen=True)
class SecureSum:
    """How vectors are summed so that the server sees no vector but the sum.

    Args:
        threshold: parties that must stay to the end; None takes more than two thirds of the cohort.
        code: how numbers are made whole; the sum is that of the rounded vectors, bit for bit.

    Raises:
        ConfigurationError: the threshold is not a whole number of at least 1.

    Example:
        >>> SecureSum(threshold=2).open([0, 1, 2]).parties
        (0, 1, 2)
    """

    threshold: int | None = None
    code: FixedPoint = field(default_factory=FixedPoint)

    def __post_init__(self) -> None:
        if self.threshold is not None:
            positive_int(threshold=self.threshold)

    def check(self, aggregator: Aggregator) -> None:
        """Refuse an aggregator that needs to see more than a sum.

        Args:
            aggregator: the run's.

        Raises:
            ConfigurationError: it is not a mean.
        """
        if not aggregator.linear:
            raise ConfigurationError(
                f"aggregator {aggregator!r} compares the clients' deltas one by one, and a secure sum shows their sum "
                "only: use WeightedMean(), or leave the secure sum out"
            )

    def open(self, cohort: Iterable[int]) -> SecureSumSession:
        """Start the sum of a round: keys are agreed on and secrets shared.

        Args:
            cohort: the parties; those who drop out before this point are left out of it.

        Raises:
            ConfigurationError: there are fewer than two, the threshold doesn't fit, the sum may not fit in 63 bits, or
                pycryptodome is not installed.
        """
        parties = tuple(sorted(set(cohort)))
        threshold = default_threshold(len(parties)) if self.threshold is None else self.threshold
        roll = Roll(parties=parties, threshold=threshold, session=secrets.token_bytes(16))
        self.code.check(len(parties))
        return SecureSumSession(roll, self.code)


class SecureSumSession:
    """One sum. Vectors come in any order; who never submits has dropped out.

    Memory is that of a few vectors, whatever the number of parties.

    Args:
        roll: who takes part.
        code: how numbers are made whole.
    """

    def __init__(self, roll: Roll, code: FixedPoint) -> None:
        self._roll = roll
        self._code = code
        self._parties = {number: Party(number, roll) for number in roll.parties}
        self._keys = {number: party.advertise() for number, party in self._parties.items()}
        shared = {number: party.share(self._keys) for number, party in self._parties.items()}
        self._sealed = {
            number: {sender: messages[number] for sender, messages in shared.items() if sender != number}
            for number in roll.parties
        }
        self._collector: Collector | None = None
        self._closed = False

    @property
    def parties(self) -> tuple[int, ...]:
        """Who takes part."""
        return self._roll.parties

    def submit(self, number: int, vector: Tensor) -> None:
        """Mask the vector of a party and add it to the sum.

        Args:
            number: of the party.
            vector: shape ``(P,)``, the same P for all.

        Raises:
            PrivacyViolation: it is no party, submitted before, the lengths differ, or the session is closed.
            ConfigurationError: an entry is not finite or too large.
        """
        if self._closed:
            raise PrivacyViolation("this secure sum is closed: open another for the next round")
        self._roll.check_known([number])
        words = self._code.encode(vector)
        if self._collector is None:
            self._collector = Collector(self._roll, self._keys, list(self._roll.parties), len(words))
        masked = self._parties[number].mask(words, self._sealed[number])
        self._collector.add(number, masked)

    def close(self, silent: Collection[int] = ()) -> Tensor:
        """Unmask the sum of all that was submitted.

        Args:
            silent: parties that submitted, and then don't answer any more. Their vectors are in the sum.

        Returns:
            Shape ``(P,)``, float64, on the CPU.

        Raises:
            PrivacyViolation: fewer than the threshold submitted or answer, or the session was closed before.
        """
        if self._closed:
            raise PrivacyViolation("this secure sum is closed: its masks can be taken off once")
        self._closed = True
        survivors = [] if self._collector is None else self._collector.survivors
        self._roll.check_enough(survivors, "sent their vectors")
        if self._collector is None:
            raise PrivacyViolation("no vector was submitted to this secure sum")
        for number in survivors:
            if number not in silent:
                self._collector.add_shares(number, self._parties[number].reveal(survivors))
        return self._code.decode(self._collector.unmask(), count=len(survivors))
