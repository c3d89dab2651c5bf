"""Logical batches cut into micro-batches that fit in memory, one epoch planned ahead.

A Poisson batch has a random size, a trainer wants to know how many batches an epoch has, and a step
must see all of its batch and nothing else. So the sizes of an epoch's batches are drawn when the epoch
is planned (a few microseconds each), and the indices when the batch is due; both are functions of
(seed, step), so reading an epoch again gives the same micro-batches.

Example:
    >>> from lightning_privacy.sampling.poisson import PoissonSampler
    >>> sampler = PoissonSampler(50, sample_rate=0.2, steps=10, seed=0)
    >>> microbatches = MicrobatchSampler(sampler, microbatch_size=4)
    >>> plan = microbatches.plan(first_step=0, num_steps=2)
    >>> [len(indices) for indices in microbatches] == [entry.size for entry in plan]
    True
    >>> [entry.closes_step for entry in plan].count(True)
    2
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Sampler

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.step_sampler import StepSampler

__all__ = ["Microbatch", "MicrobatchSampler"]

PLACEHOLDER = 0
"""The example that stands in for an empty batch: fixed, so that it tells nothing about the data."""


@dataclass(frozen=True, slots=True)
class Microbatch:
    """What a training loop must know about one micro-batch before it sees it.

    Attributes:
        step: the step whose batch it is part of.
        size: number of examples the loader delivers, the placeholder included.
        closes_step: whether it is the last micro-batch of its step.
        empty: whether it holds nothing but a placeholder, whose contribution must be zeroed.

    Example:
        >>> Microbatch(step=3, size=1, closes_step=True, empty=True).closes_step
        True
    """

    step: int
    size: int
    closes_step: bool
    empty: bool


class MicrobatchSampler(Sampler[list[int]]):
    """The micro-batches of one epoch, for ``DataLoader(batch_sampler=...)``.

    A batch of b examples becomes ceil(b / microbatch_size) micro-batches of nearly equal size; one
    without examples becomes a placeholder, so that every step has a backward to release its noise in.
    Micro-batches never span two steps. With replicas each cuts its own shard, and all into the same
    number of pieces, so that none waits for another; a piece for which examples are missing is a
    placeholder too.

    A copy or an unpickled sampler has no plan.

    Args:
        sampler: where the batches come from; its position is neither read nor moved.
        microbatch_size: most examples of a micro-batch, >= 1.

    Raises:
        ConfigurationError: ``microbatch_size`` is not a whole number >= 1.

    Example:
        >>> from lightning_privacy.sampling.poisson import PoissonSampler
        >>> sampler = PoissonSampler(50, sample_rate=1.0, steps=1)
        >>> microbatches = MicrobatchSampler(sampler, microbatch_size=20)
        >>> [entry.size for entry in microbatches.plan(first_step=0, num_steps=1)]
        [17, 17, 16]
    """

    def __init__(self, sampler: StepSampler, *, microbatch_size: int) -> None:
        self._sampler = sampler
        self._microbatch_size = positive_int(microbatch_size=microbatch_size)
        self._plan: tuple[Microbatch, ...] | None = None
        self._offset = 0
        self._drawn: tuple[int, list[int]] | None = None  # the last step whose examples were asked for

    @property
    def sampler(self) -> StepSampler:
        """Where the batches come from."""
        return self._sampler

    @property
    def microbatch_size(self) -> int:
        """Most examples of a micro-batch."""
        return self._microbatch_size

    def plan(self, first_step: int, num_steps: int, offset: int = 0) -> list[Microbatch]:
        """Fix the micro-batches of an epoch and return what is in store.

        An iterator made before keeps to the plan it was made under.

        Args:
            first_step: the step of the first batch, >= 0.
            num_steps: number of batches, >= 0.
            offset: number of batches of this epoch that the trainer counts as done (when it resumes
                inside an epoch): the first entry of the plan is then number ``offset``.

        Raises:
            ConfigurationError: an argument is not a whole number >= 0.
        """
        first = non_negative_int(first_step=first_step)
        steps = range(first, first + non_negative_int(num_steps=num_steps))
        done = non_negative_int(offset=offset)
        plan = [entry for step in steps for entry in self._cut(step)]
        self._plan, self._offset = tuple(plan), done
        return plan

    def microbatch(self, batch_idx: int) -> Microbatch:
        """The entry of the plan for the trainer's batch number ``batch_idx`` of this epoch.

        Raises:
            ConfigurationError: there is no plan, or it has no such entry.
        """
        plan = self._current()
        index = non_negative_int(batch_idx=batch_idx) - self._offset
        if not 0 <= index < len(plan):
            raise ConfigurationError(
                f"batch_idx must be in [{self._offset}, {self._offset + len(plan)}), the batches this epoch "
                f"was planned for, got {batch_idx!r}: plan the epoch before its first batch"
            )
        return plan[index]

    def indices(self, batch_idx: int) -> list[int]:
        """The examples in the trainer's batch number ``batch_idx`` of this epoch; none where it is a placeholder.

        They are drawn again, so this may be asked before or after the batch was read.

        Raises:
            ConfigurationError: as :meth:`microbatch`.
        """
        entry, plan = self.microbatch(batch_idx), self._current()
        if entry.empty:
            return []
        if self._drawn is None or self._drawn[0] != entry.step:
            self._drawn = entry.step, self._sampler.batch(entry.step).tolist()
        index, start = batch_idx - self._offset, 0
        while index > 0 and plan[index - 1].step == entry.step:
            index -= 1
            start += plan[index].size
        return self._drawn[1][start : start + entry.size]

    def __iter__(self) -> Iterator[list[int]]:
        return self._iterate(self._current())

    def _iterate(self, plan: tuple[Microbatch, ...]) -> Iterator[list[int]]:
        indices: list[int] = []
        start, opens_step = 0, True
        for entry in plan:
            if opens_step:
                indices, start = self._sampler.batch(entry.step).tolist(), 0
            if entry.empty:
                yield [PLACEHOLDER]
            else:
                yield indices[start : start + entry.size]
                start += entry.size
            opens_step = entry.closes_step

    def __len__(self) -> int:
        return len(self._current())

    def _current(self) -> tuple[Microbatch, ...]:
        if self._plan is None:
            raise ConfigurationError(
                "the epoch has no plan: call plan(first_step, num_steps) before the first batch is read"
            )
        return self._plan

    def _cut(self, step: int) -> Iterator[Microbatch]:
        """The micro-batches of one step, from the size of its batch alone."""
        replicas = self._sampler.num_replicas
        whole = self._sampler.size(step)
        largest_shard = -(-whole // replicas)
        pieces = max(1, -(-largest_shard // self._microbatch_size))
        shard = len(range(self._sampler.rank, whole, replicas))
        size, larger = divmod(shard, pieces)
        for piece in range(pieces):
            count = size + (piece < larger)
            yield Microbatch(step=step, size=max(1, count), closes_step=piece == pieces - 1, empty=count == 0)

    def __getstate__(self) -> dict[str, Any]:
        # A copied sampler without a seed draws other batches: sizes planned for the original are void.
        return self.__dict__ | {"_plan": None, "_offset": 0, "_drawn": None}

    def __repr__(self) -> str:
        return f"MicrobatchSampler({self._sampler!r}, microbatch_size={self._microbatch_size})"
