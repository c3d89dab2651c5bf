"""Quantity skew: clients of very different sizes whose labels are alike.

The shares of the clients are drawn from Dir(alpha, ..., alpha), and each client's examples at random from the whole
(Li et al., "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022, section IV).

Example:
    >>> from lightning_privacy.federated.partitions import QuantityPartition
    >>> sizes = [len(part) for part in QuantityPartition(5, alpha=0.5, min_examples=10).split(None, 1000, seed=0)]
    >>> sum(sizes), min(sizes) >= 10, max(sizes) > 300
    (1000, True, True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.federated.keyed import numpy_generator
from lightning_privacy.federated.partitions._concentration import check_alpha, share_out
from lightning_privacy.federated.partitions._minimum import check_minimum, fill_up
from lightning_privacy.federated.partitions.partition import Partition

__all__ = ["QuantityPartition"]


@dataclass(frozen=True)
class QuantityPartition(Partition):
    """Sizes by a Dirichlet distribution, labels as they come.

    A client left with fewer than ``min_examples`` is filled up with random examples of the largest clients, which
    are cut down to a common level.

    Args:
        num_clients: Number of clients, >= 1.
        alpha: Concentration, > 0; the smaller, the more the sizes differ.
        min_examples: Least number of examples of a client, >= 1.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> QuantityPartition(100, alpha=0.5).num_clients
        100
    """

    num_clients: int
    alpha: float
    min_examples: int = 1

    def __post_init__(self) -> None:
        positive_int(num_clients=self.num_clients)
        check_alpha(self.alpha)
        positive_int(min_examples=self.min_examples)

    @override
    def owners(self, labels: npt.NDArray[Any] | None, num_examples: int, seed: int) -> npt.NDArray[np.int64]:
        check_minimum(self.num_clients, self.min_examples, num_examples)
        generator = numpy_generator(seed, "partition", "quantity")
        owners = np.empty(num_examples, dtype=np.int64)
        order = generator.permutation(num_examples)
        owners[order] = share_out(num_examples, self.num_clients, self.alpha, generator)
        return fill_up(owners, self.num_clients, self.min_examples, generator)
