"""Who is in which batch: balanced and Poisson sampling, and Poisson batches cut into micro-batches.

Example:
    >>> from lightning_privacy.sampling import PoissonSampler
    >>> len(PoissonSampler(100, sample_rate=0.1, steps=7))
    7
"""

from __future__ import annotations

from lightning_privacy.sampling.balanced import BalancedSampler
from lightning_privacy.sampling.balanced_batches import BalancedBatchSampler
from lightning_privacy.sampling.balanced_poisson import BalancedPoissonSampler, balanced_rates
from lightning_privacy.sampling.microbatch import Microbatch, MicrobatchSampler
from lightning_privacy.sampling.poisson import PoissonSampler
from lightning_privacy.sampling.resample import ResampledDataset, resample
from lightning_privacy.sampling.resumable_loader import ResumableDataLoader

__all__ = [
    "BalancedBatchSampler",
    "BalancedPoissonSampler",
    "BalancedSampler",
    "Microbatch",
    "MicrobatchSampler",
    "PoissonSampler",
    "ResampledDataset",
    "ResumableDataLoader",
    "balanced_rates",
    "resample",
]
