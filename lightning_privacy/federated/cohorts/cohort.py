"""What a cohort sampler is: a pure function from (seed, round, number of clients) to the clients of the round.

A cohort is drawn from a generator of its own and without replacement, so it does not depend on the number of
workers, on what was drawn before, or on who else draws (and a resumed run draws what the uninterrupted one would).

Where the accounting of a private run counts on the sampling, who was in which cohort must stay secret, and the draw
is known to whoever knows the seed: then the seed must be as secret as the data.

Example:
    >>> from lightning_privacy.federated.cohorts import UniformCohorts
    >>> UniformCohorts(3).draw(seed=0, round_number=5, num_clients=10) == UniformCohorts(3).draw(0, 5, 10)
    True
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.keyed import numpy_generator

__all__ = ["CohortSampler", "check_cohort_size"]


class CohortSampler(ABC):
    """Base of all cohort samplers; a sub-class is a frozen dataclass and says in :meth:`choose` who takes part."""

    @abstractmethod
    def choose(self, generator: np.random.Generator, num_clients: int) -> npt.NDArray[np.int64]:
        """Distinct clients, in any order; arguments are checked already."""

    @abstractmethod
    def expected_size(self, num_clients: int) -> float:
        """Mean size of a cohort of ``num_clients`` clients.

        Raises:
            ConfigurationError: The cohort can't be drawn from so few clients.
        """

    def draw(self, seed: int, round_number: int, num_clients: int) -> list[int]:
        """The clients of a round.

        Args:
            seed: The run's seed, a whole number >= 0.
            round_number: The round, from 0.
            num_clients: How many clients there are, >= 1.

        Returns:
            Distinct numbers below ``num_clients`` in increasing order; may be empty for Poisson cohorts.

        Raises:
            ConfigurationError: An argument is out of range, or the cohort is larger than the number of clients.
        """
        non_negative_int(round_number=round_number)
        positive_int(num_clients=num_clients)
        self.expected_size(num_clients)
        chosen = self.choose(numpy_generator(seed, "cohort", round_number), num_clients)
        return [int(client) for client in np.sort(chosen)]


def check_cohort_size(cohort_size: float, num_clients: int) -> None:
    """Raise where there are fewer clients than a cohort has."""
    if cohort_size > num_clients:
        raise ConfigurationError(
            f"cohort_size must be at most the number of clients, {num_clients}, got {cohort_size!r}: a cohort is drawn "
            "without replacement"
        )
