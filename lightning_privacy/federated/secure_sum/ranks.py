"""Secure sums between processes or machines: the same protocol, with the messages as bytes through a given function.

Example:
    >>> import threading, torch
    >>> from lightning_privacy.federated.secure_sum import sum_over_ranks
    >>> boxes, barrier = {}, threading.Barrier(3)
    >>> def exchange_of(rank):
    ...     def exchange(messages):
    ...         boxes[rank] = messages
    ...         barrier.wait()
    ...         received = {sender: boxes[sender][rank] for sender in range(3) if rank in boxes[sender]}
    ...         barrier.wait()
    ...         return received
    ...     return exchange
    >>> sums = {}
    >>> def work(rank):
    ...     sums[rank] = sum_over_ranks(torch.tensor([1.0 + rank]), rank, 3, exchange_of(rank), session=b"round 0")
    >>> threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    >>> for thread in threads: thread.start()
    >>> for thread in threads: thread.join()
    >>> sums[2]
    tensor([6.], dtype=torch.float64)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.federated.secure_sum.collector import Collector
from lightning_privacy.federated.secure_sum.fixed_point import FixedPoint, Words
from lightning_privacy.federated.secure_sum.masks import SEED_BYTES
from lightning_privacy.federated.secure_sum.party import Party
from lightning_privacy.federated.secure_sum.roll import Roll, default_threshold

__all__ = ["Exchange", "sum_over_ranks"]

Exchange = Callable[[Mapping[int, bytes]], Mapping[int, bytes]]
"""Sends a message to each rank that is a key, and returns what each rank sent to this one.

Called by all ranks together; a rank that does not answer any more is missing in what it returns.
"""


def sum_over_ranks(
    vector: Tensor,
    rank: int,
    world_size: int,
    exchange: Exchange,
    *,
    session: bytes,
    threshold: int | None = None,
    code: FixedPoint | None = None,
    server: int = 0,
) -> Tensor:
    """The sum of the vectors of all ranks, of which no rank sees any but its own.

    Args:
        vector: shape ``(P,)``, the same P on all ranks.
        rank: of this process.
        world_size: how many ranks there are.
        exchange: how messages travel; their authenticity and order are its business.
        session: names this sum, the same on all ranks and new for every sum, such as run and round.
        threshold: ranks that must stay to the end; None takes more than two thirds.
        code: how numbers are made whole.
        server: the rank that collects the masked vectors.

    Returns:
        Shape ``(P,)``, float64, on the CPU: the sum over the ranks that stayed.

    Raises:
        PrivacyViolation: too many ranks dropped out, or a message was changed.
        ConfigurationError: an entry is not finite or too large, or the numbers of ranks don't fit.
    """
    if not 0 <= rank < world_size or not 0 <= server < world_size:
        raise ConfigurationError(f"rank and server must be in [0, {world_size}), got {rank!r} and {server!r}")
    code = FixedPoint() if code is None else code
    roll = Roll(tuple(range(world_size)), default_threshold(world_size) if threshold is None else threshold, session)
    code.check(world_size)
    words = code.encode(vector)
    everybody = range(world_size)
    party = Party(rank, roll)

    keys = exchange(dict.fromkeys(everybody, party.advertise()))
    sealed = exchange(party.share(keys) | {rank: b""})
    senders = {sender: message for sender, message in sealed.items() if sender != rank}
    masked = exchange({server: party.mask(words, senders).astype("<u8").tobytes()})
    collector: Collector | None = None
    announced = b""
    if rank == server:
        collector = Collector(roll, keys, sorted({rank, *senders}), len(words))
        for sender, message in masked.items():
            collector.add(sender, _words(message))
        announced = json.dumps(collector.survivors).encode()
    survivors = exchange(dict.fromkeys(everybody, announced) if rank == server else {})
    answer = party.reveal(_numbers(survivors.get(server, b"")))
    revealed = exchange({server: b"".join(b"%08d" % who + share for who, share in answer.items())})
    result = b""
    if collector is not None:
        for sender, message in revealed.items():
            collector.add_shares(sender, _shares(message))
        result = b"%08d" % len(collector.survivors) + collector.unmask().astype("<u8").tobytes()
    final = exchange(dict.fromkeys(everybody, result) if rank == server else {}).get(server, b"")
    if len(final) != 8 + words.nbytes:
        raise PrivacyViolation(f"the server of the secure sum, rank {server}, sent no sum of the right length")
    return code.decode(_words(final[8:]), count=int(final[:8]))


def _words(message: bytes) -> Words:
    if len(message) % 8:
        raise PrivacyViolation("a masked vector of the secure sum was cut off on its way")
    return np.frombuffer(message, dtype="<u8").astype(np.uint64)


def _numbers(message: bytes) -> list[int]:
    try:
        numbers = json.loads(message)
    except ValueError as error:
        raise PrivacyViolation("the server of the secure sum named no survivors, or the message was changed") from error
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise PrivacyViolation("the survivors of the secure sum are no list of ranks: the message was changed")
    return numbers


def _shares(message: bytes) -> dict[int, bytes]:
    size = 8 + SEED_BYTES
    if len(message) % size:
        raise PrivacyViolation("revealed shares of the secure sum were cut off on their way")
    parts = [message[start : start + size] for start in range(0, len(message), size)]
    return {int(part[:8]): part[8:] for part in parts}
