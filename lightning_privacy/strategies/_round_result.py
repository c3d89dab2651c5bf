"""What is known after a round: of the round, and of each client that was drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["ClientReport", "RoundResult"]


@dataclass
class ClientReport:
    """What is known of one client after a round.

    Args:
        client: Its number.
        num_examples: Size of its data set.
        failure: Why its update was not used; None where it was.
        num_steps: Optimizer steps it took.
        loss: Mean loss of its local training.
        seconds: Its local training took.
        figures: Further ones, by name: norm of the delta, bytes sent.
    """

    client: int
    num_examples: int
    failure: str | None = None
    num_steps: int = 0
    loss: float = math.nan
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class RoundResult:
    """What the server steps along, and what is known of the round.

    Args:
        aggregate: Shape ``(P,)``.
        increments: Of the model's counters.
        cohort: Clients that were drawn.
        clients: Reports in order of client, of those that were drawn and had something left to spend.
        loss: Mean over the received clients, by weight; NaN without any.
        figures: Of the round, by name.
    """

    aggregate: Tensor
    increments: list[float]
    cohort: list[int]
    clients: list[ClientReport]
    loss: float
    figures: dict[str, float]
