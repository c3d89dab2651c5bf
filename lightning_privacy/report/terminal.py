"""What the command says at a terminal of what went wrong: one paragraph for an error, one line for a warning.

Example:
    >>> explain(OSError(28, "No space left on device"), Path("runs"))
    '[Errno 28] No space left on device while the run folder runs was written'
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from lightning_privacy._lightning import pl
from lightning_privacy.errors import LightningPrivacyError
from lightning_privacy.sweeps.run_process import TRACE_VARIABLE

__all__ = ["EXPLAINED", "explain", "explained", "hush", "hydra_raises"]

# Errors whose message is meant for the person at the terminal; anything else is a defect and shows its trace.
EXPLAINED = (
    LightningPrivacyError,
    HydraException,
    OmegaConfBaseException,
    pl.utilities.exceptions.MisconfigurationException,  # type: ignore[attr-defined] # public, not re-exported
    OSError,
)
# Of a folder that can't be made or written to. A file that is missing is among them, hence an advice with an if.
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT)
_NULL_GROUP = "Config group override must be a string or a list"  # Hydra's words, which don't name the group
_ABOUT_NULL = (
    "a group of the config can't be set to null: leave it out with ~, as in '~logger', or choose its option none where "
    "it has one, as in deploy=none, callbacks=none, logger=none"
)
_HYDRA_TRACE = "HYDRA_FULL_ERROR"
# True in general, and of no use here: the data is in memory, and the run folder is the run's own.
_NOISE = (
    r".*does not have many workers.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*The dirpath has changed from.*",
    r".*Total length of `list` across ranks is zero.*",
)


def explain(error: BaseException, folder: Path | None = None) -> str:
    """One paragraph for an error a person can act on.

    Args:
        error: What was raised.
        folder: Of the run, where there was one already.
    """
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        place = str(error).rpartition("full_key: ")[2].strip()
        return f"{explain(error.__cause__)} (in the config: {place})"
    text = str(error)
    if isinstance(error, HydraException):
        # Of several lines, of which the last say where Hydra looked; the cause's first line names the key.
        lines = [line.strip() for line in text.split("Config search path")[0].splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("To append to your config")]
        if error.__cause__ is not None:
            lines.append(str(error.__cause__).split("\n")[0])
        text = "; ".join(line.rstrip(".") for line in lines).replace(":;", ":")
        text += ". All keys: lightning-privacy --cfg job"
    if isinstance(error, OSError) and error.errno is not None and error.filename is None and folder is not None:
        # A full disk is noticed on writing, and the error then does not say to which file.
        text += f" while the run folder {folder} was written"
    elif isinstance(error, OSError) and error.filename is not None and error.errno in _UNWRITABLE:
        text += ". If that is the run folder, choose another with paths.runs_dir=/path/to/folder"
    return " ".join(text.split())


@contextmanager
def explained(folder: Path | None = None) -> Iterator[None]:
    """Turn an error a person can act on into its message and exit status 1.

    Args:
        folder: Of the run, where there is one already.

    Raises:
        SystemExit: In place of such an error, unless traces are asked for.
    """
    try:
        yield
    except EXPLAINED as error:
        if os.environ.get(TRACE_VARIABLE, "0") != "0":
            raise
        print(f"error: {explain(error, folder)}", file=sys.stderr)  # noqa: T201 - the command's own output
        sys.exit(1)
    except ValueError as error:
        if _NULL_GROUP not in str(error):
            raise
        print(f"error: {_ABOUT_NULL}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


@contextmanager
def hydra_raises() -> Iterator[None]:
    """Let Hydra raise its errors, so that they are explained here and not printed by it.

    What Hydra offers for that is the variable by which a user asks for traces; the wish is kept in another.
    """
    kept = {name: os.environ.get(name) for name in (_HYDRA_TRACE, TRACE_VARIABLE)}
    os.environ.update({TRACE_VARIABLE: kept[TRACE_VARIABLE] or kept[_HYDRA_TRACE] or "0", _HYDRA_TRACE: "1"})
    try:
        yield
    finally:
        for name, value in kept.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _show_warning(
    message: Warning | str,
    category: type[Warning],  # noqa: ARG001 - the signature is Python's
    filename: str,  # noqa: ARG001
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    logging.getLogger("warning").warning("warning: %s", " ".join(str(message).split()))


def hush() -> None:
    """Keep back what is of no use at a terminal."""
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", message=pattern)
    for category in (DeprecationWarning, FutureWarning):  # meant for those who write code
        warnings.filterwarnings("ignore", category=category)
    warnings.showwarning = _show_warning
