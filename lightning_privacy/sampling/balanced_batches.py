"""Batches that each have the shares asked for, not on average only.

With shares s and batches of B examples, a cell has B s of them in every batch; where that is no whole number, one more
or one less, so that over the batches the mean is B s. The counts of batch t are those of a systematic sample: the
points (i + u_t) / B on a line of which each cell has its share, where u_t runs through the multiples of the golden
ratio, so that the surplus goes round evenly.

Example:
    >>> labels = [0] * 90 + [1] * 10
    >>> batches = BalancedBatchSampler(labels, batch_size=8, num_samples=80)
    >>> {sum(labels[index] for index in batch) for batch in batches}
    {4}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DistributedSampler
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.balanced import BalancedSampler
from lightning_privacy.sampling.strata import grouped
from lightning_privacy.sampling.weighting import Weighting
from lightning_privacy.sampling.without_replacement import subsets

__all__ = ["BalancedBatchSampler"]

_BLOCK = 2**16
_GOLDEN = (5**0.5 - 1) / 2


class BalancedBatchSampler(BatchSampler):
    """Lists of indices for ``DataLoader(batch_sampler=...)``, each with the shares as asked.

    Each of several processes takes whole batches. Lightning leaves it as it is if the ``DataLoader`` is made in
    ``train_dataloader``; for one that is passed to ``fit``, several devices need
    ``Trainer(use_distributed_sampler=False)``.

    Args:
        labels: See :class:`~lightning_privacy.sampling.BalancedSampler`, also for what is not listed here.
        batch_size: Examples of a batch, in each process.
        groups: Group of each example.
        balance: What shares are of.
        replacement: Whether an example can come twice in an epoch.
        num_samples: Length of an epoch over all processes; what is no whole batch is left out.
        weighting: How the shares follow from the counts.
        seed: Of all draws.
        num_replicas: How many processes share the batches.
        rank: Which of them this is.
        sampler: A ``DistributedSampler`` whose ``num_replicas`` and ``rank`` are taken; Lightning passes one.
        drop_last: Without effect, as all batches are whole; Lightning passes it.

    Attributes:
        sampler: Holds shares, counts and epoch.

    Raises:
        ConfigurationError: As for :class:`~lightning_privacy.sampling.BalancedSampler`, or an epoch has not one batch
            for each process.

    Example:
        >>> batches = BalancedBatchSampler(["a"] * 5 + ["b"] * 3, batch_size=2, replacement=False)
        >>> len(batches), sorted(index for batch in batches for index in batch if index >= 5)
        (3, [5, 6, 7])
    """

    sampler: _BatchedSampler

    def __init__(
        self,
        labels: object,
        batch_size: int,
        *,
        groups: object = None,
        balance: str = "class",
        replacement: bool = True,
        num_samples: int | None = None,
        weighting: Weighting = "inverse",
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        sampler: DistributedSampler[int] | None = None,
        drop_last: bool = True,
    ) -> None:
        if isinstance(labels, DistributedSampler):
            raise ConfigurationError(
                "labels is a DistributedSampler: Lightning makes this batch sampler anew for several devices, and has "
                "not seen its arguments; make the DataLoader in train_dataloader(), or set "
                "Trainer(use_distributed_sampler=False), as the batches are divided among the processes already"
            )
        if sampler is not None:
            num_replicas, rank = sampler.num_replicas, sampler.rank
        shared = _BatchedSampler(
            labels,
            positive_int(batch_size=batch_size),
            groups=groups,
            balance=balance,
            replacement=replacement,
            num_samples=num_samples,
            weighting=weighting,
            seed=seed,
            num_replicas=num_replicas,
            rank=rank,
        )
        super().__init__(shared, batch_size, drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.sampler.set_epoch(epoch)

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """Where the sampler is; ``position``: batches used, where a loader has drawn further ahead."""
        return self.sampler.state_dict(None if position is None else position * self.batch_size)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved place.

        Raises:
            CheckpointError: The state is of a sampler that draws otherwise.
        """
        self.sampler.load_state_dict(state)


class _BatchedSampler(BalancedSampler):
    """The batches one after the other."""

    def __init__(self, labels: object, batch_size: int, **options: Any) -> None:
        super().__init__(labels, **options)
        self.batch_size = batch_size
        if self.weights is not None:
            raise ConfigurationError("labels must have one class per example for batches with exact shares")
        # Rounded: a product that misses a whole number by its rounding must not cost a cell its place.
        self._edges = np.round(np.cumsum(self.shares) * batch_size, 9)
        self._edges[-1] = batch_size
        self._batches = self._number_of_batches()

    def _number_of_batches(self) -> int:
        """In an epoch, over all processes."""
        batches = self.num_samples // self.batch_size
        if not self.replacement:
            totals = np.zeros_like(self.counts)
            for first in range(0, batches, _BLOCK):
                totals += self._sizes(first, min(first + _BLOCK, batches)).sum(0)
            while (totals > self.counts).any():
                batches -= 1
                totals -= self._sizes(batches, batches + 1)[0]
        if batches == 0:
            raise ConfigurationError(
                f"batch_size={self.batch_size} is more than the {self.num_samples} samples of an epoch: make it smaller"
                f"{'' if self.replacement else ', or set replacement=True'}"
            )
        return batches

    def _sizes(self, first: int, last: int) -> NDArray[np.int64]:
        """Examples of each cell in each of these batches, shape ``(last - first, C)``."""
        offsets = np.modf(0.5 + np.arange(first, last) * _GOLDEN)[0]
        below = np.floor(self._edges + offsets[:, None]).astype(np.int64)
        return np.asarray(np.diff(below, axis=1, prepend=0), np.int64)

    @override
    def _local_length(self) -> int:
        return self._batches // self.num_replicas * self.batch_size

    @override
    def _must_agree(self) -> dict[str, Any]:
        return super()._must_agree() | {"batch_size": self.batch_size}

    @override
    def _local(self, place: int) -> int:
        # A batch is not cut: what was begun under another number of processes is left out.
        batches = -(-place // (self.num_replicas * self.batch_size))
        return min(batches * self.batch_size, len(self))

    @override
    def _blocks(self, epoch: int, start: int) -> Iterator[NDArray[np.signedinteger]]:
        replicas, end = self.num_replicas, self.total_size // self.batch_size
        batch = start // self.batch_size * replicas + self.rank
        whole = None if self.replacement else self._order(epoch)
        size = max(1, _BLOCK // max(self.batch_size, len(self.counts)))
        while batch < end:
            number = batch // size
            first = number * size
            block = self._block(epoch, number, size) if whole is None else whole[first : first + size]
            yield block[batch - first : min(size, end - first) : replicas].reshape(-1)
            batch += (min(first + size, end) - batch + replicas - 1) // replicas * replicas

    @override
    def _block(self, epoch: int, number: int, size: int) -> NDArray[np.signedinteger]:
        first = number * size
        count = min(size, self._batches - first)
        generator = self._generator(epoch, number)
        # Other epochs have the surplus in other cells.
        cells = self._cells(generator, epoch * self._batches + first, count)
        strata = np.cumsum(self.shares > 0) - 1  # cells that are never drawn have none
        return self._strata.draw_from(generator, strata[cells.reshape(-1)]).reshape(cells.shape)

    @override
    def _order(self, epoch: int) -> NDArray[np.signedinteger]:
        generator = self._generator(epoch, 0)
        cells = self._cells(generator, 0, self._batches).reshape(-1)
        members, counts = grouped(self.cells, len(self.counts))
        places, sizes = grouped(cells, len(self.counts))
        order = np.empty(len(cells), members.dtype)
        order[places] = subsets(generator, members, counts, sizes)
        return order.reshape(-1, self.batch_size)

    def _cells(self, generator: np.random.Generator, first: int, count: int) -> NDArray[np.int64]:
        """The cell of each place of some batches, in random order, shape ``(count, batch_size)``."""
        sizes = self._sizes(first, first + count)
        everywhere = np.broadcast_to(np.arange(sizes.shape[1]), sizes.shape)
        cells = np.repeat(everywhere.reshape(-1), sizes.reshape(-1)).reshape(count, self.batch_size)
        return generator.permuted(cells, axis=1)
