"""The draws of a private run that is audited: canaries have slots like examples, and are drawn like them.

A canary that is out is drawn too and left out of the batch, as the null record it stands for. One that is a gradient is
left out of the batch and put into the sum of the clipped gradients. Rates, the divisor of the sum and the draws of all
others are those of a training set with all slots, whatever the coins are.

Example:
    >>> from lightning_privacy.sampling import PoissonSampler
    >>> slots = CanarySlots(list("abcd"), {4: "in", 5: "out"}, absent=[5])
    >>> sampler = AuditedDraws(PoissonSampler(6, sample_rate=1.0, steps=1), slots)
    >>> sorted(sampler.draw(0).tolist()), sampler.size(0)
    ([0, 1, 2, 3, 4], 5)
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from lightning_privacy.audit.slots import CanarySlots
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.engine import PrivateGradients
from lightning_privacy.sampling.microbatch import Microbatch
from lightning_privacy.sampling.step_sampler import StepSampler

__all__ = ["AuditedDraws"]


class AuditedDraws(StepSampler):
    """What of each draw a batch holds, and what of it is a gradient.

    Args:
        sampler: Draws slots; alone, not one of several replicas.
        slots: The training set with its slots.

    Raises:
        UnsupportedError: Several processes share the draws, or they are not over the slots.
    """

    def __init__(self, sampler: StepSampler, slots: CanarySlots) -> None:
        if sampler.num_replicas != 1 or sampler.num_examples != len(slots):
            raise UnsupportedError(
                "an audited run draws its batches in one process, from all slots of the training set; got "
                f"{sampler.num_replicas} processes and {sampler.num_examples} examples for {len(slots)} slots"
            )
        # The key that this gives itself is never used.
        super().__init__(sampler.num_examples, steps=sampler.steps, seed=0, num_replicas=1, rank=0)
        self._sampler, self._slots = sampler, slots
        self._drawn: tuple[int, NDArray[np.int64]] | None = None
        self._seen = 0

    def _all(self, step: int) -> NDArray[np.int64]:
        if self._drawn is None or self._drawn[0] != step:
            self._drawn = step, self._sampler.draw(step)
        return self._drawn[1]

    @override
    def size(self, step: int) -> int:
        return len(self.draw(step))

    @override
    def draw(self, step: int) -> NDArray[np.int64]:
        drawn = self._all(step)
        return drawn[~self._slots.hidden[drawn]]

    def place(self, engine: PrivateGradients) -> None:
        """Choose the entries of canaries that are gradients.

        Args:
            engine: Attached.

        Raises:
            ConfigurationError: The gradient has fewer entries, or other ones than before.
        """
        if self._slots.gradients is not None:
            self._slots.gradients.place(engine.num_entries)

    def entries(self, entry: Microbatch, engine: PrivateGradients) -> Tensor | None:
        """The entries of the canaries that belong to a step, with its last micro-batch.

        Args:
            entry: The micro-batch.
            engine: Attached.

        Returns:
            int64, shape ``(K,)``; None where there are none.

        Raises:
            ConfigurationError: Other parameters train than at the start.
        """
        gradients = self._slots.gradients
        if gradients is None or not entry.closes_step:
            return None
        gradients.place(engine.num_entries)
        return torch.from_numpy(gradients.drawn(self._all(entry.step)))

    def observe(self, engine: PrivateGradients) -> None:
        """Look at the private gradient that was just released, once; that is post-processing.

        Args:
            engine: Attached.
        """
        gradients = self._slots.gradients
        if gradients is None or engine.released == self._seen:
            return
        self._seen = engine.released
        gradients.observe(engine.entries(torch.from_numpy(gradients.positions)).numpy())

    def __repr__(self) -> str:
        return f"AuditedDraws({self._sampler!r})"
