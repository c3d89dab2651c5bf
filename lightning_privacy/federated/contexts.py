"""What a step of the pipeline may know: about the client it runs on, about the round on the server.

Everything random is keyed by what stands here, (seed, round, client), and never drawn from a global generator.

Example:
    >>> from lightning_privacy.federated.contexts import ClientContext
    >>> context = ClientContext(seed=0, round_number=4, client=7, num_examples=50)
    >>> context.log["bytes"] = 200.0
    >>> context.memory
    {}
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["ClientContext", "RoundContext"]


@dataclass
class ClientContext:
    """One client in one round.

    Args:
        seed: seed of the run.
        round_number: the round, from 0.
        client: number of the client, from 0.
        num_examples: size of the client's data set.
        memory: what the client keeps from round to round, such as the error of a compression; goes in the checkpoint.
        log: figures of this client and round, by name: ``bytes`` sent, ``dense_bytes`` they stand for.

    Example:
        >>> ClientContext(seed=0, round_number=0, client=1, num_examples=5).log
        {}
    """

    seed: int
    round_number: int
    client: int
    num_examples: int
    memory: dict[str, Tensor] = field(default_factory=dict)
    log: dict[str, float] = field(default_factory=dict)


@dataclass
class RoundContext:
    """One round, as the server sees it.

    Args:
        seed: seed of the run.
        round_number: the round, from 0.
        cohort_size: clients that were drawn.
        expected_cohort_size: how many are drawn on average.
        num_received: clients whose update arrived and was usable.
        log: figures of this round, by name.

    Example:
        >>> RoundContext(seed=0, round_number=2, cohort_size=9, expected_cohort_size=10.0, num_received=8).num_received
        8
    """

    seed: int
    round_number: int
    cohort_size: int
    expected_cohort_size: float
    num_received: int
    log: dict[str, float] = field(default_factory=dict)
