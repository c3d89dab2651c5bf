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
from collections.abc import Collection
from pathlib import Path

from lightning_privacy._text_file import write_text
from lightning_privacy.callbacks.classification_tally import CLASSIFICATION_FILE
from lightning_privacy.report._fairness_record import fairness_files
from lightning_privacy.report._run_tree import next_earlier
from lightning_privacy.report.earlier_weights import earlier_weights, named_in, refuse_linked
from lightning_privacy.report.ledger_file import LEDGER_FILE
from lightning_privacy.report.run_journals import JOURNALS_FILE, journal_files
from lightning_privacy.report.run_record import PREPARATION_FILE, audit_files
from lightning_privacy.serving.exported_model import MANIFEST
from lightning_privacy.sweeps.result import RESULT_NAME

__all__ = ["put_aside"]

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


def put_aside(
    folder: Path, *, checkpoint: str | Path | None = None, inputs: Collection[str | Path] = ()
) -> Path | None:
    """Move the account, the report, the audits and the weights of an earlier run to ``earlier_0``, ``earlier_1``, ...

    A later run that is private covers the weights it made, and not those of an earlier one, wherever in the folder
    they are. Journals of private steps stay where checkpoints say they are. Fairness tables, curves and the checkpoints
    beside the one that the run goes on from, or named in it, stay too, as they are of the same run.

    Args:
        folder: Of the run that is about to start.
        checkpoint: What it goes on from, or one of Lightning's words for it; then the journals that are there may be
            its own. None for a run that starts anew.
        inputs: Other checkpoints that it reads; they stay.

    Returns:
        Where they are now; None where there was nothing to move.

    Raises:
        ConfigurationError: Some can't be told from those of other runs, behind a link.
        OSError: They can't be moved; the run must not start, or it would be taken for the earlier one.
    """
    if checkpoint is None:
        refuse_linked(folder)
    read = {Path(each).resolve() for each in inputs}
    named = set() if checkpoint is None or _is_word(checkpoint) else named_in(Path(checkpoint))
    weights = [path for path in earlier_weights(folder, inputs=read) if not _stays(path, checkpoint, named)]
    told = [*audit_files(folder), *(path for name in _FILES if (path := folder / name).is_file())]
    journals: dict[str, int] = {}
    if checkpoint is None:
        # A table of more steps than the next run takes would be taken for that one's last.
        told = [*fairness_files(folder), *(path for name in _METRICS if (path := folder / name).is_file()), *told]
        journals = {path.relative_to(folder).as_posix(): path.stat().st_size for path in journal_files(folder)}
    left = weights + [path for path in told if not any(path.is_relative_to(whole) for whole in weights)]
    if not left and not journals:
        return None
    aside = next_earlier(folder)
    aside.mkdir()
    if journals:
        write_text(aside / JOURNALS_FILE, json.dumps(journals, indent=1) + "\n")
    for path in left:
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    return aside


def _stays(path: Path, checkpoint: str | Path | None, named: Collection[Path]) -> bool:
    """Whether weights are of the run that goes on: beside its checkpoint, or named in it; exports are made anew."""
    if checkpoint is None or (path / MANIFEST).is_file():
        return False
    if _is_word(checkpoint):
        return True
    place, start = path.resolve(), Path(checkpoint).resolve()
    return (
        start.is_relative_to(place) or place in named or (path.suffix == start.suffix and place.parent == start.parent)
    )


def _is_word(checkpoint: str | Path) -> bool:
    return str(checkpoint) in _WORDS or str(checkpoint).startswith("registry")
