"""Everyone, every round: a federation of a few silos.

Example:
    >>> from lightning_privacy.federated.cohorts import AllClients
    >>> AllClients().draw(seed=0, round_number=0, num_clients=3)
    [0, 1, 2]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy.federated.cohorts.cohort import CohortSampler

__all__ = ["AllClients"]


@dataclass(frozen=True)
class AllClients(CohortSampler):
    """All clients take part in every round.

    Example:
        >>> AllClients().expected_size(8)
        8.0
    """

    @override
    def expected_size(self, num_clients: int) -> float:
        return float(num_clients)

    @override
    def choose(self, generator: np.random.Generator, num_clients: int) -> npt.NDArray[np.int64]:
        return np.arange(num_clients)
