"""Federated learning without Lightning: who holds which examples, who takes part, what is summed and how.

Example:
    >>> from lightning_privacy.federated import IIDPartition, UniformCohorts
    >>> parts = IIDPartition(20).split(None, 1000, seed=0)
    >>> cohort = UniformCohorts(5).draw(seed=0, round_number=0, num_clients=20)
    >>> sum(len(parts[client]) for client in cohort)
    250
"""

from __future__ import annotations

from lightning_privacy.federated.aggregation import (
    QFFL,
    Aggregator,
    Bulyan,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    TrimmedMean,
    WeightedMean,
)
from lightning_privacy.federated.algorithms import Algorithm, Ditto, FedNova, FedProx, LocalTraining, Scaffold
from lightning_privacy.federated.client_clipping import AdaptiveNorm
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.cohorts import (
    AllClients,
    CohortSampler,
    PoissonCohorts,
    UniformCohorts,
    WeightedCohorts,
    cohort_sampler,
)
from lightning_privacy.federated.example_privacy import ExamplePrivacy
from lightning_privacy.federated.failures import ClientOutcome, SimulatedClientError, SimulatedFailures
from lightning_privacy.federated.keyed import client_randomness, derive_seed, generator, numpy_generator
from lightning_privacy.federated.labels import column_of, labels_of
from lightning_privacy.federated.partitions import (
    DirichletPartition,
    FilePartition,
    IIDPartition,
    NaturalPartition,
    Partition,
    QuantityPartition,
    ShardPartition,
    fingerprint,
)
from lightning_privacy.federated.schedule import assign
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.federated.server import DiLoCo, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, ServerOptimizer
from lightning_privacy.federated.transforms import BFloat16, DeltaTransform, Int8, NormBounding, TopK

__all__ = [
    "QFFL",
    "AdaptiveNorm",
    "Aggregator",
    "Algorithm",
    "AllClients",
    "BFloat16",
    "Bulyan",
    "ClientOutcome",
    "ClientPrivacy",
    "CohortSampler",
    "CoordinateMedian",
    "DeltaTransform",
    "DiLoCo",
    "DirichletPartition",
    "Ditto",
    "ExamplePrivacy",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedNova",
    "FedProx",
    "FedYogi",
    "FilePartition",
    "GeometricMedian",
    "IIDPartition",
    "Int8",
    "Krum",
    "LocalTraining",
    "NaturalPartition",
    "NormBounding",
    "Partition",
    "PoissonCohorts",
    "QuantityPartition",
    "Scaffold",
    "SecureSum",
    "ServerOptimizer",
    "ShardPartition",
    "SimulatedClientError",
    "SimulatedFailures",
    "TopK",
    "TrimmedMean",
    "UniformCohorts",
    "WeightedCohorts",
    "WeightedMean",
    "assign",
    "client_randomness",
    "cohort_sampler",
    "column_of",
    "derive_seed",
    "fingerprint",
    "generator",
    "labels_of",
    "numpy_generator",
]
