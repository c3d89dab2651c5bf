"""Weights that an earlier run left in a folder: its checkpoints and exported models, wherever below it they are.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("models/a/best.ckpt", "checkpoints/last.ckpt"):
    ...         Path(folder, name).parent.mkdir(parents=True)
    ...         Path(folder, name).touch()
    ...     [path.relative_to(folder).as_posix() for path in earlier_weights(Path(folder))]
    ['checkpoints', 'models/a/best.ckpt']
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from lightning_privacy.report._run_tree import walk_run
from lightning_privacy.serving.exported_model import MANIFEST
from lightning_privacy.serving.manifest import FILES

__all__ = ["earlier_weights"]

_SUFFIX = ".ckpt"
_CHECKPOINTS = "checkpoints"
# Lightning looks for what it goes on from by itself after a cluster's signal: those files stay.
_FOUND_BY_LIGHTNING = "hpc_ckpt_"


def earlier_weights(folder: Path, *, inputs: Collection[Path] = ()) -> list[Path]:
    """Find the weights in a run folder, whatever places the run was given for them.

    A folder named ``checkpoints`` that holds some is found as a whole, and so is one that
    :func:`~lightning_privacy.serving.export` wrote. Hidden folders, those of other runs and what links lead to are not
    searched.

    Args:
        folder: Of the run.
        inputs: Files that are read by the run to come, resolved; they are not found.

    Returns:
        Files and folders, none inside another, in order.
    """
    return sorted(_found(folder, frozenset(inputs)))


def _found(folder: Path, inputs: frozenset[Path]) -> Iterator[Path]:
    for here, folders, files in walk_run(folder):
        if here != folder and MANIFEST in files and not FILES.keys().isdisjoint(files):
            folders.clear()
            yield here
            continue
        whole = {name for name in folders if _holds_weights(here / name, inputs)}
        yield from (here / name for name in whole)
        yield from (here / name for name in files if _is_weights(here / name, inputs))
        folders[:] = [name for name in folders if name not in whole and not name.endswith(_SUFFIX)]


def _is_weights(path: Path, inputs: frozenset[Path]) -> bool:
    if path.suffix != _SUFFIX or path.name.startswith(_FOUND_BY_LIGHTNING):
        return False
    return path.resolve() not in inputs


def _holds_weights(path: Path, inputs: frozenset[Path]) -> bool:
    """Whether a folder is one checkpoint, in parts, or one of checkpoints and nothing that is still read."""
    if path.suffix == _SUFFIX:
        return _is_weights(path, inputs)
    return (
        path.name == _CHECKPOINTS
        and any(path.rglob(f"*{_SUFFIX}"))
        and not any(each.is_relative_to(path.resolve()) for each in inputs)
    )
