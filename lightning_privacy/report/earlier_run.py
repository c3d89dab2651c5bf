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
from lightning_privacy.serving.exported_model import MANIFEST
from lightning_privacy.sweeps.result import RESULT_NAME

__all__ = ["put_aside"]

# A later run that is private covers the weights it made, and not those of an earlier one. Lightning looks for what it
# goes on from by itself after a cluster's signal: those files stay.
_WEIGHTS = (*(f"{'*/' * depth}checkpoints" for depth in range(4)), "*.ckpt")
_FOUND_BY_LIGHTNING = "hpc_ckpt_"
# They stand for what Lightning finds in the folder.
_WORDS = ("last", "best", "hpc")
_METRICS = ("metrics/metrics.csv", "metrics.csv")
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


def put_aside(folder: Path, *, checkpoint: str | Path | None = None) -> Path | None:
    """Move the account, the report, the audits and the weights of an earlier run to ``earlier_0``, ``earlier_1``, ...

    Journals of private steps stay where checkpoints say they are. Fairness tables, curves and the checkpoints beside
    the one that the run goes on from stay too, as they are of the same run.

    Args:
        folder: Of the run that is about to start.
        checkpoint: What it goes on from, or one of Lightning's words for it; then the journals that are there may be
            its own. None for a run that starts anew.

    Returns:
        Where they are now; None where there was nothing to move.

    Raises:
        OSError: They can't be moved; the run must not start, or it would be taken for the earlier one.
    """
    left = [path for path in _weights(folder) if not _holds(path, checkpoint)]
    left += [path for path in (*audit_files(folder), *(folder / name for name in _FILES)) if path.is_file()]
    journals: dict[str, int] = {}
    if checkpoint is None:
        # A table of more steps than the next run takes would be taken for that one's last.
        left = [*fairness_files(folder), *(path for name in _METRICS if (path := folder / name).is_file()), *left]
        journals = {path.relative_to(folder).as_posix(): path.stat().st_size for path in journal_files(folder)}
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


def _weights(folder: Path) -> list[Path]:
    """Checkpoints and exported models, each folder of them as a whole."""
    found = {path for pattern in _WEIGHTS for path in folder.glob(pattern)}
    found |= {path.parent for path in folder.glob(f"*/{MANIFEST}")}
    # A run that was given no place for its checkpoints has them beside those of its loggers, never inside of others.
    return sorted(
        path
        for path in found
        if not path.relative_to(folder).parts[0].startswith((EARLIER, "."))
        and not path.name.startswith(_FOUND_BY_LIGHTNING)
        and found.isdisjoint(path.parents)
    )


def _holds(path: Path, checkpoint: str | Path | None) -> bool:
    """Whether a run goes on from what is there."""
    if checkpoint is None:
        return False
    if str(checkpoint) in _WORDS or str(checkpoint).startswith("registry"):
        return True
    return Path(checkpoint).resolve().is_relative_to(path.resolve())
