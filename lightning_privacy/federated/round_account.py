"""The account of rounds: each is charged once and before its release, and stays charged whatever process dies.

Example:
    >>> import tempfile
    >>> from lightning_privacy.accounting import SampledGaussian
    >>> first, again = (RoundAccount(PrivacyLedger(delta=1e-5, unit="client")) for _ in range(2))
    >>> state = first.state_dict()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first.keep_journal(Path(folder, "rounds.jsonl"))
    ...     first.charge(0, SampledGaussian(1.0, 0.1), "rounds")
    ...     again.load_state_dict(state)
    ...     again.keep_journal(Path(folder, "rounds.jsonl"), write=False)
    >>> again.ledger.history
    [(SampledGaussian(noise_multiplier=1.0, sample_rate=0.1), 1, 'rounds after the checkpoint')]
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_privacy.accounting import LedgerJournal, PrivacyLedger, Release, missing_charges
from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.federated.client_state import LATER, LOST_JOURNAL, restore_ledger

__all__ = ["RoundAccount"]


class RoundAccount:
    """Charges rounds to a ledger and a journal, and says whether one may be released.

    Args:
        ledger: Where rounds are charged.

    Attributes:
        ledger: As given.
        run_id: Names the run in its journal; kept when it is resumed.
    """

    def __init__(self, ledger: PrivacyLedger) -> None:
        self.ledger = ledger
        self.run_id = secrets.token_hex(8)
        self._next_round = 0
        self._charged_round: int | None = None
        self._charged_here = False
        self._journal: LedgerJournal | None = None
        self._journal_place: str | None = None

    def charge(self, round_number: int, release: Release, label: str) -> None:
        """Charge a round that is about to be released.

        Args:
            round_number: The round, above all that were charged before.
            release: What it is charged as.
            label: What it is called in the ledger.

        Raises:
            PrivacyBudgetExceeded: It would break the budget; nothing is charged and nothing must be released.
            PrivacyViolation: The round was charged already.
        """
        if round_number < self._next_round:
            raise PrivacyViolation(
                f"round {round_number} was released already, the next is {self._next_round}: a second release of a "
                "round would cost again and, from a seeded noise source, have the same noise"
            )
        self.ledger.charge(release, label=label)
        if self._journal is not None:
            self._journal.record(release, total_count=self.ledger.count(release))
        self._charged_here = True
        self._next_round = round_number + 1
        self._charged_round = round_number

    def refuse_uncharged(self, round_number: int) -> None:
        """Refuse to release a round that was not charged, or whose charge was used.

        Raises:
            PrivacyViolation: It is such a round.
        """
        if self._charged_round != round_number:
            raise PrivacyViolation(
                f"round {round_number} is to be released without a charge of its own (charged: {self._charged_round}); "
                "call charge(round_number) first, and noised once after it"
            )

    def use(self, round_number: int) -> None:
        """Use the charge of a round, which pays for one release.

        Raises:
            PrivacyViolation: It was not charged, or its charge was used.
        """
        self.refuse_uncharged(round_number)
        self._charged_round = None

    def keep_journal(self, path: str | os.PathLike[str], *, write: bool = True) -> None:
        """Record every charge in a file, and charge what the file knows of this run and the ledger doesn't.

        Args:
            path: The file; made when missing. A resumed run goes on with the one it had, where that is still there.
            write: False in all processes but one.

        Raises:
            OSError: The file can't be opened.
            CheckpointError: A line of it is damaged.
            PrivacyBudgetExceeded: What was spent is more than the budget.
        """
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        # One file for the run, wherever a resumed part of it logs: the state knows where.
        former = self._journal_place
        if former is not None and not Path(former).exists():
            self.ledger.add_caveat(LOST_JOURNAL)
            former = None
        place = str(path) if former is None else former
        self._journal_place = place
        for release, count in missing_charges(self.ledger, LedgerJournal.read(place, self.run_id)):
            self.ledger.charge(release, count, label=LATER)
        if write:
            self._journal = LedgerJournal(place, self.run_id)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of the account, as plain Python values."""
        return {
            "run_id": self.run_id,
            "next_round": self._next_round,
            "ledger": self.ledger.state_dict(),
            "journal": self._journal_place,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; what this process has charged since stays charged.

        Raises:
            CheckpointError: The saved ledger is damaged, or of another unit or delta.
            PrivacyBudgetExceeded: Both ledgers together are more than the budget.
        """
        restore_ledger(self.ledger, state["ledger"], same_run=self._charged_here and state["run_id"] == self.run_id)
        self.run_id = str(state["run_id"])
        self._journal_place = state["journal"]
        self._next_round = int(state["next_round"])
        self._charged_round = None
