"""Label skew: each class is spread over the clients in proportions drawn from a Dirichlet distribution.

For each class k, p_k ~ Dir(alpha, ..., alpha) over the clients, and client i gets the share p_k[i] of the examples
of k (Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019, section 4; Li et
al., "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022, section IV). A small alpha gives
clients of few classes and of very different sizes, a large one comes near to independent and identical clients.
The other common form (Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated
Visual Classification", 2019, section 3) draws the class mix of each client and keeps all sizes equal:
``equal_sizes=True``.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.federated.partitions import DirichletPartition
    >>> labels = np.arange(1000) % 10
    >>> skewed = DirichletPartition(5, alpha=0.1).split(labels, 1000, seed=0)
    >>> even = DirichletPartition(5, alpha=1000.0).split(labels, 1000, seed=0)
    >>> max(len(part) for part in skewed) > max(len(part) for part in even)
    True
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
from lightning_privacy.federated.partitions.partition import LabelPartition
from lightning_privacy.sampling.labels import factorize

__all__ = ["DirichletPartition"]


@dataclass(frozen=True)
class DirichletPartition(LabelPartition):
    """Label skew by a Dirichlet distribution.

    Shares become whole numbers by systematic sampling with one random start per class: a client gets its share of
    a class rounded up or down, on average exactly its share.

    A client left with fewer than ``min_examples`` is filled up with random examples of the largest clients, which
    are cut down to a common level. Where all clients are large enough nothing is moved.

    Args:
        num_clients: Number of clients, >= 1.
        alpha: Concentration, > 0; of 0.1 to 1 in most of the literature.
        min_examples: Least number of examples of a client, >= 1.
        equal_sizes: Draw the class mix of each client, q_i ~ Dir(alpha * prior) with the data set's own class
            frequencies as the prior, and give all clients the same number of examples, give or take one. A class
            that is used up is left out and the rest of the mix scaled up. With ten equal classes the same skew
            takes an alpha ten times as large as without.
        labels: Label of each example, the name of a column, or a function of an item; None: those of the data set.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> DirichletPartition(100, alpha=0.3).describe()["alpha"]
        0.3
    """

    num_clients: int
    alpha: float
    min_examples: int = 1
    equal_sizes: bool = False

    def __post_init__(self) -> None:
        positive_int(num_clients=self.num_clients)
        check_alpha(self.alpha)
        positive_int(min_examples=self.min_examples)

    @override
    def owners(self, labels: npt.NDArray[Any] | None, num_examples: int, seed: int) -> npt.NDArray[np.int64]:
        check_minimum(self.num_clients, self.min_examples, num_examples)
        generator = numpy_generator(seed, "partition", "dirichlet")
        classes, _ = factorize(np.asarray(labels))
        counts = np.bincount(classes)
        # The examples class by class, in random order within a class.
        order = generator.permutation(num_examples)
        order = order[np.argsort(classes[order], kind="stable")]
        deal = _equal if self.equal_sizes else _per_class
        owners = np.empty(num_examples, dtype=np.int64)
        owners[order] = deal(counts, self.num_clients, self.alpha, generator)
        return fill_up(owners, self.num_clients, self.min_examples, generator)


def _per_class(
    counts: npt.NDArray[np.int64], num_clients: int, alpha: float, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Owners of the examples in class order: each class shared out in proportions of its own."""
    return np.concatenate([share_out(int(count), num_clients, alpha, generator) for count in counts])


def _equal(
    counts: npt.NDArray[np.int64], num_clients: int, alpha: float, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Owners of the examples in class order: each client draws from a mix of its own until it is full."""
    total, num_classes = int(counts.sum()), len(counts)
    mixes = generator.dirichlet(alpha * counts / total, size=num_clients)
    sizes = np.full(num_clients, total // num_clients)
    sizes[: total % num_clients] += 1
    left = counts.copy()
    held = np.zeros((num_clients, num_classes), dtype=np.int64)
    for client in generator.permutation(num_clients):
        wanted = int(sizes[client])
        while wanted:
            mix = np.where(left > 0, mixes[client], 0.0)
            if not mix.sum() > 0:  # of its own classes nothing is left: what is left of the others
                mix = left.astype(np.float64)
            drawn = np.minimum(generator.multinomial(wanted, mix / mix.sum()), left)
            held[client] += drawn
            left -= drawn
            wanted -= int(drawn.sum())
    return np.concatenate([np.repeat(np.arange(num_clients), held[:, label]) for label in range(num_classes)])
