"""How many records a person had in the tables that something was charged of while a preparation went on.

A release protects one record of the table it is made of. Cutting a person's records afterwards makes it no better: what
it is worth for a person depends on how many records they had when it was made.

Example:
    >>> import polars as pl
    >>> from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
    >>> ledger, table = PrivacyLedger(delta=1e-5), pl.DataFrame({"who": ["a", "a", "a", "b"]})
    >>> charged = ChargedRecords(["who"], SamePerson(["who"]), ledger)
    >>> charged.look_at(table)
    >>> charged.most("who")
    0
    >>> ledger.charge(LaplaceRelease(0.1))
    >>> charged.look_at(table.unique("who"))
    >>> charged.most("who")
    3
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.data.persona.same_person import SamePerson
from lightning_privacy.preparation.contribution import most_records

__all__ = ["ChargedRecords"]


class ChargedRecords:
    """Remembers whose records were in each table that a step charged something of.

    Who is who is asked at the end, when all is known that joins two people.

    Args:
        keys: Columns that say who a record is about, as far as they are there.
        same: Who is who, by these columns; it must have looked at each table before this does.
        ledger: What steps charge; None where nothing is charged.
    """

    def __init__(self, keys: Iterable[str], same: SamePerson, ledger: PrivacyLedger | None) -> None:
        self._keys = tuple(dict.fromkeys(keys))
        self._same, self._ledger = same, ledger
        self._seen: set[str] = set()
        self._history: list[tuple[Release, int, str | None]] = []
        self._last: pl.DataFrame | None = None
        # For each charge, the columns it could be told by who is who, and all that ever said so until then.
        self._told: list[tuple[list[str], set[str]]] = []
        # The first table that something was charged of, and all that came after it.
        self._tables: list[pl.DataFrame] = []

    def look_at(self, table: pl.DataFrame) -> None:
        """Take in what came of a step; call it before the first one and after each.

        Args:
            table: The table now. What was charged since the last call was charged of the table of that call.
        """
        if self._ledger is None:
            return
        history = self._ledger.history
        if self._last is not None and history != self._history:
            self._told.append((self._last.columns, set(self._seen)))
            if not self._tables:
                self._tables.append(self._last)
        self._history = history
        self._last = table.select(key for key in self._keys if key in table.columns)
        self._seen |= set(self._last.columns)
        if self._tables:
            # Later steps may write two names as one: then it shows that both were of one person all along.
            self._tables.append(self._last)

    def most(self, person: str | None) -> int | None:
        """The most records of one person in any of the tables that something was charged of.

        Args:
            person: The column that says who a record is about, in the end; None where none does.

        Returns:
            A number of records; 0 when nothing was charged. None when something was charged before all was there that
            says who is who: nobody knows how many records of a person it was of.
        """
        if not self._told:
            return 0
        if person is None or any(person not in columns or seen != self._seen for columns, seen in self._told):
            return None
        tables = [table for table in self._tables if person in table.columns]
        return max(most_records(self._same.named(table, person), person) for table in tables)
