"""What a private fit that has started is going to do, and to spend.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> spending = Spending(PrivacyLedger(delta=1e-5, budget=1.0), SampledGaussian(1.0, 0.01), releases=100)
    >>> spending.affordable, round(spending.epsilon_at_end or 0.0, 2)
    (100, 0.72)
    >>> endless = Spending(PrivacyLedger(delta=1e-5), SampledGaussian(1.0, 0.01), releases=None)
    >>> endless.affordable, endless.epsilon_at_end
    (None, None)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.accounting.pld import exact_epsilon
from lightning_privacy.callbacks._run_state import RunSettings

__all__ = ["PrivatePlan", "Spending"]

# Without any other end: as many releases as a budget is asked to pay for.
_FAR = 1_000_000


@dataclass(frozen=True)
class Spending:
    """Releases that are ahead, and what they will have cost.

    Args:
        ledger: Where they are charged; what it holds now counts.
        release: What each of them is.
        releases: How many the trainer's limits allow; None where it has none.
    """

    ledger: PrivacyLedger
    release: Release
    releases: int | None

    @cached_property
    def affordable(self) -> int | None:
        """How many there will be, given limits and budget; None where neither ends training."""
        if self.ledger.budget is None:
            return self.releases
        limit = _FAR if self.releases is None else self.releases
        return 0 if limit == 0 else self.ledger.affordable(self.release, limit)

    @cached_property
    def epsilon_at_end(self) -> float | None:
        """What the ledger will say after them, with nothing else charged meanwhile; None where there is no end."""
        if self.affordable is None:
            return None
        counts = dict(self.ledger.groups)
        if self.affordable:
            counts[self.release] = counts.get(self.release, 0) + self.affordable
        return exact_epsilon(tuple(counts.items()), delta=self.ledger.delta)


@dataclass(frozen=True)
class PrivatePlan:
    """A private fit, at its start.

    Args:
        settings: Numbers of the guarantee.
        spending: The steps that are ahead and what they cost.
        releases_per_step: Gradients that one step may need.
        steps_before: Steps the trainer took before.
        steps_per_epoch: Steps of an epoch.
        largest_batch: Most rows of the data that are in memory at once.
    """

    settings: RunSettings
    spending: Spending
    releases_per_step: int
    steps_before: int
    steps_per_epoch: int
    largest_batch: int

    @property
    def steps(self) -> int | None:
        """Steps that are ahead: to the trainer's limit or the budget's end; None where neither ends training."""
        affordable = self.spending.affordable
        return None if affordable is None else affordable // self.releases_per_step
