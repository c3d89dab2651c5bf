"""Which process trains which clients, so that all are done at about the same time.

Longest processing time first (Graham, "Bounds on Multiprocessing Timing Anomalies", SIAM Journal on Applied
Mathematics 1969): the largest client that is left goes to the process with the least work. The busiest process then
has at most 4/3 - 1/(3m) times the work it would have under the best of all assignments to m processes.

Example:
    >>> from lightning_privacy.federated.schedule import assign
    >>> assign([7, 5, 4, 3, 1], num_ranks=2)
    [[0, 3], [1, 2, 4]]
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from lightning_privacy._validate import non_negative_int, positive_int

__all__ = ["assign"]


def assign(sizes: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Spread clients over processes by their work; a pure function, so every process finds the same.

    Args:
        sizes: Work of each client of the cohort, such as its number of batches, whole numbers >= 0.
        num_ranks: Number of processes, >= 1.

    Returns:
        For each process, positions in ``sizes`` in increasing order. Where there are fewer clients than processes,
        some lists are empty. Ties go to the earlier client and to the lower rank.

    Raises:
        ConfigurationError: A size is negative, or there is no process.
    """
    assigned: list[list[int]] = [[] for _ in range(positive_int(num_ranks=num_ranks))]
    # Clients count too: without work to tell processes apart, clients are dealt evenly.
    loads = [(0, 0, rank) for rank in range(num_ranks)]
    order = sorted((-non_negative_int(sizes=size), position) for position, size in enumerate(sizes))
    for negative, position in order:
        load, held, rank = heapq.heappop(loads)
        assigned[rank].append(position)
        heapq.heappush(loads, (load - negative, held + 1, rank))
    return [sorted(positions) for positions in assigned]
