"""The clients of a federated fit, by what their data are: parts of one data set, or the loaders of real silos."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence, Sized
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from lightning_privacy.audit.slots import ClientCanaries
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.federated.batches import batch_source
from lightning_privacy.federated.keyed import generator
from lightning_privacy.federated.labels import labels_of
from lightning_privacy.federated.partitions import Partition
from lightning_privacy.federated.partitions.partition import fingerprint
from lightning_privacy.federated.schedule import assign

__all__ = ["Clients", "SharedOutClients", "SiloClients"]


class Clients(ABC):
    """Who takes part in the fit, what they hold and where they are trained."""

    #: How many there are.
    count: int
    #: The user's loader, of this process.
    loader: Any
    #: Those who never take part when they are drawn, as if they held nothing: canaries of an audit that are out.
    absent: frozenset[int] = frozenset()

    @abstractmethod
    def num_examples(self, client: int) -> int:
        """Size of a client's data set."""

    @abstractmethod
    def batches_per_epoch(self, client: int) -> int:
        """Batches of one local epoch."""

    @abstractmethod
    def epoch(self, client: int, *, seed: int, round_number: int, epoch: int) -> Iterable[Any]:
        """Batches of one local epoch, in an order that is a function of the arguments."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Examples of a batch.

        Raises:
            UnsupportedError: The loader's examples can't be drawn one by one.
        """

    @abstractmethod
    def batches(self, client: int, chosen: Sequence[Tensor]) -> Iterable[Any]:
        """Batches of examples of a client that somebody else has drawn.

        Args:
            client: The client.
            chosen: Positions in its data, of each batch.
        """

    @abstractmethod
    def assign(self, cohort: list[int], processes: int) -> list[list[int]]:
        """The clients of the cohort that each process trains."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What must be equal when a run is resumed; plain types."""


class SharedOutClients(Clients):
    """Simulated clients that share one data set, any number to a process.

    Args:
        loader: The user's loader over all examples.
        partition: Who holds which.
        seed: Of the run.

    Raises:
        UnsupportedError: Not one torch DataLoader, or its sampler chooses examples in a way of its own.
        ConfigurationError: The partition can't be made.
    """

    def __init__(self, loader: Any, partition: Partition, seed: int) -> None:
        self.loader = loader
        self._source = batch_source(loader)
        _check_sampler(loader)
        canaries = loader.dataset if isinstance(loader.dataset, ClientCanaries) else None
        dataset = loader.dataset if canaries is None else canaries.dataset
        bound = partition.bind(dataset)
        labels = labels_of(dataset) if bound.needs_labels else None
        self._parts: list[NDArray[np.int64]] = bound.split(labels, len(dataset), seed)
        self._description = {"partition": bound.describe(), "fingerprint": fingerprint(self._parts)}
        self.count = len(self._parts)
        if canaries is not None:
            self.absent = canaries.share_out(self._parts)

    def num_examples(self, client: int) -> int:
        return len(self._parts[client])

    def batches_per_epoch(self, client: int) -> int:
        return self._source.count(len(self._parts[client]))

    def epoch(self, client: int, *, seed: int, round_number: int, epoch: int) -> Iterable[Any]:
        return self._source.epoch(self._parts[client], generator(seed, "order", round_number, client, epoch))

    @property
    def batch_size(self) -> int:
        return self._source.batch_size

    def batches(self, client: int, chosen: Sequence[Tensor]) -> Iterable[Any]:
        part = torch.from_numpy(self._parts[client])
        return self._source.batches([part[positions] for positions in chosen])

    def assign(self, cohort: list[int], processes: int) -> list[list[int]]:
        positions = assign([self.batches_per_epoch(client) for client in cohort], processes)
        return [[cohort[position] for position in share] for share in positions]

    def describe(self) -> dict[str, Any]:
        return self._description


class SiloClients(Clients):
    """One real client per process, which holds its own data and trains on its own loader.

    Args:
        loader: This process's loader.
        rank: Of this process.
        sizes: Examples and batches of every process's loader, in order of rank.

    Raises:
        UnsupportedError: The loader has no length.
    """

    def __init__(self, loader: Any, rank: int, sizes: list[tuple[int, int]]) -> None:
        self.loader = loader
        self._rank = rank
        self._sizes = sizes
        self.count = len(sizes)

    @staticmethod
    def sizes_of(loader: Any) -> tuple[int, int]:
        """Examples and batches of a loader.

        Raises:
            UnsupportedError: It has no length, so a mean over clients can't be weighted.
        """
        dataset = loader.dataset if isinstance(loader, DataLoader) else None
        if not isinstance(loader, Sized) or (dataset is not None and not isinstance(dataset, Sized)):
            raise UnsupportedError(
                f"the train loader {type(loader).__name__} has no length: a client must know how many examples it "
                "holds; give a map-style data set"
            )
        batches = len(loader)
        return (len(dataset) if isinstance(dataset, Sized) else batches), batches

    def num_examples(self, client: int) -> int:
        return self._sizes[client][0]

    def batches_per_epoch(self, client: int) -> int:
        return self._sizes[client][1]

    def epoch(self, client: int, *, seed: int, round_number: int, epoch: int) -> Iterable[Any]:
        if client != self._rank:
            raise UnsupportedError(f"client {client} holds its data on another process")
        set_epoch = getattr(getattr(self.loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(round_number)
        batches: Iterable[Any] = self.loader
        return batches

    @property
    def batch_size(self) -> int:
        source = batch_source(self.loader)
        _check_sampler(self.loader)
        return source.batch_size

    def batches(self, client: int, chosen: Sequence[Tensor]) -> Iterable[Any]:
        if client != self._rank:
            raise UnsupportedError(f"client {client} holds its data on another process")
        return batch_source(self.loader).batches(chosen)

    def assign(self, cohort: list[int], processes: int) -> list[list[int]]:
        return [[rank] if rank in cohort else [] for rank in range(processes)]

    def describe(self) -> dict[str, Any]:
        return {"partition": None, "silos": [list(size) for size in self._sizes]}


def _check_sampler(loader: DataLoader[Any]) -> None:
    """Refuse a choice of examples that would get lost, as every client goes over its own examples."""
    batches: Any = loader.batch_sampler
    sampler = batches.sampler if type(batches) is BatchSampler else loader.sampler
    plain = type(sampler) in (SequentialSampler, DistributedSampler) or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )
    if type(loader.batch_sampler) is BatchSampler and plain:
        return
    chosen = (
        type(sampler).__name__ if type(loader.batch_sampler) is BatchSampler else type(loader.batch_sampler).__name__
    )
    raise UnsupportedError(
        f"the train loader chooses examples by {chosen}, which would get lost: every client goes over its own "
        "examples. Use shuffle=True; choose examples with torch.utils.data.Subset"
    )
