"""Journals of private steps in the folder of a run, held against its ledger: they know of steps after it was written.

Example:
    >>> import tempfile
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "privacy_ledger", "a1.jsonl")
    ...     path.parent.mkdir()
    ...     with LedgerJournal(path, "a1") as journal:
    ...         journal.record(SampledGaussian(2.0, 0.1), total_count=7)
    ...     charge_journals(ledger, Path(folder)), ledger.history[0][1:]
    (['privacy_ledger/a1.jsonl'], (7, 'journal'))
"""

from __future__ import annotations

import json
from pathlib import Path

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.journal import LedgerJournal, missing_charges
from lightning_privacy.errors import CheckpointError
from lightning_privacy.report._run_tree import earlier_folders, walk_run

__all__ = ["JOURNALS_FILE", "charge_journals", "journal_files"]

JOURNALS_FILE = "journals.json"
"""In a folder of what an earlier run left: its journals in the run's folder, and how many bytes they had at its end."""

_FOLDER = "privacy_ledger"
_OF_SWEEPS = "attempt_"  # A sweep adds up its attempts itself.


def journal_files(folder: Path) -> list[Path]:
    """The journals of the run in a folder, without those of sweeps and of earlier runs.

    A journal of an earlier run that has grown since is one of a later run too, which went on from a checkpoint.

    Args:
        folder: Of the run.

    Raises:
        CheckpointError: The list of an earlier run's journals can't be read.
        OSError: Likewise.
    """
    # Beside what Lightning's loggers write, wherever in the folder that is.
    found = [
        here / name
        for here, _, files in walk_run(folder, links=True)
        if here.name == _FOLDER
        for name in files
        if name.endswith(".jsonl") and not name.startswith(_OF_SWEEPS)
    ]
    others: set[tuple[str, int]] = set()
    for path in (aside / JOURNALS_FILE for aside in earlier_folders(folder)):
        if not path.is_file():
            continue
        try:
            others.update((str(name), int(size)) for name, size in json.loads(path.read_bytes()).items())
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} holds no list of journals: {error}") from error
    return sorted(path for path in found if (path.relative_to(folder).as_posix(), path.stat().st_size) not in others)


def charge_journals(ledger: PrivacyLedger, folder: Path) -> list[str]:
    """Charge what the journals of a run know of and its ledger does not.

    Args:
        ledger: As its file has it; has no budget.
        folder: Of the run.

    Returns:
        The journals that knew of more.

    Raises:
        CheckpointError: A journal is damaged.
        OSError: A journal can't be read.
    """
    found = []
    for path in journal_files(folder):
        more = [charge for run in _runs(path) for charge in missing_charges(ledger, LedgerJournal.read(path, run))]
        for release, count in more:
            ledger.charge(release, count, label="journal")
        if more:
            found.append(path.relative_to(folder).as_posix())
    return found


def _runs(path: Path) -> list[str]:
    """The runs whose releases a journal holds; where it holds steps of single clients, there is none."""
    names: dict[str, None] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            values = json.loads(line)
            # A line that is damaged is noticed when its run is read.
            if "steps" not in values:
                names[str(values["run"])] = None
        except (ValueError, TypeError, KeyError):
            continue
    return list(names)
