"""What is in a run folder, however deep, without what is not that run's.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("metrics", "earlier_0", ".git"):
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
# The first is written by every run of the command, into its folder.
_NOT_THIS_RUNS = frozenset({ENVIRONMENT_FILE, "pyvenv.cfg"})
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


def walk_run(folder: Path, *, links: bool = False) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a run folder from its top, as ``os.walk`` does: names taken out of the first list are not walked into.

    What was put aside of earlier runs, folders of runs of their own, repositories and virtual environments are not
    walked into; hidden folders are.

    Args:
        folder: Of the run.
        links: Whether folders behind links are walked into, each once.

    Yields:
        A folder, and the names of the folders and files in it.
    """
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=links):
        here, real = Path(place), os.path.realpath(place)
        if real in seen or (here != folder and not _NOT_THIS_RUNS.isdisjoint(files)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(
            name for name in folders if name != ".git" and not (here == folder and _PUT_ASIDE.fullmatch(name))
        )
        yield here, folders, files
