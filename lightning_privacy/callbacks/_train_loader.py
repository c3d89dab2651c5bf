"""The user's train loader: what of it can be sampled privately, and the loader that does so.

Everything the user configured stays (data set, workers, collate function, pinned memory, generator),
only the choice of the examples is replaced. A loader whose own choice of examples would get lost
without a word is refused.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> loader = DataLoader(TensorDataset(torch.zeros(10, 2)), batch_size=4, shuffle=True)
    >>> facts = examine(loader, accumulate=2)
    >>> facts.num_examples, facts.expected_batch_size, facts.sample_rate
    (10, 8, 0.8)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)
from typing_extensions import override

from lightning_privacy.data.nested import is_resampled
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.sampling.balanced import BalancedSampler
from lightning_privacy.sampling.balanced_batches import BalancedBatchSampler
from lightning_privacy.sampling.loader_options import loader_options
from lightning_privacy.sampling.resumable_loader import ResumableDataLoader

__all__ = ["LoaderFacts", "WholeEpoch", "examine", "sampler_of", "undivided", "with_batch_sampler"]

_OWN_ITERATION = ("__iter__", "__len__", "_get_iterator", "_index_sampler", "_auto_collation")


@dataclass(frozen=True)
class LoaderFacts:
    """The numbers of a loader that a private run is planned from.

    Args:
        num_examples: Size of the data set.
        batch_size: Batch size of the loader. About as many examples are in memory at once: a draw that is larger by
            up to an eighth is not cut (``_epoch_batches.largest_microbatch``).
        expected_batch_size: Examples per optimizer step on average: ``batch_size`` times the accumulated
            batches.
        loader_batches: ``len`` of the loader.
    """

    num_examples: int
    batch_size: int
    expected_batch_size: int
    loader_batches: int

    @property
    def sample_rate(self) -> float:
        """Probability of each example to be in the batch of a step."""
        return self.expected_batch_size / self.num_examples

    @property
    def accumulates(self) -> bool:
        """Whether a step takes several batches of the loader."""
        return self.expected_batch_size != self.batch_size


class WholeEpoch(Sampler[int]):
    """Stands in for a balanced sampler that divides its epoch among processes, and counts all of it.

    Args:
        sampler: The balanced one; a private fit asks what it balances, and draws by itself.
    """

    def __init__(self, sampler: BalancedSampler) -> None:
        self.sampler = sampler

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(self.sampler)

    def __len__(self) -> int:
        return self.sampler.num_samples


def sampler_of(loader: DataLoader[Any]) -> object:
    """The sampler that the user gave the loader."""
    sampler = loader.sampler
    return sampler.sampler if isinstance(sampler, WholeEpoch) else sampler


def undivided(loader: Any, *, processes: int) -> Any:
    """The same loader over all examples, where it has a sampler that gives one process of several its part.

    That is torch's own, with a shuffled epoch, or a balanced one. A private fit shares out each random draw instead,
    so nothing is lost. Any other sampler is left for :func:`examine` to judge.

    Args:
        loader: What the user gave as train loader; it is not touched.
        processes: How many train.
    """
    if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler:
        return loader
    sampler = loader.sampler
    if isinstance(sampler, BalancedSampler):
        return loader if processes == 1 else _with_sampler(loader, WholeEpoch(sampler))
    if type(sampler) is not DistributedSampler:
        return loader
    if (
        sampler.dataset is not loader.dataset
        or sampler.num_replicas != processes
        or not isinstance(loader.dataset, Sized)
    ):
        return loader
    plain: Sampler[int] = RandomSampler(loader.dataset) if sampler.shuffle else SequentialSampler(loader.dataset)
    return _with_sampler(loader, plain)


def _with_sampler(loader: DataLoader[Any], sampler: Sampler[int]) -> DataLoader[Any]:
    whole = copy.copy(loader)
    # A loader refuses to be given another sampler; this copy has not been iterated over yet.
    batches = BatchSampler(sampler, loader.batch_size or 1, loader.drop_last)
    vars(whole).update(sampler=sampler, batch_sampler=batches)
    return whole


def examine(loader: object, *, accumulate: int) -> LoaderFacts:
    """Check that the loader's examples can be Poisson sampled instead, and return its numbers.

    Args:
        loader: What the user gave as train loader.
        accumulate: The trainer's ``accumulate_grad_batches``.

    Raises:
        UnsupportedError: Several loaders, an iterable data set, or a choice of examples of the loader's own.
        ConfigurationError: A data set that is empty, or smaller than one step's batch.
    """
    if not isinstance(loader, DataLoader):
        raise UnsupportedError(
            f"train_dataloader must be one torch DataLoader, got {type(loader).__name__}: with several "
            "loaders (a list, a dict, a CombinedLoader) or another iterable there is no single probability "
            "for an example to be in a step. Join the data sets with torch.utils.data.ConcatDataset and "
            "give one DataLoader."
        )
    _check_dataset(loader)
    _check_sampling(loader)
    num_examples = len(loader.dataset) if isinstance(loader.dataset, Sized) else 0
    if num_examples == 0:
        raise ConfigurationError("the train data set is empty: it must have at least one example")
    batch_size = loader.batch_size or 1
    expected = batch_size * accumulate
    if expected > num_examples:
        raise ConfigurationError(
            f"the train data set has {num_examples} examples, fewer than one step's batch of {expected} "
            f"(batch_size={batch_size} times accumulate_grad_batches={accumulate}): lower either, so that "
            "the product is at most the number of examples"
        )
    return LoaderFacts(num_examples, batch_size, expected, len(loader))


def _check_dataset(loader: DataLoader[Any]) -> None:
    name = type(loader.dataset).__name__
    if isinstance(loader.dataset, IterableDataset):
        raise UnsupportedError(
            f"the train data set {name} is iterable: its examples can't be sampled independently of each "
            "other, which the accounting needs. Give a data set with __len__ and __getitem__."
        )
    if is_resampled(loader.dataset):
        raise UnsupportedError(
            "the train data set is resampled: an example that is in it twice has twice the influence, and who is "
            "in it depends on everybody's labels, which nothing pays for. Train on the original data set with "
            "sampler=BalancedSampler(labels), which is drawn privately."
        )
    if not isinstance(loader.dataset, Sized):
        raise UnsupportedError(
            f"the train data set {name} has no length: the probability for an example to be in a step needs "
            "the number of examples. Give it a __len__."
        )
    for method in _OWN_ITERATION:
        # A resumable loader only counts what its sampler, which a private fit asks and replaces, has drawn.
        known = (getattr(DataLoader, method), getattr(ResumableDataLoader, method))
        if getattr(type(loader), method) not in known:
            raise UnsupportedError(
                f"the train loader {type(loader).__name__} overrides DataLoader.{method}: its own choice of "
                "batches would be lost. Give a plain torch DataLoader."
            )


def _check_sampling(loader: DataLoader[Any]) -> None:
    if isinstance(loader.batch_sampler, BalancedBatchSampler):
        raise UnsupportedError(
            "the train loader has a BalancedBatchSampler, whose batches have exact shares: private training must draw "
            "the batches itself. Give the DataLoader a batch_size and sampler=BalancedSampler(labels), which is drawn "
            "privately with these shares on average."
        )
    if loader.batch_size is None or loader.batch_sampler is None:
        got = "a batch_sampler" if loader.batch_sampler is not None else "batch_size=None"
        raise UnsupportedError(
            f"the train loader has {got} of its own: private training must draw the batches itself. Give the "
            "DataLoader a batch_size and shuffle=True instead."
        )
    if type(loader.batch_sampler) is not BatchSampler:
        raise UnsupportedError(
            f"the train loader has the batch_sampler {type(loader.batch_sampler).__name__} of its own: "
            "private training must draw the batches itself. Give the DataLoader a batch_size and "
            "shuffle=True instead."
        )
    sampler = loader.sampler
    replaced = isinstance(sampler, RandomSampler) and (
        sampler.replacement or sampler.num_samples != len(sampler.data_source)
    )
    if isinstance(sampler, BalancedSampler | WholeEpoch) or type(sampler) is WeightedRandomSampler:
        return  # what it balances is drawn privately, and paid for
    if type(sampler) not in (RandomSampler, SequentialSampler) or replaced:
        kind = f"{type(sampler).__name__} with replacement or num_samples" if replaced else type(sampler).__name__
        raise UnsupportedError(
            f"the train loader has the sampler {kind}: replacing it would silently undo its weighting or "
            "its choice of examples, and keeping it would void the accounting, which holds for equal and "
            "independent inclusion. Use shuffle=True; choose examples with torch.utils.data.Subset, and "
            "balance classes with sampler=BalancedSampler(labels), which is drawn privately and paid for, or by "
            "weights in the loss: cross_entropy(..., weight=w, reduction='none').mean(), since its own weighted mean "
            "divides by the weights in the batch."
        )


def with_batch_sampler(loader: DataLoader[Any], batch_sampler: Sampler[list[int]]) -> DataLoader[Any]:
    """The same loader with other batches.

    Args:
        loader: The user's loader, which is not touched.
        batch_sampler: Gives the indices of each batch.
    """
    return DataLoader(
        loader.dataset, batch_sampler=batch_sampler, collate_fn=loader.collate_fn, **loader_options(loader)
    )
