"""How many more steps a budget pays for, asked after every step and worked out seldom.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> ledger, step = PrivacyLedger(delta=1e-5, budget=1.0), SampledGaussian(1.0, 0.01)
    >>> horizon = BudgetHorizon(ledger, step)
    >>> horizon.steps(needed=10, ahead=100)
    10
    >>> horizon.steps(needed=10**6, ahead=10**6) == ledger.affordable(step, 10**6)
    True
"""

from __future__ import annotations

from lightning_privacy.accounting import PrivacyLedger, Release

__all__ = ["BudgetHorizon"]


class BudgetHorizon:
    """Remembers up to which count of a release the budget is known to last.

    What others charge to the ledger meanwhile is noticed at the next question, which then is answered for itself alone.

    Args:
        ledger: The ledger with the budget.
        release: The release that is repeated.
    """

    def __init__(self, ledger: PrivacyLedger, release: Release) -> None:
        self._ledger = ledger
        self._release = release
        self._others: dict[Release, int] | None = None
        self._end = 0
        self._exhausts = False

    def steps(self, *, needed: int, ahead: int) -> int:
        """How many more of the release can be charged, at most ``needed``.

        Args:
            needed: Number beyond which the answer does not matter now, at least 1.
            ahead: Number that will be asked for in the end; the work is done for so many at once.
        """
        if self._ledger.budget is None:
            return needed
        others = {release: count for release, count in self._ledger.groups if release != self._release}
        done = self._ledger.count(self._release)
        if self._others is not None and others != self._others:
            # Who has charged once will do so again, and make waste of what was worked out for later.
            fits = self._ledger.affords(self._release, needed)
            more = needed if fits else self._ledger.affordable(self._release, needed)
            self._end, self._exhausts = done + more, not fits
        elif self._others is None or (self._end - done < needed and not self._exhausts):
            limit = max(needed, ahead)
            more = self._ledger.affordable(self._release, limit)
            self._end, self._exhausts = done + more, more < limit
        self._others = others
        return max(0, min(needed, self._end - done))
