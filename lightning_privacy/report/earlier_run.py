"""What an earlier run left in a folder that is used again, put out of the way: it says nothing of the run to come.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "ledger.json").write_text("{}")
    ...     aside = put_aside(Path(folder))
    ...     aside.name, [path.name for path in aside.iterdir()], Path(folder, "ledger.json").exists()
    ('earlier_0', ['ledger.json'], False)
"""

from __future__ import annotations

import json
from pathlib import Path

from lightning_privacy._text_file import write_text
from lightning_privacy.callbacks.classification_tally import CLASSIFICATION_FILE
from lightning_privacy.report._fairness_record import fairness_files
from lightning_privacy.report.ledger_file import LEDGER_FILE
from lightning_privacy.report.run_journals import EARLIER, JOURNALS_FILE, journal_files
from lightning_privacy.report.run_record import PREPARATION_FILE, audit_files
from lightning_privacy.sweeps.result import RESULT_NAME

__all__ = ["put_aside"]

# The ledger last: while it is there, an attempt that stops half way is not over.
_FILES = (
    "summary.json",
    "summary.txt",
    "report.html",
    "report.json",
    "model_card.md",
    RESULT_NAME,
    CLASSIFICATION_FILE,
    PREPARATION_FILE,
    LEDGER_FILE,
)


def put_aside(folder: Path, *, resumed: bool = False) -> Path | None:
    """Move the account, the summary, the report and the audits of an earlier run to ``earlier_0``, ``earlier_1``, ...

    Checkpoints and journals of private steps stay where they are, as a run may be resumed from them. Fairness tables
    stay where it is, as they are of the same run.

    Args:
        folder: Of the run that is about to start.
        resumed: Whether it goes on from a checkpoint: then the journals that are there may be its own.

    Returns:
        Where they are now; None where there was nothing to move.

    Raises:
        OSError: They can't be moved; the run must not start, or it would be taken for the earlier one.
    """
    left = [path for path in (*audit_files(folder), *(folder / name for name in _FILES)) if path.is_file()]
    if not resumed:
        # A table of more steps than the next run takes would be taken for that one's last.
        left += fairness_files(folder)
    journals = [] if resumed else [path.relative_to(folder).as_posix() for path in journal_files(folder)]
    if not left and not journals:
        return None
    number = 0
    while (folder / f"{EARLIER}{number}").exists():
        number += 1
    aside = folder / f"{EARLIER}{number}"
    aside.mkdir()
    if journals:
        write_text(aside / JOURNALS_FILE, json.dumps(journals, indent=1) + "\n")
    for path in left:
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    return aside
