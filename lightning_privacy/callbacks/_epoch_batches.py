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

from torch.utils.data import Sampler

from lightning_privacy.sampling.microbatch import Microbatch, MicrobatchSampler
from lightning_privacy.sampling.poisson import PoissonSampler

__all__ = ["EpochBatches"]


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
    """

    def __init__(self, sampler: PoissonSampler, *, microbatch_size: int, views: int = 1) -> None:
        self._views = views
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

    def __iter__(self) -> Iterator[list[int]]:
        return self._repeated(iter(self._microbatches))

    def _repeated(self, batches: Iterator[list[int]]) -> Iterator[list[int]]:
        for indices in batches:
            yield [index for index in indices for _ in range(self._views)]

    def __len__(self) -> int:
        return self._length
