"""What is left of a run while it goes on: of the budget, and of the time.

Example:
    >>> clock = RunClock(total=100, done=0, now=0.0)
    >>> clock.step(1, now=5.0)  # the first step also probes, compiles and opens files
    >>> clock.seconds_left(11, now=15.0)
    89.0
    >>> duration(89.0), duration(3700)
    ('1:29', '1:01:40')
"""

from __future__ import annotations

import math
import time

from lightning_privacy._lightning import Trainer
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks.run_privacy import ledger_of, privacy_of

__all__ = ["RunClock", "budget_left", "clock_of", "duration", "run_figures"]


class RunClock:
    """Tells how long a fit will take, from how long its steps took so far.

    Args:
        total: Steps at which it ends; None where it has no limit.
        done: Steps before it.
        now: The time, in seconds; the present by default.
    """

    def __init__(self, *, total: int | None, done: int, now: float | None = None) -> None:
        self.total = total
        self._first = done
        self._start = time.monotonic() if now is None else now
        self._settled = False

    def step(self, done: int, now: float | None = None) -> None:
        """Note that a step was completed.

        Args:
            done: Steps in all.
            now: As above.
        """
        if not self._settled and done > self._first:
            # What the first step took tells little of the others.
            self._settled = True
            self._first, self._start = done, time.monotonic() if now is None else now

    def seconds_left(self, done: int, now: float | None = None) -> float | None:
        """Seconds until the end; None where that can't be said yet, or there is no limit.

        Args:
            done: Steps in all.
            now: As above.
        """
        if self.total is None or not self._settled or done <= self._first:
            return None
        elapsed = (time.monotonic() if now is None else now) - self._start
        return max(0, self.total - done) * elapsed / (done - self._first)


def clock_of(trainer: Trainer) -> RunClock:
    """A clock for the fit that a trainer starts.

    Args:
        trainer: In ``on_train_start``.
    """
    privacy = privacy_of(trainer)
    plan = None if privacy is None else privacy.plan
    if plan is not None:
        # The trainer's own count is of batches, which a private fit draws anew.
        total = None if plan.steps is None else plan.steps_before + plan.steps
        return RunClock(total=total, done=trainer.global_step)
    steps = trainer.estimated_stepping_batches
    return RunClock(total=None if math.isinf(steps) else int(steps), done=trainer.global_step)


def budget_left(ledger: PrivacyLedger) -> str:
    """What is left of a ledger's budget, in words.

    Args:
        ledger: One that has a budget.
    """
    budget = ledger.budget or 0.0
    return f"{max(0.0, budget - ledger.epsilon()):.3g} of {budget:g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as in ``1:01:40``."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def run_figures(trainer: Trainer, clock: RunClock | None) -> dict[str, str]:
    """What a display of progress shows beside the metrics.

    Args:
        trainer: While it trains.
        clock: Of the fit; None outside of one.
    """
    if clock is None:
        return {}
    figures = {}
    ledger = ledger_of(trainer)
    if ledger is not None and ledger.budget is not None:
        figures["epsilon left"] = budget_left(ledger)
    seconds = clock.seconds_left(trainer.global_step)
    if seconds is not None and clock.total is not None and trainer.global_step < clock.total:
        figures["time left"] = duration(seconds)
    return figures
