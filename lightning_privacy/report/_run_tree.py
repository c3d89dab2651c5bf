"""What is in a run folder, however deep, without what is not that run's.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("metrics", "earlier_0", ".hydra"):
    ...         Path(folder, name).mkdir()
    ...     [path.name for path, _, _ in walk_run(Path(folder))][1:]
    ['metrics']
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lightning_privacy.report.environment import ENVIRONMENT_FILE

__all__ = ["earlier_folders", "next_earlier", "walk_run"]

_EARLIER = "earlier_"
_PUT_ASIDE = re.compile(rf"{_EARLIER}(\d+)")


def earlier_folders(folder: Path) -> list[Path]:
    """Where what earlier runs left in a run folder is, the earliest first.

    Args:
        folder: Of the run.
    """
    found = [path for path in folder.glob(f"{_EARLIER}*") if _PUT_ASIDE.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_number)


def next_earlier(folder: Path) -> Path:
    """The folder for what is put aside next; it is not there yet.

    Args:
        folder: Of the run.
    """
    taken = earlier_folders(folder)
    number = _number(taken[-1]) + 1 if taken else 0
    while (folder / f"{_EARLIER}{number}").exists():  # a file, say
        number += 1
    return folder / f"{_EARLIER}{number}"


def _number(path: Path) -> int:
    return int(path.name.removeprefix(_EARLIER))


def walk_run(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a run folder from its top, as ``os.walk`` does: names taken out of the first list are not walked into.

    Hidden folders, what was put aside of earlier runs, folders of runs of their own, and what links lead to are not
    walked into.

    Args:
        folder: Of the run.

    Yields:
        A folder, and the names of the folders and files in it.
    """
    for place, folders, files in os.walk(folder):
        here = Path(place)
        if here != folder and ENVIRONMENT_FILE in files:
            folders.clear()
            continue
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not (here == folder and _PUT_ASIDE.fullmatch(name))
        )
        yield here, folders, files
