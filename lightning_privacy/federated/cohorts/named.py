"""Cohort samplers by name, for configs.

Example:
    >>> from lightning_privacy.federated.cohorts import cohort_sampler
    >>> cohort_sampler("poisson", cohort_size=10)
    PoissonCohorts(cohort_size=10)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.cohorts.cohort import CohortSampler
from lightning_privacy.federated.cohorts.everyone import AllClients
from lightning_privacy.federated.cohorts.poisson import PoissonCohorts
from lightning_privacy.federated.cohorts.uniform import UniformCohorts
from lightning_privacy.federated.cohorts.weighted import WeightedCohorts

__all__ = ["cohort_sampler"]


def cohort_sampler(
    sampling: str | CohortSampler, cohort_size: int | None = None, weights: Sequence[float] | None = None
) -> CohortSampler:
    """The sampler of a name, or the sampler that was passed.

    Args:
        sampling: ``"uniform"``, ``"poisson"``, ``"weighted"`` or ``"all"``; or a sampler, returned as it is.
        cohort_size: Clients of a round, on average for Poisson cohorts; None only for ``"all"`` or a sampler.
        weights: One per client, for ``"weighted"``.

    Raises:
        ConfigurationError: The name is unknown, or what the sampler needs is missing or out of range.

    Example:
        >>> cohort_sampler("weighted", cohort_size=1, weights=[2.0, 1.0]).expected_size(2)
        1.0
    """
    if isinstance(sampling, CohortSampler):
        return sampling
    one_of(("uniform", "poisson", "weighted", "all"), client_sampling=sampling)
    if sampling == "all":
        return AllClients()
    if cohort_size is None:
        raise ConfigurationError(f'cohort_size must be given for client_sampling="{sampling}", got None')
    if sampling == "weighted":
        if weights is None:
            raise ConfigurationError('weights must be given for client_sampling="weighted", got None')
        return WeightedCohorts(cohort_size, weights)
    made: Callable[[int], CohortSampler] = UniformCohorts if sampling == "uniform" else PoissonCohorts
    return made(cohort_size)
