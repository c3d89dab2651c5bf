r"""Fairness tables as CSV: one file for each validation, complete or not there.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_records(Path(folder), "val-step=3", [{"figure": "tpr", "value": 0.5}])
    ...     path.name, path.read_text()
    ('val-step=3.csv', 'figure,value\ntpr,0.5\n')
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_privacy._lightning import rank_zero_warn
from lightning_privacy._text_file import write_text

__all__ = ["keep_records", "write_records"]


def keep_records(
    write: bool | str | Path, folder: str | None, name: str, stem: str, records: Sequence[Mapping[str, Any]]
) -> None:
    """Write records where the callback was told to.

    Args:
        write: Whether to, or the folder to write them to.
        folder: Of the run; None where it has none.
        name: Of the callback, and of its folder in that of the run.
        stem: As for :func:`write_records`.
        records: As for :func:`write_records`.

    Raises:
        OSError: They can't be written.
    """
    if write is False or (write is True and folder is None):
        return
    if write is True and "://" in str(folder):
        rank_zero_warn(
            f"GroupFairness writes no file: the run folder {folder} is not a local one. Give a folder as write="
        )
        return
    write_records(Path(str(folder)) / name if write is True else Path(write), stem, records)


def write_records(folder: Path, stem: str, records: Sequence[Mapping[str, Any]]) -> Path:
    """Write records into a new file; one that is there already is left alone, and the new one numbered.

    Args:
        folder: Made when missing.
        stem: Name of the file without ``.csv``.
        records: At least one, all with the same keys.

    Returns:
        The file.

    Raises:
        OSError: It can't be written; nothing is left then.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    folder.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([f"{stem}.csv"], (f"{stem}-v{number}.csv" for number in itertools.count(1)))
    path = next(folder / name for name in names if not (folder / name).exists())
    write_text(path, buffer.getvalue())
    return path
