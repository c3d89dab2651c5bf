"""How the number of each example gets from the data set to the place where batches are augmented.

The train data set and its collate function are wrapped: examples come with their number, batches with the numbers of
their examples, and what the user's own collate function sees is what it has always seen.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> loader = keyed_loader(DataLoader(TensorDataset(torch.zeros(4, 2)), batch_size=2))
    >>> batch = next(iter(loader))
    >>> batch.indices, batch.batch[0].shape
    (tensor([0, 1]), torch.Size([2, 2]))
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.sampling.loader_options import loader_options

__all__ = [
    "DatasetProxy",
    "Key",
    "KeyedBatch",
    "KeyedCollate",
    "KeyedDataset",
    "KeyedExample",
    "keyed_loader",
    "unproxied",
]


class Key:
    """The number of an example.

    Not a plain number: code that looks through examples, such as the independence probe, must not take it for a label.

    Args:
        index: position in the data set.
    """

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class KeyedExample(NamedTuple):
    """An example and its number."""

    example: Any
    key: Key


class KeyedBatch(NamedTuple):
    """A batch and the numbers of its examples, int64, ``(B,)``."""

    batch: Any
    indices: Tensor


class _Together(list[KeyedExample]):
    """Examples that a data set gave together, and their numbers.

    It is the list of them where there is one, as for the independence probe, which looks at examples one by one; an
    object for each of many would cost time.
    """

    def __init__(self, examples: Any, indices: list[int]) -> None:
        super().__init__([KeyedExample(examples[0], Key(indices[0]))] if len(indices) == 1 else [])
        self.examples, self.indices = examples, indices


class DatasetProxy(Dataset[Any]):
    """A data set that stands in front of another one and has its attributes.

    Args:
        dataset: the other one.
    """

    def __init__(self, dataset: Any) -> None:
        self._proxied = dataset

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_proxied":  # while it is unpickled or copied
            raise AttributeError(name)
        return getattr(self._proxied, name)

    def __len__(self) -> int:
        return len(self._proxied)


def unproxied(dataset: Any) -> Any:
    """The data set that the user gave, where it stands behind others.

    A proxy has the attributes of what is behind it, but not its type: who asks for that asks here.
    """
    while isinstance(dataset, DatasetProxy):
        dataset = dataset._proxied
    return dataset


class KeyedDataset(DatasetProxy):
    """Gives the examples of another data set with their numbers."""

    @override
    def __getitem__(self, index: int) -> KeyedExample:
        return KeyedExample(self._proxied[index], Key(int(index)))

    def __getitems__(self, indices: Sequence[int]) -> Any:
        several = getattr(self._proxied, "__getitems__", None)
        data = self._proxied
        examples = [data[index] for index in indices] if several is None else several(indices)
        return _Together(examples, list(indices))


class KeyedCollate:
    """Makes a batch of examples with their numbers.

    Args:
        collate: makes one of examples without.
        finish: what to do with the batch; nothing where not given.
    """

    def __init__(self, collate: Callable[[Any], Any], finish: Callable[[KeyedBatch], Any] | None = None) -> None:
        self.collate, self.finish = collate, finish

    def __call__(self, examples: _Together | list[KeyedExample]) -> Any:
        """Return the batch of the examples."""
        if isinstance(examples, _Together):
            indices, batch = examples.indices, self.collate(examples.examples)
        else:
            indices = [example.key.index for example in examples]
            batch = self.collate([example.example for example in examples])
        keyed = KeyedBatch(batch, torch.tensor(indices, dtype=torch.int64))
        return keyed if self.finish is None else self.finish(keyed)


def check_loader(loader: Any) -> None:
    """Refuse a train loader whose examples have no numbers.

    Raises:
        UnsupportedError: An iterable data set, a loader that doesn't make batches, or no DataLoader at all.
    """
    if not isinstance(loader, DataLoader):
        raise UnsupportedError(
            f"train_dataloader must give torch DataLoaders for AugmentationDataModule, got {type(loader).__name__}"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise UnsupportedError(
            f"the train data set {type(loader.dataset).__name__} is iterable: its examples have no number that their "
            "augmentation could be reproducible from. Give a data set with __len__ and __getitem__, or transform "
            "inside the data set"
        )
    if loader.batch_sampler is None:
        raise UnsupportedError(
            "the train loader has batch_size=None, so that nobody knows which examples a batch holds: give it a "
            "batch_size, and the data set examples"
        )


def keyed_loader(loader: DataLoader[Any], finish: Callable[[KeyedBatch], Any] | None = None) -> DataLoader[Any]:
    """The same loader, whose batches come with the numbers of their examples.

    Args:
        loader: the user's, which is not touched.
        finish: what to do with each batch, in the process that makes it.
    """
    collate = KeyedCollate(loader.collate_fn, finish)
    return with_dataset(loader, KeyedDataset(loader.dataset), collate)


def with_dataset(
    loader: DataLoader[Any], dataset: Dataset[Any], collate: Callable[[Any], Any] | None = None
) -> DataLoader[Any]:
    """The same loader over another data set of the same length.

    Args:
        loader: the user's, which is not touched.
        dataset: takes the place of its own.
        collate: takes the place of its collate function, where given.
    """
    check_loader(loader)
    if type(loader) is not DataLoader:
        # Nobody knows what its constructor takes.
        other = copy.copy(loader)
        vars(other).update(dataset=dataset, collate_fn=loader.collate_fn if collate is None else collate)
        vars(other)["_iterator"] = None  # persistent workers of the user's loader have its data set
        return other
    batches: dict[str, Any] = {"batch_sampler": loader.batch_sampler}
    if loader.batch_size is not None:  # the loader made its batch sampler itself, and would make it anew
        batches = {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}
    return DataLoader(
        dataset,
        collate_fn=loader.collate_fn if collate is None else collate,
        **batches,
        **loader_options(loader),
    )


def may_repeat(loader: DataLoader[Any]) -> bool:
    """Whether an example may come more than once in an epoch of the loader."""
    batches: Any = loader.batch_sampler
    # Not the loader's own sampler, which nobody asks where batches are given.
    sampler: Any = batches.sampler if type(batches) is BatchSampler else batches
    replacement = getattr(sampler, "replacement", None)
    if isinstance(replacement, bool) and replacement:
        return True
    if isinstance(sampler, RandomSampler):
        return sampler.num_samples > len(sampler.data_source)
    known = isinstance(sampler, SequentialSampler | DistributedSampler | SubsetRandomSampler)
    return not known and replacement is not False


def single_loaders(loaders: Any) -> list[DataLoader[Any]]:
    """All loaders of a collection of them.

    Raises:
        ConfigurationError: There is none.
    """
    if isinstance(loaders, DataLoader):
        return [loaders]
    items = loaders.values() if isinstance(loaders, dict) else loaders if isinstance(loaders, list | tuple) else None
    if items is None:
        raise ConfigurationError(
            f"train_dataloader must give a DataLoader, or a list or dict of them, got {type(loaders).__name__}"
        )
    return [one for item in items for one in single_loaders(item)]
