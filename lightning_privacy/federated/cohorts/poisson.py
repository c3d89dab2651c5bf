"""Poisson cohorts: every client takes part with the same probability, independently of the others.

The sampling that the accounting of the sampled Gaussian mechanism rests on, with a client as the unit (McMahan et
al., "Learning Differentially Private Recurrent Language Models", ICLR 2018, section 2). The size of a cohort is
random, and it may be empty; a private round then still adds its noise.

Example:
    >>> from lightning_privacy.federated.cohorts import PoissonCohorts
    >>> cohorts = PoissonCohorts(10)
    >>> cohorts.sample_rate(1000), cohorts.expected_size(1000)
    (0.01, 10.0)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy._validate import positive
from lightning_privacy.federated.cohorts.cohort import CohortSampler, check_cohort_size

__all__ = ["PoissonCohorts"]


@dataclass(frozen=True)
class PoissonCohorts(CohortSampler):
    """Independent inclusion with probability ``cohort_size / num_clients``.

    Drawn in time proportional to the cohort: its size is binomial, and given the size every subset is as likely as
    any other.

    Args:
        cohort_size: Mean size of a cohort, > 0; need not be whole.

    Raises:
        ConfigurationError: The size is no finite number > 0.

    Example:
        >>> PoissonCohorts(2.5).sample_rate(10)
        0.25
    """

    cohort_size: float

    def __post_init__(self) -> None:
        positive(cohort_size=self.cohort_size)

    def sample_rate(self, num_clients: int) -> float:
        """Probability that a client is in the cohort of a round.

        Raises:
            ConfigurationError: There are fewer clients than the mean size of a cohort.
        """
        check_cohort_size(self.cohort_size, num_clients)
        return float(self.cohort_size) / num_clients

    @override
    def expected_size(self, num_clients: int) -> float:
        check_cohort_size(self.cohort_size, num_clients)
        return float(self.cohort_size)

    @override
    def choose(self, generator: np.random.Generator, num_clients: int) -> npt.NDArray[np.int64]:
        size = generator.binomial(num_clients, self.sample_rate(num_clients))
        return generator.choice(num_clients, size, replace=False, shuffle=False)
