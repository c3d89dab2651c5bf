"""How far a budget reaches: steps of each epoch that it pays for, and the end of training where it ends.

Example:
    >>> import lightning_privacy._lightning as L
    >>> from lightning_privacy.accounting import SampledGaussian
    >>> trainer = L.Trainer(max_epochs=50, logger=False, accelerator="cpu", enable_progress_bar=False, barebones=True)
    >>> ledger, step = PrivacyLedger(delta=1e-5, budget=1.0), SampledGaussian(1.0, 0.01)
    >>> pace = BudgetPace(trainer, ledger, step, per_step=1, schedule=StepSchedule(100, 1))
    >>> pace.steps_of_epoch(done=20), trainer.should_stop
    (80, False)
"""

from __future__ import annotations

from lightning_privacy._lightning import Trainer
from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.callbacks._budget_end import BudgetEnd
from lightning_privacy.callbacks._budget_horizon import BudgetHorizon
from lightning_privacy.callbacks._planning import steps_to_limits
from lightning_privacy.callbacks._schedule import StepSchedule
from lightning_privacy.errors import PrivacyBudgetExceeded

__all__ = ["BudgetPace"]

# Epochs for which the budget is worked out at once where the trainer sets no end.
_FAR_AHEAD = 100


class BudgetPace:
    """Ends training before the step that the budget would not pay for, also where others charge the same ledger.

    Args:
        trainer: The trainer.
        ledger: Where each step is charged.
        release: What it is charged as.
        per_step: Releases that one step may need.
        schedule: Steps of an epoch.
    """

    def __init__(
        self, trainer: Trainer, ledger: PrivacyLedger, release: Release, *, per_step: int, schedule: StepSchedule
    ) -> None:
        self._trainer = trainer
        self._ledger = ledger
        self._release = release
        self._per_step = per_step
        self._schedule = schedule
        self._horizon = BudgetHorizon(ledger, release)
        self._end = BudgetEnd(trainer, ledger)
        self._remaining = 0
        self._stopped = False

    def refuse_without_budget(self) -> None:
        """Raise where not even one release could be paid.

        Raises:
            PrivacyBudgetExceeded: The budget is spent.
        """
        if not self._ledger.affords(self._release):
            raise PrivacyBudgetExceeded(
                f"no step can be taken: epsilon is {self._ledger.epsilon(exact=True):.6g} of the budget "
                f"{self._ledger.budget} at delta={self._ledger.delta:g} already, and one more step would "
                "pass it. Use a larger epsilon, or a new ledger for new data."
            )

    def steps_of_epoch(self, done: int) -> int:
        """Steps to plan for the epoch that begins, or for what is left of it; 0 where the budget is at its end.

        Args:
            done: Steps of the epoch that were taken before.
        """
        self._remaining = max(0, self._schedule.steps_per_epoch - done)
        if not self._next_is_paid(self._remaining):
            self._remaining = 0
            self._stop("before the epoch")
        return self._remaining

    def step_taken(self) -> None:
        """Take note of a step, and end training where it was the last one."""
        self._remaining = max(0, self._remaining - 1)
        self.look_again()

    def look_again(self) -> None:
        """End training where the next step can't be paid any more: others may have charged the ledger."""
        if self._stopped or self._end.is_here():
            return
        # At the end of an epoch the whole next one is asked about, so that its start needs no other answer.
        if not self._next_is_paid(self._remaining or self._schedule.steps_per_epoch):
            self._stop(f"after step {self._trainer.global_step}")

    def undo(self) -> None:
        """Give the trainer back what ending it in order needed."""
        self._end.undo()

    def _next_is_paid(self, remaining: int) -> bool:
        """Whether the next step could be paid; composes anew only where the ledger was charged otherwise."""
        each = self._per_step
        # One more than remain: whether the first step of the next epoch could be paid must be known.
        return self._horizon.steps(needed=(remaining + 1) * each, ahead=self._steps_ahead() * each) >= each

    def _stop(self, when: str) -> None:
        self._stopped = True
        self._end.stop(when)

    def _steps_ahead(self) -> int:
        """Steps until the trainer's own limits, or many where it has none."""
        left = steps_to_limits(self._trainer, self._schedule)
        return _FAR_AHEAD * self._schedule.steps_per_epoch if left is None else left + 1
