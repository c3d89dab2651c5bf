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
from lightning_privacy.report._run_tree import next_earlier, walk_run
from lightning_privacy.report.earlier_weights import earlier_weights, named_in, newest, refuse_linked
from lightning_privacy.report.ledger_file import LEDGER_FILE
from lightning_privacy.report.run_journals import JOURNALS_FILE, journal_files
from lightning_privacy.report.run_record import PREPARATION_FILE, audit_files
from lightning_privacy.serving.exported_model import MANIFEST
from lightning_privacy.sweeps.result import RESULT_NAME

__all__ = ["put_aside"]

# They stand for what Lightning finds in the folder.
_WORDS = ("last", "hpc")
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
    they are. Journals of private steps stay where checkpoints say they are. Fairness tables and curves of the run whose
    checkpoint in this folder the next one goes on from stay too, and the checkpoints beside that or named in it.

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
    read = {Path(each).resolve() for each in inputs}
    if checkpoint is not None and str(checkpoint) in _WORDS:
        checkpoint = newest(folder, str(checkpoint))  # without one, Lightning starts anew
    start = None if checkpoint is None else Path(checkpoint)
    if start is None:
        refuse_linked(folder, inputs=read)
    named = set() if start is None else named_in(start)
    weights = [path for path in earlier_weights(folder, inputs=read) if not _stays(path, start, named)]
    told = [*audit_files(folder), *(path for name in _FILES if (path := folder / name).is_file())]
    journals: dict[str, int] = {}
    if start is None or not _lies_in(folder, start):
        # A table of more steps than the next run takes would be taken for that one's last.
        told = [*fairness_files(folder), *(path for name in _METRICS if (path := folder / name).is_file()), *told]
    if start is None:
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


def _stays(path: Path, start: Path | None, named: Collection[Path]) -> bool:
    """Whether weights are of the run that goes on: beside its checkpoint, or named in it; exports are made anew."""
    if start is None or (path / MANIFEST).is_file():
        return False
    place, first = path.resolve(), start.resolve()
    return (
        first.is_relative_to(place) or place in named or (path.suffix == first.suffix and place.parent == first.parent)
    )


def _lies_in(folder: Path, start: Path) -> bool:
    """Whether a checkpoint is of the run of the folder, and not of an earlier one or another."""
    place = start.resolve().parent
    return any(here.resolve() == place for here, _, _ in walk_run(folder, links=True))
