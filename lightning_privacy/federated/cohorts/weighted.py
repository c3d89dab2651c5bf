"""Cohorts that prefer some clients, such as those with more examples.

Clients are drawn one after another, each with probability proportional to its weight among those not drawn yet. The
same law in one pass: the smallest of independent exponential times with the weights as rates (Efraimidis and
Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters 2006).

Example:
    >>> from lightning_privacy.federated.cohorts import WeightedCohorts
    >>> WeightedCohorts(2, weights=(1.0, 0.0, 5.0)).draw(seed=0, round_number=0, num_clients=3)
    [0, 2]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.cohorts.cohort import CohortSampler, check_cohort_size

__all__ = ["WeightedCohorts"]


@dataclass(frozen=True)
class WeightedCohorts(CohortSampler):
    """A fixed number of clients by weight, without replacement.

    For cohorts of more than one client the chance to be drawn is not exactly proportional to the weight (a client is
    in a cohort once at most), so no accounting of a private run covers these cohorts.

    Args:
        cohort_size: Clients of a round, >= 1.
        weights: One per client, finite and >= 0; a client of weight 0 never takes part.

    Raises:
        ConfigurationError: The size is no whole number >= 1, a weight is negative or not finite, or fewer clients than
            the cohort has are of a weight above 0.

    Example:
        >>> WeightedCohorts(1, weights=(3, 1)).expected_size(2)
        1.0
    """

    cohort_size: int
    weights: Sequence[float] = field(repr=False)

    def __post_init__(self) -> None:
        positive_int(cohort_size=self.cohort_size)
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any():
            raise ConfigurationError(
                f"weights must be finite numbers >= 0, one per client, got shape {weights.shape} with least "
                f"{weights.min(initial=np.inf)!s} and largest {weights.max(initial=-np.inf)!s}"
            )
        able = int((weights > 0).sum())
        if able < self.cohort_size:
            raise ConfigurationError(
                f"weights must be above 0 for at least cohort_size={self.cohort_size} clients, got {able}"
            )
        object.__setattr__(self, "weights", tuple(weights.tolist()))

    @override
    def expected_size(self, num_clients: int) -> float:
        if len(self.weights) != num_clients:
            raise ConfigurationError(f"weights must be one per client, {num_clients}, got {len(self.weights)}")
        check_cohort_size(self.cohort_size, num_clients)
        return float(self.cohort_size)

    @override
    def choose(self, generator: np.random.Generator, num_clients: int) -> npt.NDArray[np.int64]:
        weights = np.array(self.weights)
        times = np.full(num_clients, np.inf)
        np.divide(generator.standard_exponential(num_clients), weights, out=times, where=weights > 0)
        # Stable: were two times equal, the outcome would still be the same on every machine.
        return np.argsort(times, kind="stable")[: self.cohort_size]
