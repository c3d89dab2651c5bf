"""What a run writes for its report, and the report itself at its end.

Example:
    >>> import tempfile
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> ledger.charge(SampledGaussian(noise_multiplier=2.0, sample_rate=0.1), count=10, label="training")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     finish_run(Path(folder), ledger=ledger).name
    'report.html'
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightning_privacy._lightning import LightningDataModule, Logger
from lightning_privacy._text_file import write_text
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._balance_cost import CellCost
from lightning_privacy.errors import LightningPrivacyError
from lightning_privacy.report.ledger_file import LEDGER_FILE, write_ledger
from lightning_privacy.report.log_report import log_report
from lightning_privacy.report.make_report import make_report
from lightning_privacy.report.run_record import PREPARATION_FILE

__all__ = ["finish_run", "keep_ledger", "write_preparation"]

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


def finish_run(
    folder: Path,
    *,
    ledger: PrivacyLedger | None,
    covers: str = "training",
    classes: Sequence[CellCost] = (),
    datamodule: LightningDataModule | None = None,
    loggers: Iterable[Logger] = (),
) -> Path | None:
    """Write what only the running process knows, and make the report.

    A run has cost hours and a budget that is spent: whatever goes wrong here is logged, and the run is not lost by it.

    Args:
        folder: Of the run.
        ledger: What was charged; None for a run without, whose folder has no ledger then.
        covers: As :func:`~lightning_privacy.report.ledger_file.ledger_values` takes it.
        classes: What the run costs the examples of single classes.
        datamodule: Of the run, which may have prepared its data.
        loggers: Of the run, which are given the report.

    Returns:
        The page, or None where it could not be made.
    """
    if ledger is None:
        # One of an earlier run in this folder would make this one private.
        _attempt("the folder without a ledger", folder, lambda: (folder / LEDGER_FILE).unlink(missing_ok=True))
    else:
        about: dict[str, Any] = {"covers": covers, "classes": classes}
        about["records_per_person"] = getattr(datamodule, "most_records_charged", None)
        _attempt("the ledger", folder, lambda: write_ledger(folder, ledger, **about))
    if datamodule is not None:
        _attempt("the preparation of the data", folder, lambda: write_preparation(folder, datamodule))
    made = _attempt("the report", folder, lambda: make_report(folder))
    if made is None:
        return None
    _attempt("the report at the loggers", folder, lambda: log_report(loggers, folder))
    return made.page


def _attempt(what: str, folder: Path, action: Callable[[], _Result]) -> _Result | None:
    """Do something that is not worth a run; what goes wrong is told."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - whatever it is, the run must not be lost by it
        _log.warning(
            "warning: %s could not be written (%s); the run is complete. To try again: lightning-privacy report %s",
            what,
            " ".join(str(error).split()) or type(error).__name__,
            folder,
            exc_info=_log.isEnabledFor(logging.DEBUG),
        )
        return None


def keep_ledger(folder: Path, ledger: PrivacyLedger | None) -> None:
    """Write the ledger of a run that did not come to its end; the error that ended it is worth more than one here.

    Args:
        folder: Of the run.
        ledger: What was charged; None for a run without.
    """
    if ledger is None:
        return
    try:
        write_ledger(folder, ledger, complete=False)
    except (OSError, LightningPrivacyError) as error:
        _log.warning("warning: the ledger could not be written to %s: %s", folder, error)


def write_preparation(folder: Path, datamodule: LightningDataModule) -> None:
    """Write ``preparation.json`` for a data module that has prepared its data; the counts in it are exact.

    Args:
        folder: Of the run.
        datamodule: Any.

    Raises:
        OSError: It can't be written.
    """
    report = getattr(datamodule, "preparation_report", None)
    if report is None:
        return
    counts = getattr(datamodule, "counts", {})
    values: dict[str, Any] = {**report.to_dict(), "counts": dict(counts) if isinstance(counts, Mapping) else {}}
    write_text(folder / PREPARATION_FILE, json.dumps(values, indent=1, default=str) + "\n")
