"""Counting: what epochs, steps and validation intervals of the user's trainer mean for a private run.

A trainer is configured in batches of the user's loader: ``accumulate_grad_batches`` of them make a
step, ``limit_train_batches`` cuts an epoch, ``val_check_interval`` counts them. A private step draws
its own random batch instead, in micro-batches whose number is random too. :class:`StepSchedule` keeps
the user's count: optimizer step number ``s`` stands for the loader batches that step would have
consumed. It is arithmetic on whole numbers and knows nothing of Lightning.

Example:
    >>> schedule = StepSchedule(loader_batches=10, accumulate=4)
    >>> schedule.steps_per_epoch  # 4 + 4 + 2 loader batches
    3
    >>> [schedule.loader_batches_after(step) for step in range(5)]
    [0, 4, 8, 10, 14]
    >>> schedule.steps_left(max_epochs=5, max_steps=-1, epochs_done=0, steps_done=0)
    15
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StepSchedule", "accumulation_value"]


@dataclass(frozen=True)
class StepSchedule:
    """How many steps an epoch has, and which loader batches a step stands for.

    Args:
        loader_batches: Batches of the user's loader in one epoch, after ``limit_train_batches``; at least 1.
        accumulate: The trainer's ``accumulate_grad_batches``, at least 1.
    """

    loader_batches: int
    accumulate: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch: the last one of a plain run may be partial and counts as one."""
        return -(-self.loader_batches // self.accumulate)

    def steps_left(self, *, max_epochs: int, max_steps: int, epochs_done: int, steps_done: int) -> int | None:
        """Steps a fit will still take at most.

        Args:
            max_epochs: The trainer's limit; -1 is Lightning's "no limit".
            max_steps: The trainer's limit; -1 is Lightning's "no limit".
            epochs_done: Epochs completed before this fit.
            steps_done: Steps done before this fit.

        Returns:
            The number, at least 0; None where neither limit is set.
        """
        limits = []
        if max_epochs != -1:
            limits.append((max_epochs - epochs_done) * self.steps_per_epoch)
        if max_steps != -1:
            limits.append(max_steps - steps_done)
        return max(0, min(limits)) if limits else None

    def loader_batches_after(self, steps: int) -> int:
        """Loader batches a plain run has consumed after ``steps`` optimizer steps, over all epochs."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * self.loader_batches + min(rest * self.accumulate, self.loader_batches)

    def validates_after(self, steps: int, *, interval: int, across_epochs: bool) -> bool:
        """Whether a plain run would validate during its ``steps``-th optimizer step.

        Args:
            steps: Steps done, the one just finished included: counted from the start of the epoch, or from
                the start of training when ``across_epochs``.
            interval: Loader batches between two validations.
            across_epochs: Whether the count goes on over epoch ends (``check_val_every_n_epoch=None``).

        Returns:
            True when a multiple of ``interval`` lies among the loader batches of that step. A private run
            validates at the end of the step, also where a plain one would have done so several times.
        """
        if steps < 1:
            return False
        if not across_epochs and steps > self.steps_per_epoch:
            return False
        before, after = self.loader_batches_after(steps - 1), self.loader_batches_after(steps)
        return after // interval > before // interval


def accumulation_value(ready: int, *, closes_step: bool) -> int:
    """The ``accumulate_grad_batches`` that makes Lightning step after this micro-batch, or not.

    Lightning divides the loss by the value, steps when it divides ``ready`` and zeroes the gradients when it
    divides ``ready - 1``. So 1 makes a micro-batch a step of its own. For the others the value is the
    smallest power of two above ``ready``: it divides neither number (but 0, the first micro-batch of an
    epoch) and the division of the loss is exact.

    Args:
        ready: Micro-batches of this epoch that were started, this one included (from 1).
        closes_step: Whether the step ends with this micro-batch.

    Example:
        >>> accumulation_value(5, closes_step=True), accumulation_value(5, closes_step=False)
        (1, 8)
    """
    return 1 if closes_step else 1 << ready.bit_length()
