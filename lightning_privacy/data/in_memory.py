"""Data sets that fit in memory: tensors, gathered a batch at a time, and the DataModule around them.

A batch is one ``index_select`` per tensor instead of one Python call per example, which for small images is
most of the cost of loading.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader
    >>> from lightning_privacy.data.in_memory import InMemoryDataset, collate
    >>> dataset = InMemoryDataset(torch.arange(6.0).reshape(6, 1), torch.arange(6))
    >>> next(iter(DataLoader(dataset, batch_size=4, collate_fn=collate)))[1]
    tensor([0, 1, 2, 3])
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from typing_extensions import override

from lightning_privacy._lightning import LightningDataModule
from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.resample import ResampledDataset, resample

__all__ = ["GatheredBatch", "InMemoryDataModule", "InMemoryDataset", "Splits", "collate"]


@dataclass(frozen=True)
class GatheredBatch:
    """A batch whose examples were gathered together already; as a sequence, the examples one by one.

    Attributes:
        tensors: One of shape ``(batch, ...)`` per tensor of the data set.
    """

    tensors: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)


Sequence.register(GatheredBatch)


class InMemoryDataset(Dataset[tuple[torch.Tensor, ...]]):
    """Tensors whose first dimension counts the examples.

    Args:
        *tensors: At least one; all of the same length.

    Raises:
        ConfigurationError: No tensor, or lengths that differ.

    Example:
        >>> dataset = InMemoryDataset(torch.zeros(3, 2), torch.tensor([0, 1, 0]))
        >>> len(dataset), dataset[1][1]
        (3, tensor(1))
    """

    def __init__(self, *tensors: torch.Tensor) -> None:
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) != 1:
            raise ConfigurationError(f"tensors must be given and be of one length, got lengths {lengths}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    @override
    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: Sequence[int]) -> GatheredBatch:
        """The batch of these examples; ``DataLoader`` asks for it and passes it to :func:`collate`."""
        positions = torch.as_tensor(indices, dtype=torch.int64)
        return GatheredBatch(tuple(tensor.index_select(0, positions) for tensor in self.tensors))


def collate(examples: GatheredBatch | list[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
    """Make a batch of what :class:`InMemoryDataset` gave: examples one by one, or a batch gathered already.

    Returns:
        One tensor of shape ``(batch, ...)`` per tensor of the data set.
    """
    if isinstance(examples, GatheredBatch):
        return list(examples.tensors)
    batch: list[torch.Tensor] = default_collate(examples)
    return batch


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set.

    Attributes:
        train: What is trained on; the part privacy protects.
        val: What is looked at while training; may be ``None``. It is never taken from the training part,
            since a number computed on private data is a release of its own.
        test: What is measured on at the end.
    """

    train: InMemoryDataset
    val: InMemoryDataset | None
    test: InMemoryDataset


class InMemoryDataModule(LightningDataModule):
    """A DataModule over :class:`Splits`; sub-classes say how to load them.

    Args:
        batch_size: Examples of a training batch.
        eval_batch_size: Examples of a validation or test batch.
        resample: Options of :func:`~lightning_privacy.sampling.resample`, by which the training data are drawn once, as
            ``{"replacement": False}``; ``groups`` may be one of ``fields``. None: as they are. Not for private
            training, which wants a :class:`~lightning_privacy.sampling.BalancedSampler`.

    Attributes:
        fields: What the tensors of the data set are called.
        input_range: The smallest and the largest value of inputs, where the format has them; None where it has not.
            Never a figure of the data.

    Raises:
        ConfigurationError: A batch size is not a whole number above 0.
    """

    fields: ClassVar[tuple[str, ...]] = ("inputs", "labels")
    input_range: ClassVar[tuple[float, float] | None] = None

    def __init__(self, batch_size: int, eval_batch_size: int, resample: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.resample = resample
        self.batch_size = positive_int(batch_size=batch_size)
        self.eval_batch_size = positive_int(eval_batch_size=eval_batch_size)
        self._splits: Splits | None = None

    collate: Callable[[Any], Any] = staticmethod(collate)
    """Makes a batch of what the data set gave; a function of a module, so that loaders can be pickled."""

    @abstractmethod
    def load(self) -> Splits:
        """Read the data and split it, the same way every time."""

    @property
    def splits(self) -> Splits:
        """The three parts, loaded at first use."""
        if self._splits is None:
            self._splits = self.load()
        return self._splits

    @override
    def setup(self, stage: str) -> None:
        self._splits = self.splits

    def _train_dataset(self) -> InMemoryDataset | ResampledDataset[tuple[torch.Tensor, ...]]:
        train = self.splits.train
        if self.resample is None:
            return train
        options = dict(self.resample)
        groups = options.get("groups")
        if isinstance(groups, str):
            if groups not in self.fields:
                raise ConfigurationError(f"resample.groups must be one of {', '.join(self.fields)}, got {groups!r}")
            options["groups"] = train.tensors[self.fields.index(groups)]
        return resample(train, **{"labels": train.tensors[self.fields.index("labels")]} | options)

    @override
    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(self._train_dataset(), batch_size=self.batch_size, shuffle=True, collate_fn=self.collate)

    def _eval_dataloader(self, dataset: InMemoryDataset) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(dataset, batch_size=self.eval_batch_size, collate_fn=self.collate)

    @override
    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]] | list[object]:
        # An empty list is how Lightning is told that there is nothing to validate on.
        return [] if self.splits.val is None else self._eval_dataloader(self.splits.val)

    @override
    def test_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return self._eval_dataloader(self.splits.test)
