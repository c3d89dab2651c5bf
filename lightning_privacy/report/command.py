"""``lightning-privacy report RUN_FOLDER``: make the report of a run again, from what is in its folder.

    lightning-privacy report runs/2026-11-22_06-26-37
    lightning-privacy report runs/2026-11-22_06-26-37 --into /tmp/report
    lightning-privacy report --schema > report.schema.json

Example:
    >>> report_command(["nowhere"])
    1
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_privacy.errors import ConfigurationError, LightningPrivacyError
from lightning_privacy.report.make_report import make_report, report_schema
from lightning_privacy.report.run_journals import journal_files
from lightning_privacy.report.run_record import RunRecord
from lightning_privacy.report.sweep_record import SweepRecord

__all__ = ["report_command"]


def report_command(argv: Sequence[str]) -> int:
    """Make a report and say what it lacks.

    Args:
        argv: What follows ``lightning-privacy report``.

    Returns:
        The exit status: 0, 1 after an error whose message is on the error stream, 2 after a wrong command line, 3 when
        the report is there and an audit in it contradicts the guarantee.
    """
    parser = argparse.ArgumentParser(
        prog="lightning-privacy report",
        description="Make report.html, report.json and model_card.md from the folder of a run.",
    )
    parser.add_argument("folder", nargs="?", type=Path, help="of the run; it may have been moved")
    parser.add_argument("--into", type=Path, help="folder to write to; that of the run by default")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of report.json instead")
    try:
        arguments = parser.parse_args(argv)
        if arguments.folder is None and not arguments.schema:
            parser.error("the folder of a run is needed")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    if arguments.schema:
        print(json.dumps(report_schema(), indent=2))  # noqa: T201 - the command's own output
        return 0
    try:
        _refuse_other(arguments.folder)
        made = make_report(arguments.folder, into=arguments.into)
    except (LightningPrivacyError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - the command's own output
        return 1
    for sentence in made.missing:
        print(f"* {sentence}")  # noqa: T201
    for path in (made.page, made.values, made.card):
        print(path)  # noqa: T201
    if made.status == "broken":
        print("error: an audit contradicts the guarantee of this run; see the report", file=sys.stderr)  # noqa: T201
        return 3
    return 0


def _refuse_other(folder: Path) -> None:
    """Refuse a folder that no run has written to: its page would look as if a run had left nothing.

    Raises:
        ConfigurationError: It is none, or that of a sweep.
    """
    if not RunRecord.read(folder).empty or journal_files(folder):
        return
    if SweepRecord.read(folder).entries:
        raise ConfigurationError(f"{folder} is the folder of a sweep: lightning-privacy sweep-report {folder}")
    raise ConfigurationError(
        f"{folder} holds nothing that a run leaves (config.yaml, summary.json, ledger.json, metrics/metrics.csv): name "
        "the folder that the run told at its start"
    )
