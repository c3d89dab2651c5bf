"""Which of many clients costs most, and whether one keeps within a budget, with few compositions.

Epsilon grows with the sample rate and with the number of steps, all else being equal. So what is known of one client is
known of every client with at most its rate and at most its steps, and the largest epsilon is that of a client which no
other one exceeds in both.

Example:
    >>> from lightning_privacy.accounting import SampledGaussian
    >>> costs = LargestCost(delta=1e-5, budget=4.0)
    >>> costs.affords(ClientCost(SampledGaussian(1.0, 0.1), 0.1, 5))
    True
    >>> costs.affords(ClientCost(SampledGaussian(1.0, 0.1), 0.1, 100))
    False
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.accounting.pld import exact_epsilon

__all__ = ["ClientCost", "LargestCost"]

_AHEAD = 2
"""A budget is looked at for so many times the steps that are asked about, which answers many questions to come."""


@dataclass(frozen=True)
class ClientCost:
    """What a client has released or is about to.

    Args:
        release: One step.
        rate: Its sample rate.
        count: How many steps.
    """

    release: Release
    rate: float
    count: int

    def within(self, other: ClientCost) -> bool:
        """Whether it costs at most what ``other`` does."""
        return self.rate <= other.rate and self.count <= other.count


class LargestCost:
    """What the clients of a federation cost at the most; all with one noise multiplier.

    Args:
        delta: Of the guarantee.
        budget: Epsilon of each client, or None.
    """

    def __init__(self, *, delta: float, budget: float | None) -> None:
        self._delta = delta
        self._budget = budget
        self._fits: list[ClientCost] = []
        self._breaks: list[ClientCost] = []
        self._top: ClientCost | None = None
        self._ledger = PrivacyLedger(delta=delta)

    def affords(self, cost: ClientCost) -> bool:
        """Whether it keeps within the budget."""
        if self._budget is None:
            return True
        if any(cost.within(known) for known in self._fits):
            return True
        if any(known.within(cost) for known in self._breaks):
            return False
        ahead = ClientCost(cost.release, cost.rate, cost.count * _AHEAD)
        return (not self._broken(ahead) and self._fitting(ahead)) or self._fitting(cost)

    def _broken(self, cost: ClientCost) -> bool:
        return any(known.within(cost) for known in self._breaks)

    def _fitting(self, cost: ClientCost) -> bool:
        within = self._budget is None or exact_epsilon(((cost.release, cost.count),), delta=self._delta) <= self._budget
        if within:
            self._fits = [known for known in self._fits if not known.within(cost)] + [cost]
        else:
            self._breaks = [known for known in self._breaks if not cost.within(known)] + [cost]
        return within

    def add(self, cost: ClientCost) -> None:
        """Take in what a client has released by now."""
        top = self._top
        if top is None or cost.rate > top.rate:
            count = cost.count if top is None else max(cost.count, top.count)
            self._ledger = PrivacyLedger(delta=self._delta)
            self._top = ClientCost(cost.release, cost.rate, count)
        elif cost.count > top.count:
            self._top = ClientCost(top.release, top.rate, cost.count)
        if self._top is not None and self._top.count > self._ledger.count(self._top.release):
            self._ledger.charge(self._top.release, self._top.count - self._ledger.count(self._top.release))

    def bound(self) -> float:
        """Epsilon of the most steps of any client at the largest rate of any: no client's is above it."""
        return self._ledger.epsilon()
