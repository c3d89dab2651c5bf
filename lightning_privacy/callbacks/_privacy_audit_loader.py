"""The user's train loader over another data set, as an audit needs it.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> loader = DataLoader(TensorDataset(torch.zeros(10, 2)), batch_size=4, shuffle=True, drop_last=True)
    >>> other = loader_over(loader, TensorDataset(torch.zeros(13, 2)))
    >>> len(other), other.batch_size, type(other.sampler).__name__
    (3, 4, 'RandomSampler')
"""

from __future__ import annotations

import copy
from collections.abc import Sized
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler

from lightning_privacy.errors import ConfigurationError, UnsupportedError

__all__ = ["check_audited_loader", "loader_over"]


def check_audited_loader(loader: object) -> DataLoader[Any]:
    """Refuse a train loader to which no canaries can be added.

    Args:
        loader: What the user gave as train loader.

    Returns:
        The loader.

    Raises:
        UnsupportedError: Several loaders, an iterable data set, or examples that are chosen in a way of their own.
        ConfigurationError: The data set is empty.
    """
    if not isinstance(loader, DataLoader):
        raise UnsupportedError(
            f"train_dataloader must be one torch DataLoader for PrivacyAudit, got {type(loader).__name__}: canaries "
            "are examples of one data set. Join the data sets with torch.utils.data.ConcatDataset"
        )
    if isinstance(loader.dataset, IterableDataset) or not isinstance(loader.dataset, Sized):
        raise UnsupportedError(
            f"the train data set {type(loader.dataset).__name__} has no length or is iterable, so that no example "
            "of it can be told from another: PrivacyAudit needs a data set with __len__ and __getitem__"
        )
    if not len(loader.dataset):
        raise ConfigurationError("the train data set is empty: there is nothing to audit")
    batches, sampler = loader.batch_sampler, loader.sampler
    if isinstance(batches, BatchSampler):
        sampler = batches.sampler if type(batches) is BatchSampler else batches
    if type(batches) is not BatchSampler or not _is_plain(sampler):
        raise UnsupportedError(
            f"the train loader chooses its examples by {type(sampler).__name__}, which knows nothing of canaries: "
            "give it shuffle=True, or shuffle=False, and a batch_size; of a balanced run, audit the same one without it"
        )
    return loader


def _is_plain(sampler: object) -> bool:
    if isinstance(sampler, RandomSampler):
        whole = isinstance(sampler.data_source, Sized) and sampler.num_samples == len(sampler.data_source)
        return type(sampler) is RandomSampler and not sampler.replacement and whole
    return type(sampler) is SequentialSampler


def loader_over(loader: DataLoader[Any], dataset: Any) -> DataLoader[Any]:
    """The same loader over a data set of another length.

    Args:
        loader: The user's, as :func:`check_audited_loader` lets pass; it is not touched.
        dataset: Takes the place of its own.
    """
    shuffled = isinstance(loader.sampler, RandomSampler)
    generator = getattr(loader.sampler, "generator", None)
    sampler: Sampler[int] = RandomSampler(dataset, generator=generator) if shuffled else SequentialSampler(dataset)
    # Nobody knows what the constructor of a subclass takes, and a loader refuses another data set once it was made.
    other = copy.copy(loader)
    batches = BatchSampler(sampler, loader.batch_size or 1, loader.drop_last)
    vars(other).update(dataset=dataset, sampler=sampler, batch_sampler=batches, _iterator=None)
    return other
