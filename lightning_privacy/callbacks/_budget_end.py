"""The end of training where the budget ends: in order, and only if the trainer doesn't end by itself."""

from __future__ import annotations

from lightning_privacy._lightning import Trainer, rank_zero_info
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks import _trainer as internals

__all__ = ["BudgetEnd"]


class BudgetEnd:
    """Stops a trainer, and takes back what that needed.

    Args:
        trainer: The trainer.
        ledger: Whose budget ends; named in the message.
    """

    def __init__(self, trainer: Trainer, ledger: PrivacyLedger) -> None:
        self._trainer = trainer
        self._ledger = ledger
        self._minimum: tuple[int | None, int | None] | None = None

    def is_here(self) -> bool:
        """Whether the trainer's own limits end training with the step that was just taken."""
        trainer = self._trainer
        if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            return True
        if trainer.max_epochs is None or trainer.max_epochs == -1:
            return False
        return trainer.is_last_batch and trainer.current_epoch + 1 >= trainer.max_epochs

    def stop(self, when: str) -> None:
        """End training in order: validation and checkpoints of the last step still happen.

        Args:
            when: For the message, such as ``"after step 7"``.
        """
        if self._minimum is None:
            self._minimum = internals.lower_minimum(self._trainer)
        self._trainer.should_stop = True
        rank_zero_info(
            f"DifferentialPrivacy: training stops {when}: one more would pass the budget of "
            f"epsilon={self._ledger.budget:g} at delta={self._ledger.delta:g}"
        )

    def undo(self) -> None:
        """Give the trainer its least numbers of epochs and steps back."""
        if self._minimum is not None:
            internals.raise_minimum(self._trainer, self._minimum)
            self._minimum = None
