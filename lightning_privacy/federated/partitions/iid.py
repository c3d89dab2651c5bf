"""Examples dealt to clients at random: the case without any skew.

Example:
    >>> from lightning_privacy.federated.partitions import IIDPartition
    >>> [len(part) for part in IIDPartition(4).split(None, 10, seed=0)]
    [3, 3, 2, 2]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.federated.keyed import numpy_generator
from lightning_privacy.federated.partitions.partition import Partition

__all__ = ["IIDPartition"]


@dataclass(frozen=True)
class IIDPartition(Partition):
    """A random permutation of the examples, dealt one by one: sizes differ by at most one.

    Args:
        num_clients: Number of clients, >= 1.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> IIDPartition(100).describe()
        {'kind': 'IIDPartition', 'num_clients': 100}
    """

    num_clients: int

    def __post_init__(self) -> None:
        positive_int(num_clients=self.num_clients)

    @override
    def owners(self, labels: npt.NDArray[Any] | None, num_examples: int, seed: int) -> npt.NDArray[np.int64]:
        owners = np.empty(num_examples, dtype=np.int64)
        order = numpy_generator(seed, "partition", "iid").permutation(num_examples)
        owners[order] = np.arange(num_examples) % self.num_clients
        return owners
