"""What a preparation did, step by step, as a table for the terminal and as plain values.

Example:
    >>> from lightning_privacy.preparation.step import StepReport
    >>> report = PreparationReport((StepReport("drop", rows_before=3, rows_after=2),), peak_memory=2**20)
    >>> report.to_dict()["steps"][0]["rows_after"]
    2
    >>> "3 -> 2" in str(report)
    True
"""

from __future__ import annotations

import io
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_privacy.preparation.step import StepReport

__all__ = ["PreparationReport", "peak_memory"]

_NOTE = "exact counts, for whoever holds the table: no part of what a private run releases"
_WIDTH = 120
_STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """The most resident memory the process had so far, in bytes."""
    if _STATUS.is_file():  # Linux; there what getrusage says includes the process that started this one
        for line in _STATUS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM":
                return int(value.split()[0]) * 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


@dataclass(frozen=True)
class PreparationReport:
    """What each step did.

    Args:
        steps: the report of each step, in order.
        peak_memory: the most resident memory the process had so far, in bytes.
    """

    steps: tuple[StepReport, ...]
    peak_memory: int

    @property
    def caveats(self) -> tuple[str, ...]:
        """What limits the guarantee because of the preparation."""
        return tuple(dict.fromkeys(caveat for step in self.steps for caveat in step.caveats))

    def table(self) -> Table:
        """One row for each step, to print with rich."""
        table = Table(title="Preparation", caption=f"{_NOTE}; peak memory {self.peak_memory / 2**20:,.0f} MiB")
        for heading in ("step", "rows", "cells changed", "learned", "privacy"):
            table.add_column(heading)
        for step in self.steps:
            rows = f"{step.rows_before:,}"
            if step.rows_after != step.rows_before:
                rows += f" -> {step.rows_after:,}"
            privacy = step.private + (" (caveat)" if step.caveats else "")
            table.add_row(step.name, rows, _pairs(step.changed), _pairs(step.learned), privacy)
        return table

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "steps": [step.to_dict() for step in self.steps],
            "caveats": list(self.caveats),
            "peak_memory_bytes": self.peak_memory,
            "note": _NOTE,
        }

    def __str__(self) -> str:
        console = Console(width=_WIDTH, file=io.StringIO(), record=True)
        console.print(self.table())
        return console.export_text()


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_short(value)}" for name, value in values.items()) or "-"


def _short(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
