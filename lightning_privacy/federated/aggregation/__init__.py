"""Aggregation: how the deltas of a cohort become one; the mean, and rules that stand hostile clients.

Example:
    >>> from lightning_privacy.federated.aggregation import Krum
    >>> Krum(byzantine=1).check(cohort_size=5)
"""

from __future__ import annotations

from lightning_privacy.federated.aggregation.aggregator import Aggregator
from lightning_privacy.federated.aggregation.bulyan import Bulyan
from lightning_privacy.federated.aggregation.coordinate_median import CoordinateMedian
from lightning_privacy.federated.aggregation.geometric_median import GeometricMedian
from lightning_privacy.federated.aggregation.krum import Krum
from lightning_privacy.federated.aggregation.q_ffl import QFFL
from lightning_privacy.federated.aggregation.trimmed_mean import TrimmedMean
from lightning_privacy.federated.aggregation.weighted_mean import WeightedMean

__all__ = [
    "QFFL",
    "Aggregator",
    "Bulyan",
    "CoordinateMedian",
    "GeometricMedian",
    "Krum",
    "TrimmedMean",
    "WeightedMean",
]
