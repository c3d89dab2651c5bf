"""Who takes part in a round: one class a file.

Example:
    >>> from lightning_privacy.federated.cohorts import cohort_sampler
    >>> len(cohort_sampler("uniform", cohort_size=5).draw(seed=0, round_number=1, num_clients=20))
    5
"""

from __future__ import annotations

from lightning_privacy.federated.cohorts.cohort import CohortSampler
from lightning_privacy.federated.cohorts.everyone import AllClients
from lightning_privacy.federated.cohorts.named import cohort_sampler
from lightning_privacy.federated.cohorts.poisson import PoissonCohorts
from lightning_privacy.federated.cohorts.uniform import UniformCohorts
from lightning_privacy.federated.cohorts.weighted import WeightedCohorts

__all__ = ["AllClients", "CohortSampler", "PoissonCohorts", "UniformCohorts", "WeightedCohorts", "cohort_sampler"]
