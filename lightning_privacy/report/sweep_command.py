"""``lightning-privacy sweep-report FOLDER``: runs of a sweep beside each other, and what it costs as a whole.

    lightning-privacy sweep-report runs/sweep_2026-01-31_12-00-00
    lightning-privacy sweep-report runs/sweep_2026-01-31_12-00-00 --delta 1e-6

It writes ``sweep.html``, a page in one file, and ``sweep.json`` with the same figures.

Example:
    >>> sweep_report_command(["nowhere"])
    1
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_privacy._text_file import write_text
from lightning_privacy._validate import within_open_unit
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.errors import LightningPrivacyError
from lightning_privacy.report.sweep_data import LABELS, sweep_data
from lightning_privacy.report.sweep_page import sweep_page
from lightning_privacy.report.sweep_record import SweepRecord

__all__ = ["DATA_FILE", "PAGE_FILE", "sweep_report_command", "sweep_table", "tell_sweep"]

PAGE_FILE, DATA_FILE = "sweep.html", "sweep.json"


def sweep_table(data: Mapping[str, Any]) -> Table:
    """The runs as a table for the terminal.

    Args:
        data: As :func:`~lightning_privacy.report.sweep_data.sweep_data` gives it.
    """
    table = Table(title=f"Sweep {data['name']}", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("run")
    figures = [LABELS[figure] for figure in data["figures"]]
    for name in (*_short(data["settings"], taken=figures), *figures):
        table.add_column(name, justify="right")
    table.add_column("beaten by none")
    for run in data["runs"]:
        values = [_value(name, run["figures"].get(name)) for name in data["figures"]]
        table.add_row(run["run"], *run["settings"].values(), *values, "yes" if run["pareto"] else "")
    return table


def _short(settings: Sequence[str], *, taken: Collection[str]) -> list[str]:
    """As little of each name, from its end, as tells it from the others and from what is taken."""
    endings = {name: [name.split(".", at)[at] for at in range(name.count("."), -1, -1)] for name in settings}
    used = Counter(ending for each in endings.values() for ending in each)
    return [next((e for e in each if used[e] == 1 and e not in taken), each[-1]) for each in endings.values()]


def sweep_report_command(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: What stands after ``sweep-report``.

    Returns:
        The exit status: 0; 1 where the folder can't be read, with the reason on the error stream.
    """
    parser = argparse.ArgumentParser(prog="lightning-privacy sweep-report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="of a sweep, or one that has folders of runs")
    parser.add_argument("--delta", type=float, default=None, help="at which the sweep's epsilon is wanted")
    parser.add_argument("--output", type=Path, default=None, help="folder for the report; the sweep's by default")
    given = parser.parse_args(list(argv))
    # Of orders that dp_accounting leaves out of a bound, which is none the less one.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        tell_sweep(given.folder, delta=given.delta, output=given.output)
    except (LightningPrivacyError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - the command's own output
        return 1
    return 0


def tell_sweep(folder: Path, *, delta: float | None = None, output: Path | None = None) -> Path:
    """Write the report, ``sweep.html`` and ``sweep.json``, and print its table, and where it is.

    Args:
        folder: Of the sweep.
        delta: At which the sweep's epsilon is wanted; the smallest of the runs' by default.
        output: Folder of the files; the sweep's by default.

    Returns:
        The page.

    Raises:
        ConfigurationError: There is no such folder, or ``delta`` is outside (0, 1).
        OSError: A file can't be written.
    """
    data = _data(folder, delta)
    page = _write(data, folder if output is None else output)
    console = Console(highlight=False)
    console.print(sweep_table(data))
    for line in (*sweep_lines(data), f"Report of the sweep: {page}"):
        console.print(line, markup=False, soft_wrap=True)
    return page


def sweep_lines(data: Mapping[str, Any]) -> list[str]:
    """What is to be known beside the table, one sentence each."""
    privacy, lost = data["privacy"], data["lost"]
    at = "" if privacy["delta"] is None else f" at delta {privacy['delta']:g}"
    lines = [f"Epsilon of the sweep as a whole: {privacy['figure']}{at}"]
    if privacy["private_runs_epsilon"] is not None:
        lines.append(f"Epsilon of its private runs together: {epsilon_text(privacy['private_runs_epsilon'])}{at}")
    lines += [f"* {sentence}" for sentence in privacy["sentences"]]
    if lost:
        runs = ", ".join(f"{entry['run']} ({entry['status']})" for entry in lost)
        lines.append(f"* Attempts that did not finish: {runs}")
    return lines


def _data(folder: Path, delta: float | None) -> dict[str, Any]:
    if delta is not None:
        within_open_unit(delta=delta)
    return sweep_data(SweepRecord.read(folder), delta=delta)


def _write(data: Mapping[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / DATA_FILE, json.dumps(data, indent=1, allow_nan=False) + "\n")
    write_text(folder / PAGE_FILE, sweep_page(data))
    return folder / PAGE_FILE


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "not private" if name == "epsilon" else "-"
    return epsilon_text(value) if name == "epsilon" else f"{value:.1%}"
