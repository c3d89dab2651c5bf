"""A ledger for each client, and which of them has the largest epsilon.

Example:
    >>> from lightning_privacy.accounting import SampledGaussian
    >>> ledgers = ClientLedgers(delta=1e-5, budget=None)
    >>> ledgers.charge(4, SampledGaussian(1.0, 0.01), 0.01, 100, "local training")
    >>> ledgers.charge(7, SampledGaussian(1.0, 0.5), 0.5, 2, "local training")
    >>> ledgers.clients, ledgers.weakest(), ledgers.epsilon(4) < ledgers.epsilon()
    ([4, 7], 7, True)
"""

from __future__ import annotations

from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.federated.example_costs import ClientCost, LargestCost

__all__ = ["ClientLedgers"]


class ClientLedgers:
    """Keeps an account for each client, of steps that all have one noise multiplier.

    Args:
        delta: Of each client's guarantee.
        budget: Epsilon of each client, or None. It is only asked, in :meth:`affords`.
    """

    def __init__(self, *, delta: float, budget: float | None) -> None:
        self._delta = delta
        self._ledgers: dict[int, PrivacyLedger] = {}
        self._steps: dict[int, tuple[Release, float]] = {}
        self._costs = LargestCost(delta=delta, budget=budget)
        self._caveats: list[str] = []

    @property
    def clients(self) -> list[int]:
        """Those that were charged, in order."""
        return sorted(self._ledgers)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What limits the guarantee without being a release."""
        return tuple(self._caveats)

    def add_caveat(self, text: str) -> None:
        """Add a limit of the guarantee to every ledger, once."""
        if text not in self._caveats:
            self._caveats.append(text)
            for ledger in self._ledgers.values():
                ledger.add_caveat(text)

    def ledger(self, client: int) -> PrivacyLedger:
        """What was released of one client's examples; empty before it was charged."""
        known = self._ledgers.get(client)
        if known is None:
            # The budget is kept for all clients together, which saves a composition for each.
            known = PrivacyLedger(delta=self._delta, unit="example")
            for text in self._caveats:
                known.add_caveat(text)
        return known

    def affords(self, cost: ClientCost) -> bool:
        """Whether it keeps within the budget; always, without one."""
        return self._costs.affords(cost)

    def charge(self, client: int, release: Release, rate: float, count: int, label: str) -> None:
        """Charge steps of a client.

        Args:
            client: The client.
            release: A step; of one client always the same.
            rate: Its sample rate.
            count: How many steps.
            label: What they are called in the ledger.
        """
        ledger = self._ledgers[client] = self.ledger(client)
        ledger.charge(release, count, label)
        self._steps[client] = release, rate
        self._costs.add(self._spent(client))

    def epsilon(self, client: int | None = None, *, exact: bool = False) -> float:
        """Epsilon of one client's examples so far, or the largest over the clients.

        Args:
            client: The client; None for the largest.
            exact: As in :meth:`PrivacyLedger.epsilon`.
        """
        if client is not None:
            return self.ledger(client).epsilon(exact=exact)
        return max((self._ledgers[each].epsilon(exact=exact) for each in self._largest()), default=0.0)

    def epsilon_bound(self) -> float:
        """What no client's epsilon is above: that of the most steps at the largest rate; quick to ask."""
        return self._costs.bound()

    def weakest(self) -> int | None:
        """A client whose examples have the largest epsilon; None before any was charged."""
        return max(self._largest(), key=lambda client: self._ledgers[client].epsilon(exact=True), default=None)

    def _spent(self, client: int) -> ClientCost:
        release, rate = self._steps[client]
        return ClientCost(release, rate, self._ledgers[client].count(release))

    def _largest(self) -> list[int]:
        """The clients of which one has the largest epsilon: no other has both more steps and a higher rate."""
        found: list[int] = []
        most = -1
        spent = {client: self._spent(client) for client in self._ledgers}
        for client in sorted(spent, key=lambda each: (-spent[each].rate, -spent[each].count)):
            if spent[client].count > most:
                found.append(client)
                most = spent[client].count
        return found
