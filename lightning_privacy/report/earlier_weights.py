"""Weights that an earlier run left in a folder: its checkpoints and exported models, wherever below it they are.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("models/a/best.ckpt", "checkpoints/last.ckpt"):
    ...         Path(folder, name).parent.mkdir(parents=True)
    ...         Path(folder, name).touch()
    ...     [path.relative_to(folder).as_posix() for path in earlier_weights(Path(folder))]
    ['checkpoints/last.ckpt', 'models/a/best.ckpt']
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report._run_tree import walk_run
from lightning_privacy.report.environment import ENVIRONMENT_FILE
from lightning_privacy.serving.exported_model import MANIFEST
from lightning_privacy.serving.manifest import FILES

__all__ = ["WEIGHTS", "earlier_weights", "named_in", "newest", "refuse_linked"]

_SUFFIX = ".ckpt"
_CHECKPOINTS = "checkpoints"
# Of subclasses of ModelCheckpoint and of code of one's own. Among checkpoints they are weights; elsewhere they may be
# anything, and count where they were written since the earlier run began.
_OTHERS = (".pt", ".pth", ".bin", ".safetensors")
WEIGHTS = (_SUFFIX, *_OTHERS)
"""Ends of names of files of weights."""
# Lightning looks for what it goes on from by itself after a cluster's signal: those files stay.
_FOUND_BY_LIGHTNING = "hpc_ckpt_"


def earlier_weights(folder: Path, *, inputs: Collection[Path] = ()) -> list[Path]:
    """Find the weights in a run folder, whatever places the run was given for them.

    A folder that :func:`~lightning_privacy.serving.export` wrote is found as a whole. Folders of other runs and what
    links lead to are not searched.

    Args:
        folder: Of the run.
        inputs: Files that are read by the run to come, resolved; they are not found.

    Returns:
        Files and folders, none inside another, in order.
    """
    return sorted(_found(folder, frozenset(inputs)))


def _found(folder: Path, inputs: frozenset[Path]) -> Iterator[Path]:
    began = _began(folder)
    for here, folders, files in walk_run(folder):
        if here != folder and MANIFEST in files and not FILES.keys().isdisjoint(files):
            folders.clear()
            yield here
            continue
        of_checkpoints = _CHECKPOINTS in here.relative_to(folder).parts
        for name in (*folders, *files):
            path = here / name
            if path.suffix in _OTHERS and name in files:
                weights = of_checkpoints or path.lstat().st_mtime >= began
            else:
                weights = path.suffix == _SUFFIX and not name.startswith(_FOUND_BY_LIGHTNING)
            if weights and path.resolve() not in inputs:
                yield path
        # A folder of such a name is one checkpoint, in parts.
        folders[:] = [name for name in folders if not name.endswith(_SUFFIX)]


def _began(folder: Path) -> float:
    """When the earlier run of a folder began; never, where there was none."""
    path = folder / ENVIRONMENT_FILE
    return path.stat().st_mtime if path.is_file() else math.inf


def refuse_linked(folder: Path, *, inputs: Collection[Path] = ()) -> None:
    """Refuse to start a run anew where its report would lie beside checkpoints behind a link.

    Args:
        folder: Of the run.
        inputs: Files that are read by the run to come, resolved.

    Raises:
        ConfigurationError: There was a run in the folder, and a folder that a link in it leads to holds checkpoints.
    """
    if not (folder / ENVIRONMENT_FILE).is_file():
        return
    inside = folder.resolve()
    for here, folders, files in walk_run(folder, links=True):
        if here.resolve().is_relative_to(inside):
            continue
        found = [
            name for name in (*folders, *files) if name.endswith(_SUFFIX) and (here / name).resolve() not in inputs
        ]
        if found:
            raise ConfigurationError(
                f"{here / found[0]} lies behind a link, and is a checkpoint of an earlier run or of another: the "
                "report of a run that starts anew in this folder would be taken for its, and it is not moved. Let the "
                "link lead to an empty folder, or use another run folder (hydra.run.dir=...)"
            )


def newest(folder: Path, word: str) -> Path | None:
    """The newest checkpoint with a word in its name: what one of Lightning's words stands for, as far as that tells.

    Args:
        folder: Of the run.
        word: Such as ``"last"`` or ``"hpc"``; the empty one is in every name.
    """
    found = [
        here / name
        for here, folders, files in walk_run(folder, links=True)
        for name in (*folders, *files)
        if name.endswith(_SUFFIX) and word in name
    ]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def named_in(checkpoint: Path) -> set[Path]:
    """The checkpoints that a run had written when it wrote this one, as far as the states of its callbacks name them.

    Args:
        checkpoint: Of the run.

    Returns:
        Resolved paths; none where it can't be read without trusting it, or without a key.
    """
    try:
        saved = torch.load(checkpoint, map_location="meta", weights_only=True)
        states = [state for state in saved["callbacks"].values() if isinstance(state, Mapping)]
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, UnpicklingError):
        return set()  # the run itself says what is wrong with it
    names = [state.get(key) for state in states for key in ("best_model_path", "last_model_path")]
    names += [name for state in states for name in state.get("best_k_models") or ()]
    return {Path(name).resolve() for name in names if isinstance(name, str) and name}
