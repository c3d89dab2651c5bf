"""Cohorts of one size, every subset of that size as likely as any other.

Example:
    >>> from lightning_privacy.federated.cohorts import UniformCohorts
    >>> len(UniformCohorts(10).draw(seed=0, round_number=0, num_clients=100))
    10
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.federated.cohorts.cohort import CohortSampler, check_cohort_size

__all__ = ["UniformCohorts"]


@dataclass(frozen=True)
class UniformCohorts(CohortSampler):
    """A fixed number of clients, uniformly and without replacement.

    Args:
        cohort_size: Clients of a round, >= 1.

    Raises:
        ConfigurationError: The size is no whole number >= 1.

    Example:
        >>> UniformCohorts(10).expected_size(100)
        10.0
    """

    cohort_size: int

    def __post_init__(self) -> None:
        positive_int(cohort_size=self.cohort_size)

    @override
    def expected_size(self, num_clients: int) -> float:
        check_cohort_size(self.cohort_size, num_clients)
        return float(self.cohort_size)

    @override
    def choose(self, generator: np.random.Generator, num_clients: int) -> npt.NDArray[np.int64]:
        return generator.choice(num_clients, self.cohort_size, replace=False, shuffle=False)
