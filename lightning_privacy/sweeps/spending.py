"""What one attempt at a run spends, written down before it happens, so that it is known however the attempt ends.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> from lightning_privacy.accounting.journal import LedgerJournal
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     spending, ledger = Spending(Path(folder), Path(folder, "0"), "a1"), PrivacyLedger(delta=1e-5)
    ...     spending.watch([ledger])
    ...     ledger.charge(SampledGaussian(1.0, 0.1), count=3)
    ...     account = AttemptLog(Path(folder)).path.exists(), LedgerJournal.read(spending.journal(0), "a1")
    >>> account
    (True, [(SampledGaussian(noise_multiplier=1.0, sample_rate=0.1), 3)])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_privacy.accounting import LedgerJournal, PrivacyLedger
from lightning_privacy.sweeps.attempts import Account, Accounts, AttemptLog

__all__ = ["FOLDER", "Spending", "account_for", "present_spending", "set_present_spending"]

FOLDER = "privacy_ledger"


class Spending:
    """Of one attempt.

    Args:
        sweep: Folder of the sweep.
        run: Folder of the run.
        attempt: Names the attempt.
    """

    def __init__(self, sweep: Path, run: Path, attempt: str) -> None:
        self._sweep, self._run, self._attempt = sweep, run, attempt
        self._ledgers: list[PrivacyLedger] = []
        self._covers: str | None = None

    def journal(self, number: int) -> Path:
        """The file of the so-many-th ledger."""
        return self._run / FOLDER / f"attempt_{self._attempt}_{number}.jsonl"

    def watch(self, ledgers: Sequence[PrivacyLedger], *, covers: str = "all") -> None:
        """Write down from now on what is charged to these ledgers, and what was already.

        Args:
            ledgers: All of the attempt.
            covers: As in :class:`~lightning_privacy.sweeps.attempts.Accounts`.

        Raises:
            OSError: The files can't be made; nothing must be released then.
        """
        self._ledgers, self._covers = list(ledgers), covers
        (self._run / FOLDER).mkdir(parents=True, exist_ok=True)
        journals = [LedgerJournal(self.journal(number), self._attempt) for number in range(len(ledgers))]
        accounts = tuple(
            Account(journal.path.relative_to(self._run).as_posix(), ledger.unit, ledger.delta)
            for journal, ledger in zip(journals, ledgers, strict=True)
        )
        AttemptLog(self._sweep).write(Accounts(self._attempt, accounts, covers))
        for journal, ledger in zip(journals, ledgers, strict=True):
            ledger.tell(journal.record, caveats=journal.note)

    def result(self) -> dict[str, Any]:
        """What the attempt has cost, as plain Python values, once it is over."""
        return {"covers": self._covers, "ledgers": [ledger.state_dict() for ledger in self._ledgers]}


_PRESENT: list[Spending] = []


def set_present_spending(spending: Spending) -> None:
    """Say that this process is an attempt at a run of a sweep."""
    _PRESENT[:] = [spending]


def present_spending() -> Spending | None:
    """Of the attempt this process is, or ``None`` outside of a sweep."""
    return _PRESENT[0] if _PRESENT else None


def account_for(ledgers: Sequence[PrivacyLedger | None], *, covers: str = "all") -> None:
    """Write down what is charged to these ledgers, where this process is an attempt at a run of a sweep.

    Args:
        ledgers: Those of the run; repeated ones and ``None`` are left out.
        covers: As in :class:`~lightning_privacy.sweeps.attempts.Accounts`.

    Raises:
        OSError: It can't be written down.
    """
    spending = present_spending()
    if spending is not None:
        spending.watch(list({id(ledger): ledger for ledger in ledgers if ledger is not None}.values()), covers=covers)
