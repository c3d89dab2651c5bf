"""Shards: each client has a few pieces of the data sorted by label, so examples of a few classes only.

The partition of the paper that named federated averaging (McMahan et al., "Communication-Efficient Learning of Deep
Networks from Decentralized Data", AISTATS 2017, section 3): sort by label, cut into shards of equal size, deal each
client the same number of shards.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.federated.partitions import ShardPartition
    >>> labels = np.arange(1000) % 10
    >>> parts = ShardPartition(10, shards_per_client=2).split(labels, 1000, seed=0)
    >>> max(len(set(labels[part])) for part in parts)
    2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.keyed import numpy_generator
from lightning_privacy.federated.partitions.partition import LabelPartition

__all__ = ["ShardPartition"]


@dataclass(frozen=True)
class ShardPartition(LabelPartition):
    """The same number of shards of sorted data for each client.

    Which examples of a class are in which of its shards is drawn at random, and so is who gets which shards. Shards
    differ in size by at most one example; one that lies across two classes holds both.

    Args:
        num_clients: Number of clients, >= 1.
        shards_per_client: Shards of each client, >= 1; 2 in the paper.
        labels: Label of each example, the name of a column, or a function of an item; None: those of the data set.

    Raises:
        ConfigurationError: An argument is out of range, or there are more shards than examples.

    Example:
        >>> ShardPartition(100).describe()
        {'kind': 'ShardPartition', 'num_clients': 100, 'shards_per_client': 2}
    """

    num_clients: int
    shards_per_client: int = 2

    def __post_init__(self) -> None:
        positive_int(num_clients=self.num_clients)
        positive_int(shards_per_client=self.shards_per_client)

    @override
    def owners(self, labels: npt.NDArray[Any] | None, num_examples: int, seed: int) -> npt.NDArray[np.int64]:
        num_shards = self.num_clients * self.shards_per_client
        if num_shards > num_examples:
            raise ConfigurationError(
                f"shards_per_client must be at most {num_examples // self.num_clients} for "
                f"num_clients={self.num_clients} and {num_examples} examples, got {self.shards_per_client}"
            )
        generator = numpy_generator(seed, "partition", "shards")
        order = generator.permutation(num_examples)
        order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
        owner_of_shard = generator.permutation(num_shards) // self.shards_per_client
        owners = np.empty(num_examples, dtype=np.int64)
        owners[order] = owner_of_shard[np.arange(num_examples) * num_shards // num_examples]
        return owners
