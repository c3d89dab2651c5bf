"""Natural clients: whoever the examples come from, by an id of each.

A writer, a speaker, a hospital, a town: data that comes with its clients is the most honest test of a federated
method. The id is an array, a column of the data set, or a function of an item.

Example:
    >>> from lightning_privacy.federated.partitions import NaturalPartition
    >>> partition = NaturalPartition(["Romeo", "Juliet", "Romeo", "Nurse"])
    >>> partition.num_clients, partition.names
    (3, ('Juliet', 'Nurse', 'Romeo'))
    >>> [part.tolist() for part in partition.split(None, 4, seed=0)]
    [[1], [3], [0, 2]]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.labels import values_of
from lightning_privacy.federated.partitions.partition import Partition
from lightning_privacy.sampling.labels import factorize, label_array

__all__ = ["NaturalPartition"]

_DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class NaturalPartition(Partition):
    """One client per distinct id, in the order of the sorted ids; nothing is drawn.

    Args:
        ids: Whose each example is: an array, tensor, list or pandas column, one entry per example; or the name of a
            column; or a function of an item that returns its id. A name or a function is read when :meth:`bind` is
            given the data set.
        min_examples: Clients with fewer examples are left out, and their examples are nobody's; with 1 none is.

    Raises:
        ConfigurationError: Ids are missing (None, NaN or empty), of kinds that can't be compared, or not one per
            example; or no client has ``min_examples``.

    Example:
        >>> import torch
        >>> NaturalPartition(torch.tensor([4, 4, 9, 4, 9, 7]), min_examples=2).names
        ('4', '9')
    """

    ids: Any = field(repr=False)
    min_examples: int = 1
    _owners: npt.NDArray[np.int64] | None = field(init=False, repr=False, default=None)
    _names: tuple[str, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        positive_int(min_examples=self.min_examples)
        if isinstance(self.ids, str) or callable(self.ids):
            return
        owners, names = _group(label_array(self.ids, name="ids"), self.min_examples)
        object.__setattr__(self, "_owners", owners)
        object.__setattr__(self, "_names", names)

    @override
    def bind(self, dataset: Any) -> Self:
        if isinstance(self.ids, str) or callable(self.ids):
            return replace(self, ids=values_of(dataset, self.ids, argument="ids"))
        return self

    def _read(self) -> npt.NDArray[np.int64]:
        if self._owners is None:
            raise ConfigurationError(
                f"ids={self.ids!r} must be read from a data set before clients are known: call bind(dataset), and use "
                "what it returns"
            )
        return self._owners

    @property
    def num_clients(self) -> int:  # type: ignore[override]  # known only once the ids are
        """Number of clients."""
        self._read()
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """The id of each client as text."""
        self._read()
        return self._names

    @override
    def check(self, num_examples: int) -> None:
        if len(self._read()) != num_examples:
            raise ConfigurationError(f"ids must be one per example, {num_examples}, got {len(self._read())}")

    @override
    def owners(self, labels: npt.NDArray[Any] | None, num_examples: int, seed: int) -> npt.NDArray[np.int64]:
        return self._read()

    @override
    def describe(self) -> dict[str, Any]:
        digest = hashlib.blake2b("\0".join(self.names).encode(), digest_size=_DIGEST_BYTES)
        digest.update(self._read().astype("<i8").data)
        return {
            "kind": type(self).__name__,
            "num_clients": self.num_clients,
            "min_examples": int(self.min_examples),
            "digest": digest.hexdigest(),
        }


def _group(ids: npt.NDArray[Any], min_examples: int) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The client of each example, -1 where it has too few, and the clients' names."""
    if ids.ndim != 1:
        raise ConfigurationError(f"ids must be one per example, shape (num_examples,), got shape {ids.shape}")
    owners, names = factorize(ids)
    if "" in names:
        without = np.flatnonzero(ids == "")
        raise ConfigurationError(
            f"ids must not be empty, got '' for {len(without)} (the first at position {without[0]}): leave these "
            "examples out of the data set, or give them an id"
        )
    counts = np.bincount(owners)
    kept = counts >= min_examples
    if not kept.any():
        raise ConfigurationError(
            f"min_examples must be at most {counts.max()}, the size of the largest client, got {min_examples}"
        )
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    return number[owners], tuple(str(name) for name, keep in zip(names, kept, strict=True) if keep)
