"""Simulated failures: what a server has to live with, on purpose and reproducibly.

A client may be away, take too long, send numbers that are no numbers, or raise. Which, if any, is a pure function of
(seed, round, client) and the client's number of batches, so a run with failures can be repeated and resumed like any
other.

Example:
    >>> from lightning_privacy.federated.failures import SimulatedFailures
    >>> failures = SimulatedFailures(dropout=0.2, stragglers=1.0, deadline=20.0)
    >>> outcome = failures.outcome(seed=0, round_number=3, client=7, num_batches=10)
    >>> outcome == failures.outcome(seed=0, round_number=3, client=7, num_batches=10)
    True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lightning_privacy._validate import non_negative, non_negative_int, positive
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.keyed import numpy_generator

__all__ = ["ClientOutcome", "Failure", "SimulatedClientError", "SimulatedFailures"]

Failure = Literal["dropout", "error", "late", "nan"]


class SimulatedClientError(RuntimeError):
    """What a client raises that fails on purpose."""


@dataclass(frozen=True)
class ClientOutcome:
    """What becomes of one client in one round.

    Attributes:
        failure: ``"dropout"``: it never answers; ``"error"``: it raises; ``"late"``: its update comes after the
            deadline and is not used; ``"nan"``: its update holds NaN; None: all is well.
        seconds: Simulated duration of its local training.

    Example:
        >>> ClientOutcome("late", 31.5).sends_nothing
        True
    """

    failure: Failure | None
    seconds: float

    def __post_init__(self) -> None:
        if self.failure is not None and self.failure not in get_args(Failure):
            raise ConfigurationError(f"failure must be None or one of {get_args(Failure)}, got {self.failure!r}")

    @property
    def sends_nothing(self) -> bool:
        """Whether the server gets no update it could look at, so that training the client would be wasted."""
        return self.failure in ("dropout", "late")


@dataclass(frozen=True)
class SimulatedFailures:
    """Clients that fail with given probabilities and train at given speeds.

    At most one of ``dropout``, ``error`` and ``nan`` befalls a client in a round, each with exactly its probability,
    independently over clients and rounds. A client that neither drops out nor raises is late when its simulated
    duration is above the deadline, also where its update would have been NaN.

    The duration is the number of batches times ``seconds_per_batch`` times the client's slowness, which is lognormal
    with median 1 and belongs to the device: it is the same in every round.

    Args:
        dropout: Probability that a client never answers.
        stragglers: Standard deviation of the logarithm of the clients' slowness; 0 for equally fast clients, 1 for
            one client in six more than 2.7 times as slow as the median.
        deadline: Simulated seconds the server waits; None: for ever.
        nan: Probability that a client's update is NaN.
        error: Probability that a client raises :class:`SimulatedClientError`.
        seconds_per_batch: Simulated seconds for a batch on the median client.

    Raises:
        ConfigurationError: A probability is outside 0 to 1, they sum to more than 1, or another argument is out of
            range.

    Example:
        >>> SimulatedFailures(dropout=1.0).outcome(seed=0, round_number=0, client=0, num_batches=1).failure
        'dropout'
    """

    dropout: float = 0.0
    stragglers: float = 0.0
    deadline: float | None = None
    nan: float = 0.0
    error: float = 0.0
    seconds_per_batch: float = 1.0

    def __post_init__(self) -> None:
        total = non_negative(dropout=self.dropout) + non_negative(nan=self.nan) + non_negative(error=self.error)
        if total > 1:
            raise ConfigurationError(f"dropout + nan + error must be at most 1, got {total!r}")
        non_negative(stragglers=self.stragglers)
        positive(seconds_per_batch=self.seconds_per_batch)
        if self.deadline is not None:
            positive(deadline=self.deadline)

    def seconds(self, seed: int, client: int, num_batches: int) -> float:
        """Simulated duration of a client's local training of ``num_batches`` batches."""
        duration = non_negative_int(num_batches=num_batches) * self.seconds_per_batch
        if self.stragglers:
            duration *= float(numpy_generator(seed, "slowness", client).lognormal(0.0, self.stragglers))
        return duration

    def outcome(self, seed: int, round_number: int, client: int, num_batches: int) -> ClientOutcome:
        """What becomes of a client in a round.

        Args:
            seed: The run's seed, a whole number >= 0.
            round_number: The round, from 0.
            client: Number of the client, from 0.
            num_batches: Batches of its local training, over all local epochs.
        """
        seconds = self.seconds(seed, client, num_batches)
        chance = float(numpy_generator(seed, "failure", round_number, client).random())
        if chance < self.dropout:
            return ClientOutcome("dropout", seconds)
        if chance < self.dropout + self.error:
            return ClientOutcome("error", seconds)
        if self.deadline is not None and seconds > self.deadline:
            return ClientOutcome("late", seconds)
        if chance < self.dropout + self.error + self.nan:
            return ClientOutcome("nan", seconds)
        return ClientOutcome(None, seconds)
