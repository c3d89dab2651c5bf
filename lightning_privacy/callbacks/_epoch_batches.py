"""The batch sampler of the private train loader: micro-batches of an epoch that was planned at its start.

Lightning calls ``set_epoch`` on ``batch_sampler.sampler`` before every epoch, after a resumption too and
before it looks at the loader's length. That call is where an epoch is planned.

Example:
    >>> from lightning_privacy.sampling import PoissonSampler
    >>> batches = EpochBatches(PoissonSampler(20, sample_rate=1.0, steps=4), microbatch_size=8)
    >>> plan = batches.plan(first_step=0, num_steps=1, offset=5)
    >>> len(batches), [len(indices) for indices in batches], batches.entry(7).closes_step
    (8, [7, 7, 6], True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks._run_state import RunSettings
from lightning_privacy.sampling.balanced_poisson import BalancedPoissonSampler
from lightning_privacy.sampling.microbatch import Microbatch, MicrobatchSampler
from lightning_privacy.sampling.poisson import PoissonSampler
from lightning_privacy.sampling.step_sampler import StepSampler

__all__ = ["EpochBatches", "example_weights", "largest_microbatch", "private_sampler"]

# Draws are functions of their number, so the sampler's own end is never used; the noise numbers 48 bits of
# steps.
_NUMBERED_STEPS = 2**48

# Half of all Poisson draws are larger than their mean, most by a little. An eighth more rows saves nearly all of
# those at 256 rows, and two in five at 16, the second forward and backward; the memory of an eighth is what it costs.
_ROOM = 8


def largest_microbatch(rows: int) -> int:
    """The most rows of a micro-batch: those of the user's own batches, and an eighth more.

    Args:
        rows: Batch size of the user's loader.

    Example:
        >>> largest_microbatch(256), largest_microbatch(4)
        (288, 4)
    """
    return rows + rows // _ROOM


def private_sampler(
    settings: RunSettings, *, cells: NDArray[np.int64] | None, seed: int | None, processes: Processes
) -> StepSampler:
    """What draws the batches of a run, at the rates of its settings.

    Args:
        settings: Of the run.
        cells: Number of the class of each example, where classes are balanced.
        seed: None for the operating system's randomness.
        processes: Those that share each draw.
    """
    balance = settings.balance
    if balance is None or balance["rates"] is None or cells is None:
        return PoissonSampler(
            settings.num_examples,
            sample_rate=settings.sample_rate,
            steps=_NUMBERED_STEPS,
            seed=seed,
            num_replicas=processes.count,
            rank=processes.rank,
        )
    return BalancedPoissonSampler(
        cells,
        rates=balance["rates"],
        steps=_NUMBERED_STEPS,
        seed=seed,
        num_replicas=processes.count,
        rank=processes.rank,
    )


def example_weights(settings: RunSettings, cells: NDArray[np.int64] | None) -> Tensor | None:
    """The weight of each example's loss, shape (N,); None where all have the same."""
    balance = settings.balance
    if balance is None or balance["loss_weights"] is None or cells is None:
        return None
    return torch.tensor(balance["loss_weights"], dtype=torch.float32)[torch.from_numpy(cells)]


class _EpochStart:
    """Passes ``set_epoch`` on, once someone listens."""

    def __init__(self) -> None:
        self.listener: Callable[[], None] | None = None

    def set_epoch(self, epoch: int) -> None:
        if self.listener is not None:
            self.listener()


class EpochBatches(Sampler[list[int]]):
    """Yields the index lists of the micro-batches of the planned epoch.

    Its length counts the batches a resumed epoch has behind it too, as Lightning does.

    Args:
        sampler: Draws the batch of each step.
        microbatch_size: Most examples of a micro-batch.
        views: How often each index comes, one after the other: a data set that augments at random gives as many views
            of the example.
        weights: Weight of each example's loss, shape (N,); None where all have the same.
    """

    def __init__(
        self, sampler: StepSampler, *, microbatch_size: int, views: int = 1, weights: Tensor | None = None
    ) -> None:
        self._views = views
        self._weights = weights
        self._microbatches = MicrobatchSampler(sampler, microbatch_size=microbatch_size)
        self._microbatches.plan(0, 0)
        self._length = 0
        self.sampler = _EpochStart()

    def on_epoch_start(self, listener: Callable[[], None] | None) -> None:
        """Call ``listener`` when Lightning starts an epoch."""
        self.sampler.listener = listener

    def plan(self, first_step: int, num_steps: int, offset: int = 0) -> list[Microbatch]:
        """Fix the micro-batches of the epoch; see :meth:`MicrobatchSampler.plan`."""
        plan = self._microbatches.plan(first_step, num_steps, offset)
        self._length = offset + len(plan)
        return plan

    def entry(self, batch_idx: int) -> Microbatch:
        """What is planned for the trainer's batch number ``batch_idx`` of this epoch."""
        return self._microbatches.microbatch(batch_idx)

    def weights(self, batch_idx: int) -> Tensor | None:
        """The weights of the losses in the trainer's batch number ``batch_idx``, one for each example."""
        if self._weights is None or not (indices := self._microbatches.indices(batch_idx)):
            return None
        return self._weights[torch.tensor(indices)]

    def __iter__(self) -> Iterator[list[int]]:
        return self._repeated(iter(self._microbatches))

    def _repeated(self, batches: Iterator[list[int]]) -> Iterator[list[int]]:
        for indices in batches:
            yield [index for index in indices for _ in range(self._views)]

    def __len__(self) -> int:
        return self._length
