"""Where processes meet in a training step that is written by hand, so that all of them make the same private steps.

One that leaves a step out would add its share to those of another draw, or wait for the others for ever.

Example:
    >>> import lightning_privacy._lightning as L
    >>> trainer = L.Trainer(logger=False, accelerator="cpu", barebones=True)
    >>> StepMeeting(trainer, Processes(count=1, rank=0), by_hand=True).at(Place.RELEASE)  # nobody to wait for
"""

from __future__ import annotations

from enum import IntEnum

from lightning_privacy._lightning import Trainer
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.errors import PrivacyViolation

__all__ = ["Place", "StepMeeting"]


class Place(IntEnum):
    """What a process is about to do."""

    RELEASE = 0
    OPTIMIZER_STEP = 1
    BATCH_END = 2


class StepMeeting:
    """Checks that all processes do the same next; with one, or with automatic optimisation, there is nothing to check.

    Args:
        trainer: Says where processes exchange tensors.
        processes: Those that share each step.
        by_hand: Whether the module steps its optimizers itself.
    """

    def __init__(self, trainer: Trainer, processes: Processes, *, by_hand: bool) -> None:
        self._trainer = trainer
        self._processes = processes
        self._needed = by_hand and processes.several

    def at(self, place: Place) -> None:
        """Wait for the others; each must call this.

        Args:
            place: What this process is about to do.

        Raises:
            PrivacyViolation: Another one is about to do something else.
        """
        if not self._needed:
            return
        if not self._processes.meet(place, places=len(Place), device=self._trainer.strategy.root_device):
            raise PrivacyViolation(
                "the processes do not make the same steps in the same batches: with several processes, a training_step "
                "with manual optimization must not decide from its own share of the batch whether to step"
            )
