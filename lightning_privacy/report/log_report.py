"""The report of a run, given to its loggers.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> from lightning_privacy._lightning import CSVLogger
    >>> with tempfile.TemporaryDirectory() as run, tempfile.TemporaryDirectory() as elsewhere:
    ...     _ = (Path(run) / "report.html").write_text("<p>fine</p>")
    ...     logger = CSVLogger(elsewhere, name="runs", version=0)
    ...     log_report([logger], run)
    ...     sorted(path.name for path in Path(logger.log_dir).iterdir())
    ['report.html']
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lightning_privacy._lightning import Logger
from lightning_privacy.callbacks._logger_files import log_files

__all__ = ["log_report"]

_FILES = ("report.html", "report.json", "model_card.md", "summary.json", "summary.txt")


def log_report(loggers: Iterable[Logger], folder: str | os.PathLike[str]) -> None:
    """Give what a run folder says of a run to its loggers; after the fit, by the first process alone.

    MLflow gets the files as artefacts of the run, Weights & Biases as files and the page as a panel, TensorBoard the
    summary as text with the place of the page. Lightning's CSV logger gets copies where it writes to another folder.

    Args:
        loggers: As ``trainer.loggers`` has them; those of another kind are left out.
        folder: Of the run; what of ``report.html``, ``report.json``, ``model_card.md`` and the summary is there.

    Raises:
        OSError: A file can't be read, or not be copied.
    """
    root = Path(folder)
    files = [root / name for name in _FILES if (root / name).is_file()]
    if not files:
        return
    summary = root / "summary.txt"
    text = summary.read_text(encoding="utf-8") if summary.is_file() else ""
    log_files(loggers, "report", files, text=text)
