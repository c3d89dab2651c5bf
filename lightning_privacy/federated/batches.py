"""The batches of one client: examples that are gathered by index, or loaded as the user's loader would load them.

Data sets that are tensors in memory need no loader: a client's examples are gathered once per epoch in a random order
and cut into views. Others are asked for the examples of a batch, all at once where they have ``__getitems__``, and the
loader's collate function makes the batch; with workers or pinned memory, through a
:class:`torch.utils.data.DataLoader` over the client's part.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> loader = DataLoader(TensorDataset(torch.arange(10.0)), batch_size=4)
    >>> source = batch_source(loader)
    >>> generator = torch.Generator().manual_seed(0)
    >>> [len(batch[0]) for batch in source.epoch(np.array([1, 3, 5, 7, 9]), generator)]
    [4, 1]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate
from typing_extensions import override

from lightning_privacy.errors import UnsupportedError

__all__ = ["BatchSource", "GatheredBatches", "LoadedBatches", "batch_source"]


class BatchSource(ABC):
    """Gives the batches of one epoch over some examples.

    Args:
        batch_size: Examples of a batch.
        drop_last: Leave out the last batch when it is smaller.
    """

    def __init__(self, batch_size: int, *, drop_last: bool) -> None:
        self.batch_size = batch_size
        self.drop_last = drop_last

    def count(self, num_examples: int) -> int:
        """Batches of one epoch over ``num_examples``; a client smaller than a batch has one batch all the same."""
        if self.drop_last and num_examples >= self.batch_size:
            return num_examples // self.batch_size
        return -(-num_examples // self.batch_size)

    def epoch(self, indices: NDArray[np.int64], generator: torch.Generator) -> Iterable[Any]:
        """Batches of one epoch in a random order.

        Args:
            indices: The examples.
            generator: Draws the order; nothing else is drawn from it.
        """
        order = torch.from_numpy(indices)[torch.randperm(len(indices), generator=generator)]
        return self.batches(torch.split(order, self.batch_size)[: self.count(len(indices))])

    @abstractmethod
    def batches(self, chosen: Sequence[Tensor]) -> Iterable[Any]:
        """Batches of examples that were chosen by somebody else.

        Args:
            chosen: The examples of each batch, at least one.
        """


class GatheredBatches(BatchSource):
    """Batches of a data set that is a tuple of tensors.

    Args:
        tensors: First dimensions agree.
        batch_size: Examples of a batch.
        drop_last: Leave out the last batch when it is smaller.

    Example:
        >>> source = GatheredBatches((torch.arange(6),), batch_size=2, drop_last=False)
        >>> [batch[0].numel() for batch in source.epoch(np.arange(5), torch.Generator())]
        [2, 2, 1]
    """

    def __init__(self, tensors: tuple[Tensor, ...], *, batch_size: int, drop_last: bool) -> None:
        super().__init__(batch_size, drop_last=drop_last)
        self._tensors = tensors

    @override
    def epoch(self, indices: NDArray[np.int64], generator: torch.Generator) -> list[list[Tensor]]:
        order = torch.from_numpy(indices)[torch.randperm(len(indices), generator=generator)]
        gathered = (tensor.index_select(0, order.to(tensor.device)) for tensor in self._tensors)
        count = self.count(len(indices))
        batches = zip(*[torch.split(tensor, self.batch_size)[:count] for tensor in gathered], strict=True)
        return [list(batch) for batch in batches]

    @override
    def batches(self, chosen: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        for indices in chosen:
            yield [tensor.index_select(0, indices.to(tensor.device)) for tensor in self._tensors]


class LoadedBatches(BatchSource):
    """Batches as the user's loader makes them: its data set, collate function, workers and pinned memory.

    Args:
        loader: The user's loader over all examples.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader.batch_size or 1, drop_last=loader.drop_last)
        self._loader = loader

    @override
    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Any]:
        loader: Any = self._loader
        batches = [indices.tolist() for indices in chosen]
        if loader.num_workers == 0 and not loader.pin_memory:
            # What a DataLoader does, without setting one up for every client.
            fetch = getattr(loader.dataset, "__getitems__", None) or partial(_one_by_one, loader.dataset)
            return (loader.collate_fn(fetch(batch)) for batch in batches)
        workers = (
            {}
            if loader.num_workers == 0
            else {
                "prefetch_factor": loader.prefetch_factor,
                "multiprocessing_context": loader.multiprocessing_context,
                "worker_init_fn": loader.worker_init_fn,
                "timeout": loader.timeout,
            }
        )
        return iter(
            DataLoader(
                loader.dataset,
                batch_sampler=batches,
                num_workers=min(loader.num_workers, len(batches)),
                collate_fn=loader.collate_fn,
                pin_memory=loader.pin_memory,
                **workers,
            )
        )


def batch_source(loader: Any) -> BatchSource:
    """How the clients' batches are made, given the user's loader over the examples of all clients.

    Args:
        loader: The user's train loader. Its batch size is that of every client; its order is not used, as each
            client goes over its own examples.

    Raises:
        UnsupportedError: Not one torch DataLoader, or no data set with a length and indices.
    """
    if not isinstance(loader, DataLoader):
        raise UnsupportedError(
            f"train_dataloader must be one torch DataLoader over the examples of all clients, got "
            f"{type(loader).__name__}: with several loaders there is no one list of examples to share out. Join the "
            "data sets with torch.utils.data.ConcatDataset."
        )
    dataset = loader.dataset
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise UnsupportedError(
            f"the train data set {type(dataset).__name__} has no length or no __getitem__, so its examples can't be "
            "shared out among clients; give a map-style data set, or partition=None with one real client per process"
        )
    tensors = _tensors(dataset)
    if tensors is not None and loader.collate_fn is default_collate:
        return GatheredBatches(tensors, batch_size=loader.batch_size or 1, drop_last=loader.drop_last)
    return LoadedBatches(loader)


def _one_by_one(dataset: Any, indices: list[int]) -> list[Any]:
    return [dataset[index] for index in indices]


def _tensors(dataset: Any) -> tuple[Tensor, ...] | None:
    """The tensors a data set consists of, where indexing them is what its ``__getitem__`` does one by one."""
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset and type(dataset.dataset) is TensorDataset:
        indices = torch.as_tensor(dataset.indices)
        return tuple(tensor[indices] for tensor in dataset.dataset.tensors)
    return None
