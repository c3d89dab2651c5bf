"""The one place where everything that is released is charged.

A ledger composes all releases under one neighbouring relation: two data sets are neighbours when one has a null
record in place of one record of the other (Kairouz et al., 2021, arXiv:2103.00039, Definition 1.1: "zero-out").
It is the relation under which noisy sums, noisy counts and randomised labels can be added up as they are.

Example:
    >>> from lightning_privacy.accounting.ledger import PrivacyLedger
    >>> from lightning_privacy.accounting.releases import LaplaceRelease, SampledGaussian
    >>> ledger = PrivacyLedger(delta=1e-5, budget=3.0)
    >>> ledger.charge(LaplaceRelease(epsilon=0.1), label="class counts")
    >>> ledger.charge(SampledGaussian(noise_multiplier=1.0, sample_rate=0.01), count=1000)
    >>> round(ledger.epsilon(exact=True), 1)
    1.9
    >>> ledger.affords(LaplaceRelease(epsilon=3.0))
    False
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

from lightning_privacy._validate import positive, positive_int, within_open_unit
from lightning_privacy.accounting.budget import BudgetGate
from lightning_privacy.accounting.interim import InterimEpsilon
from lightning_privacy.accounting.ledger_state import SCHEMA, LedgerState, read_state
from lightning_privacy.accounting.ledger_table import LedgerTable
from lightning_privacy.accounting.pld import exact_epsilon
from lightning_privacy.accounting.releases import NonPrivate, Release
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded

__all__ = ["PrivacyLedger"]


class PrivacyLedger:
    """Keeps every release and what all of them cost together.

    Args:
        delta: the delta at which epsilon is reported, in (0, 1).
        budget: epsilon that must never be passed; None keeps account without a limit.
        unit: what is protected, for the report: "example", "client", "person".

    Raises:
        ConfigurationError: if delta is outside (0, 1), the budget is not above 0, or the unit is not a text.

    Example:
        >>> from lightning_privacy.accounting.releases import GaussianRelease
        >>> ledger = PrivacyLedger(delta=1e-5)
        >>> ledger.epsilon()
        0.0
        >>> ledger.charge(GaussianRelease(noise_multiplier=1.0))
        >>> round(ledger.epsilon(), 2)
        4.38
    """

    def __init__(self, *, delta: float, budget: float | None = None, unit: str = "example") -> None:
        self._delta = within_open_unit(delta=delta)
        self._budget = None if budget is None else positive(budget=budget)
        if not isinstance(unit, str) or not unit.strip():
            raise ConfigurationError(f"unit must be a text such as 'example' or 'client', got {unit!r}")
        self._unit = unit
        self._history: dict[tuple[Release, str | None], int] = {}
        self._counts: dict[Release, int] = {}
        self._caveats: list[str] = []
        self._witness: Callable[[Release, int], None] | None = None
        self._of_caveats: Callable[[str], None] | None = None
        # A charge that several threads make at once must count as often, and each see what the others spent.
        self._lock = threading.RLock()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        # A copy, here or in another process, is another ledger: it must not write into the records of this one.
        state = {**self.__dict__, "_witness": None, "_of_caveats": None}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def _forget(self) -> None:
        self._interim = InterimEpsilon(delta=self._delta)
        self._gate = (
            None if self._budget is None else BudgetGate(delta=self._delta, budget=self._budget, interim=self._interim)
        )

    @property
    def delta(self) -> float:
        """The delta at which epsilon is reported."""
        return self._delta

    @property
    def budget(self) -> float | None:
        """The epsilon that is never passed, or None."""
        return self._budget

    @property
    def unit(self) -> str:
        """What is protected."""
        return self._unit

    @property
    def groups(self) -> tuple[tuple[Release, int], ...]:
        """Each kind of release with how often it happened, in the order of the first charge."""
        return tuple(self._counts.items())

    @property
    def history(self) -> list[tuple[Release, int, str | None]]:
        """(release, count, label) in the order of the first charge; equal releases with one label are one entry."""
        return [(release, count, label) for (release, label), count in self._history.items()]

    @property
    def caveats(self) -> tuple[str, ...]:
        """What limits the guarantee without being a release."""
        return tuple(self._caveats)

    def count(self, release: Release) -> int:
        """How often this release was charged."""
        return self._counts.get(release, 0)

    def charge(self, release: Release, count: int = 1, label: str | None = None) -> None:
        """Charge releases that are about to happen.

        Args:
            release: what will be released.
            count: how often.
            label: what it is for, shown in the summary.

        Raises:
            PrivacyBudgetExceeded: if the budget would be passed; nothing is charged and nothing must be released.
            ConfigurationError: if the release is not a release or the count not a whole number of at least 1.
        """
        _check_release(release)
        count = positive_int(count=count)
        if label is not None and not isinstance(label, str):
            raise ConfigurationError(f"label must be a text or None, got {label!r}")
        with self._lock:
            if not self._fits(release, count):
                raise PrivacyBudgetExceeded(self._refusal(release, count))
            if self._witness is not None:
                self._witness(release, self.count(release) + count)
            self._counts[release] = self._counts.get(release, 0) + count
            key = (release, label)
            self._history[key] = self._history.get(key, 0) + count

    def tell(
        self, witness: Callable[[Release, int], None] | None, *, caveats: Callable[[str], None] | None = None
    ) -> None:
        """Let someone know of every charge before it counts, such as a file that outlives this process.

        Args:
            witness: called with a release and how often it will have been charged then; at once for all that was
                charged before. If it raises, nothing is charged. None for nobody.
            caveats: called with every caveat in the same way.

        Example:
            >>> from lightning_privacy.accounting.releases import LaplaceRelease
            >>> ledger, told = PrivacyLedger(delta=1e-5), []
            >>> ledger.tell(lambda release, total: told.append(total))
            >>> ledger.charge(LaplaceRelease(0.1), count=2)
            >>> ledger.charge(LaplaceRelease(0.1))
            >>> told
            [2, 3]
        """
        self._witness, self._of_caveats = witness, caveats
        self._tell_all()

    def _tell_all(self) -> None:
        if self._witness is not None:
            for release, count in self.groups:
                self._witness(release, count)
        if self._of_caveats is not None:
            for text in self._caveats:
                self._of_caveats(text)

    def mark_not_private(self, reason: str) -> None:
        """Charge something that leaves without protection: epsilon is infinite from here on.

        Args:
            reason: what was released and why it is not private.

        Raises:
            PrivacyBudgetExceeded: if the ledger has a budget.
        """
        self.charge(NonPrivate(reason))

    def add_caveat(self, text: str) -> None:
        """Add a limit of the guarantee to the summary, once.

        Args:
            text: one sentence, such as that the noise can be recomputed from a seed.

        Raises:
            ConfigurationError: if the text is empty.
        """
        if not isinstance(text, str) or not text.strip():
            raise ConfigurationError(f"text must be a sentence, got {text!r}")
        if text not in self._caveats:
            if self._of_caveats is not None:
                self._of_caveats(text)
            self._caveats.append(text)

    def epsilon(self, delta: float | None = None, *, exact: bool = False) -> float:
        """Epsilon of all charged so far.

        Args:
            delta: another delta than the ledger's; the figure is exact then.
            exact: give exactly the figure of ``dp_accounting``'s PLD accountant instead of one that may be up to
                1% above it, and takes a fraction of the time when asked for at every step.

        Returns:
            Epsilon, never below the exact figure; 0.0 when nothing was charged, infinity when something charged is
            not private.

        Raises:
            ConfigurationError: if delta is outside (0, 1).
        """
        asked = self._delta if delta is None else within_open_unit(delta=delta)
        groups = self.groups
        if not all(release.private for release in self._counts):
            return math.inf
        if exact or asked != self._delta:
            return exact_epsilon(groups, delta=asked)
        with self._lock:
            return self._interim(groups)

    def affords(self, release: Release, count: int = 1) -> bool:
        """Whether charging these releases keeps within the budget; always, without one.

        Args:
            release: what would be released.
            count: how often.

        Returns:
            True if :meth:`charge` would not raise.
        """
        _check_release(release)
        count = positive_int(count=count)
        with self._lock:
            return self._fits(release, count)

    def affordable(self, release: Release, limit: int) -> int:
        """How many of these releases can be charged before the budget is passed, at most ``limit``.

        Args:
            release: what would be released.
            limit: number beyond which the answer does not matter, at least 1.

        Returns:
            The largest number that :meth:`affords`; ``limit`` without a budget.
        """
        _check_release(release)
        limit = positive_int(limit=limit)
        if self._gate is None:
            return limit
        with self._lock:
            return self._gate.largest(self._counts, release, limit)

    def replace_one_epsilon(self) -> float | None:
        """Epsilon when one record is replaced by any other record, or None where that does not compose."""
        return self._table().replace_one

    def summary(self) -> str:
        """All releases as a text table, with exact figures."""
        return str(self._table())

    def state_dict(self) -> dict[str, Any]:
        """The ledger as plain Python values, with the exact epsilon; loads with ``weights_only=True``."""
        return {
            "schema": SCHEMA,
            "unit": self._unit,
            "delta": self._delta,
            "budget": self._budget,
            "epsilon": self.epsilon(exact=True),
            "releases": [
                {"release": release.to_dict(), "count": count, "label": label} for release, count, label in self.history
            ],
            "caveats": list(self._caveats),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another ledger was charged, in place of what this one was.

        The budget stays the one this ledger was made with, so that a run can be continued with a larger one; if more
        was spent already, nothing further can be charged.

        Args:
            state: what :meth:`state_dict` gave.

        Raises:
            CheckpointError: if something is missing or of the wrong type, a release is unknown, or the unit or the
                delta is not this ledger's. The ledger is unchanged then.
        """
        read: LedgerState = read_state(state, unit=self._unit, delta=self._delta)
        self._history = dict(read.history)
        self._counts = {}
        for (release, _), count in self._history.items():
            self._counts[release] = self._counts.get(release, 0) + count
        self._caveats = list(read.caveats)
        self._forget()
        self._tell_all()

    def _fits(self, release: Release, count: int) -> bool:
        if self._gate is None:
            return True
        return self._gate.fits({**self._counts, release: self._counts.get(release, 0) + count})

    def _refusal(self, release: Release, count: int) -> str:
        spent = self.epsilon(exact=True)
        would = exact_epsilon(
            tuple({**self._counts, release: self._counts.get(release, 0) + count}.items()), delta=self._delta
        )
        return (
            f"{count} x {release.label} would bring epsilon from {spent:.6g} to {would:.6g} at delta {self._delta:g}, "
            f"and the budget is {self._budget:g}. Nothing was charged. Stop here, release less or with more noise, "
            f"or start with a larger budget."
        )

    def _table(self) -> LedgerTable:
        return LedgerTable(
            history=self.history,
            delta=self._delta,
            budget=self._budget,
            unit=self._unit,
            caveats=self.caveats,
        )

    def __repr__(self) -> str:
        charged = sum(self._counts.values())
        return f"PrivacyLedger(delta={self._delta:g}, budget={self._budget}, unit={self._unit!r}, charged={charged})"


def _check_release(release: object) -> None:
    if not isinstance(release, Release) or not release.kind:
        raise ConfigurationError(f"release must be a Release such as SampledGaussian, got {release!r}")
