"""The file that knows the steps taken after the last checkpoint.

A run that is killed has spent more than its last checkpoint says. From the first checkpoint on, every
step is therefore written to a journal in the run folder before it happens; a run resumed from any
checkpoint of it is charged for the difference. A run that saves no checkpoint writes no journal.

Example:
    >>> import tempfile
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> ledger, step = PrivacyLedger(delta=1e-5), SampledGaussian(1.0, 0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     journal = StepJournal(journal_path(folder, "a1"), "a1")
    ...     journal.open(ledger)
    ...     journal.before(step, ledger)
    ...     journal.close()
    ...     charge_lost_steps(ledger, journal.path, "a1"), ledger.history[0][1:]
    (True, (1, 'lost and re-done'))
"""

from __future__ import annotations

from pathlib import Path

from lightning_privacy._lightning import Trainer, rank_zero_info
from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.accounting.journal import LedgerJournal, missing_charges
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks._run_state import RunProgress

__all__ = ["LOST", "StepJournal", "charge_lost_steps", "journal_of_run", "journal_path"]

FOLDER = "privacy_ledger"
#: How a ledger names what was released after the checkpoint that a run went on from.
LOST = "lost and re-done"


def journal_path(run_folder: str, run_id: str) -> Path:
    """Where the journal of a run is: ``privacy_ledger/<run_id>.jsonl`` in its folder."""
    return Path(run_folder).absolute() / FOLDER / f"{run_id}.jsonl"


def journal_of_run(
    trainer: Trainer, progress: RunProgress, ledger: PrivacyLedger, processes: Processes
) -> StepJournal | None:
    """Return the journal of a run, not opened yet; its place is in the progress from then on.

    Args:
        trainer: Whose run folder has it, unless a checkpoint says where it is.
        progress: Of the run.
        ledger: Gets a caveat where there can be no journal.
        processes: Each must call this; the first writes.

    Returns:
        ``None`` for the other processes, and where the folder is not a local one.
    """
    path = processes.same(progress.journal_path)
    if path is None:
        folder = trainer.log_dir or trainer.default_root_dir
        if "://" in folder:
            ledger.add_caveat(f"Steps lost in a crash are not counted: the run folder {folder} is not a local one.")
            return None
        path = processes.same(str(journal_path(folder, progress.run_id)))
    progress.journal_path = path
    return StepJournal(Path(path), progress.run_id) if processes.leads else None


class StepJournal:
    """Writes down each step before it happens, once it was opened.

    Args:
        path: The file.
        run_id: Name of the run.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self.path = path
        self._run_id = run_id
        self._file: LedgerJournal | None = None

    def open(self, ledger: PrivacyLedger) -> None:
        """Start to write; what the ledger holds is known to the checkpoint that is the reason to open.

        Raises:
            OSError: The folder or file can't be written; the message names it.
        """
        if self._file is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise type(error)(
                    error.errno,
                    f"the folder {self.path.parent} for the journal of private steps can't be made "
                    f"({error.strerror}): set Trainer(default_root_dir=...) to a folder that can be written",
                ) from error
            self._file = LedgerJournal(self.path, self._run_id)
            for release, count in ledger.groups:
                self._file.record(release, count)

    def before(self, release: Release, ledger: PrivacyLedger) -> None:
        """Note that ``release`` is about to be charged and to happen; does nothing unless open."""
        if self._file is not None:
            self._file.record(release, ledger.count(release) + 1)

    def close(self) -> None:
        """Stop to write; does nothing the second time."""
        if self._file is not None:
            self._file.close()
            self._file = None


def charge_lost_steps(ledger: PrivacyLedger, path: Path | None, run_id: str) -> bool:
    """Charge what a run spent after the checkpoint the ledger was restored from.

    Args:
        ledger: As the checkpoint has it.
        path: The run's journal.
        run_id: Name of the run.

    Returns:
        Whether there is a journal to tell.

    Raises:
        PrivacyBudgetExceeded: The lost steps alone pass the budget.
        CheckpointError: The journal is damaged.
    """
    if path is None or not path.exists():
        return False
    lost = missing_charges(ledger, LedgerJournal.read(path, run_id))
    for release, count in lost:
        ledger.charge(release, count, label=LOST)
    if lost:
        rank_zero_info(
            f"private steps and other releases that this run made after the checkpoint are charged too, as {LOST!r}: "
            f"{sum(count for _, count in lost):,}"
        )
    return True
