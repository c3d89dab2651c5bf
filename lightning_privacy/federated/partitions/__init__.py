"""Who holds which examples: one class a file.

Example:
    >>> from lightning_privacy.federated.partitions import IIDPartition
    >>> len(IIDPartition(10).split(None, 100, seed=0))
    10
"""

from __future__ import annotations

from lightning_privacy.federated.partitions.dirichlet import DirichletPartition
from lightning_privacy.federated.partitions.file import FilePartition
from lightning_privacy.federated.partitions.iid import IIDPartition
from lightning_privacy.federated.partitions.natural import NaturalPartition
from lightning_privacy.federated.partitions.partition import Partition, fingerprint
from lightning_privacy.federated.partitions.quantity import QuantityPartition
from lightning_privacy.federated.partitions.shards import ShardPartition

__all__ = [
    "DirichletPartition",
    "FilePartition",
    "IIDPartition",
    "NaturalPartition",
    "Partition",
    "QuantityPartition",
    "ShardPartition",
    "fingerprint",
]
