"""Which rows of its data set a loader gives, and in which order: needed to match an array with them.

With several processes Lightning lets some rows be seen twice, so that every process has as many. Where it can be told
which these are, they are marked and counted once.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> order = RowOrder.of(DataLoader(TensorDataset(torch.zeros(5, 1)), batch_size=2))
    >>> order.next(2), order.next(2), order.next(1)
    (tensor([0, 1]), tensor([2, 3]), tensor([4]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    Subset,
)

from lightning_privacy.errors import ConfigurationError

__all__ = ["RowOrder", "column_of_dataset", "loader_at"]

_INSTEAD = "let the data set return the group of each row, and give its key or place in the batch as groups="


class RowOrder:
    """Counts through the rows that one process is given by a loader.

    Args:
        length: Rows of the data set; None where it is not known.
        step: Every how many-th row this process sees.
        start: The first of them.
        reason: Why positions don't say which rows of the data set they are; None where they do.

    Example:
        >>> second_of_two = RowOrder(length=3, step=2, start=1)
        >>> second_of_two.next(2), second_of_two.repeated(torch.tensor([1, 3]))
        (tensor([1, 3]), tensor([False,  True]))
    """

    def __init__(self, length: int | None, step: int = 1, start: int = 0, reason: str | None = None) -> None:
        self.length = length
        self.reason = reason
        self._step, self._next = step, start

    @classmethod
    def of(cls, loader: Any) -> RowOrder:
        """The order of the rows of a loader, as far as it can be told."""
        if not isinstance(loader, DataLoader):
            return cls(None, reason=f"it is no torch DataLoader but a {type(loader).__name__}")
        if isinstance(loader.dataset, IterableDataset) or not isinstance(loader.dataset, Sized):
            return cls(None, reason=f"its data set {type(loader.dataset).__name__} has no length")
        if type(loader.batch_sampler) is not BatchSampler:
            return cls(None, reason="it has a batch sampler of its own, or its data set makes the batches")
        # Not the loader's own, which is another one where the user gave the batch sampler.
        sampler: Any = loader.batch_sampler.sampler
        if isinstance(sampler, DistributedSampler):
            # Also for a sampler of Lightning's around another one: its length is that one's.
            known = type(sampler) is DistributedSampler and not sampler.shuffle
            reason = None if known else "its DistributedSampler shuffles"
            whole: Any = sampler.dataset
            return cls(len(whole), sampler.num_replicas, sampler.rank, reason)
        if type(sampler) is SequentialSampler:
            return cls(len(loader.dataset))
        return cls(len(loader.dataset), reason=f"its {type(sampler).__name__} has an order of its own")

    def next(self, rows: int) -> Tensor:
        """The positions of the next ``rows`` rows, shape ``(rows,)``; repeats are at ``length`` or beyond."""
        places = self._next + self._step * torch.arange(rows)
        self._next += self._step * rows
        return places

    def repeated(self, places: Tensor) -> Tensor:
        """Which of these rows are given a second time, to make the processes equal in length."""
        if self.length is None or self._step == 1:
            return torch.zeros_like(places, dtype=torch.bool)
        return places >= self.length

    def check(self, length: int, *, argument: str) -> None:
        """Refuse an array that can't be matched with the rows.

        Args:
            length: Entries of the array.
            argument: What the array was passed as.

        Raises:
            ConfigurationError: The order of the rows is not known, or the array has not one entry for each.
        """
        if self.reason is not None:
            raise ConfigurationError(
                f"{argument} is an array aligned with the data set, which can't be matched with the rows of this "
                f"loader: {self.reason}. Use a loader with shuffle=False and no sampler, or {_INSTEAD}"
            )
        if length != self.length:
            raise ConfigurationError(
                f"{argument} has {length} entries, and the loader's data set {self.length} rows: give one for each "
                f"row. Where there are several loaders or data sets, {_INSTEAD}"
            )


def loader_at(loaders: Any, position: int) -> Any:
    """One of the loaders a trainer validates or tests on; None where they are no plain collection."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return loaders[position] if position < len(loaders) else None
    return loaders if position == 0 else None


def column_of_dataset(dataset: Any, name: str) -> Any:
    """An attribute of a data set with one entry for each row, seen through subsets and concatenations.

    Args:
        dataset: The data set.
        name: Of the attribute.

    Returns:
        An array, or None where there is none of this name.

    Example:
        >>> from types import SimpleNamespace
        >>> column_of_dataset(Subset(SimpleNamespace(sex=[0, 1, 1]), [2, 0]), "sex").tolist()
        [1, 0]
    """
    if isinstance(dataset, Subset):
        whole = column_of_dataset(dataset.dataset, name)
        return None if whole is None else np.asarray(whole)[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [column_of_dataset(part, name) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate([np.asarray(part) for part in parts])
    column = getattr(dataset, name, None)
    return column if isinstance(column, Sequence | np.ndarray | Tensor) or hasattr(column, "to_numpy") else None
