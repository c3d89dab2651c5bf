"""The fairness tables that a run left as CSV: of each kind the last, the test's where there is one.

Example:
    >>> wilson(45, 50)[0] < 0.9 < wilson(45, 50)[1]
    True
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lightning_privacy.report._run_tree import walk_run

__all__ = ["FairnessRecord", "Figure", "fairness_files", "read_fairness", "wilson"]

_NAME = re.compile(r"(?P<stage>test|val)-step=(?P<step>\d+)(?:-v(?P<again>\d+))?\.csv")
_COLUMNS = {"attribute", "group", "figure", "class", "value", "low", "high"}
_ALL = "(all)"
_Z = 1.959963984540054  # of a 95% interval
_SKIPPED = ("checkpoints", "store", "deploy", "tensorboard", "privacy_ledger")


@dataclass(frozen=True)
class Figure:
    """A value and its interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class FairnessRecord:
    """The table of one attribute.

    Attributes:
        name: What its callback is called.
        stage: ``"test"`` or ``"val"``.
        step: After how many.
        attribute: Its name.
        groups: Figures of each group by name, ``"(all)"`` among them.
        disparities: Between groups.
        too_small: Groups that are too small to be judged.
    """

    name: str
    stage: str
    step: int
    attribute: str
    groups: Mapping[str, Mapping[str, Figure]]
    disparities: Mapping[str, Figure]
    too_small: frozenset[str] = field(default_factory=frozenset)


def wilson(right: float, total: float) -> tuple[float, float]:
    """The 95% interval of a share (Wilson, "Probable inference", 1927).

    Args:
        right: How many of them.
        total: Above 0.
    """
    share, z2 = right / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z * math.sqrt(max(0.0, share * (1 - share) / total + z2 / (4 * total * total))) / (1 + z2 / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def read_fairness(folder: Path, missing: list[str]) -> tuple[FairnessRecord, ...]:
    """Find and read the tables.

    Args:
        folder: Of the run.
        missing: What can't be read is added to it.
    """
    last: dict[Path, tuple[tuple[bool, int, int], Path, str, int]] = {}
    for path in fairness_files(folder):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        rank = (match["stage"] == "test", int(match["step"]), int(match["again"] or 0))
        if path.parent not in last or rank > last[path.parent][0]:
            last[path.parent] = (rank, path, match["stage"], int(match["step"]))
    found: list[FairnessRecord] = []
    for _, path, stage, step in sorted(last.values(), key=lambda each: each[1]):
        try:
            with path.open(encoding="utf-8", newline="") as file:
                found += _tables(csv.DictReader(file), name=path.parent.name, stage=stage, step=step)
        except (OSError, ValueError, csv.Error) as error:
            missing.append(f"{path.name} can't be read ({str(error)[:200]}): the report does not say who fares how.")
    return tuple(found)


def fairness_files(folder: Path) -> list[Path]:
    """The tables of a run, of all its validations and tests.

    Args:
        folder: Of the run.
    """
    found: list[Path] = []
    for here, folders, files in walk_run(folder, links=True):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        found += [here / name for name in files if here != folder and _NAME.fullmatch(name)]
    return sorted(found)


def _tables(reader: csv.DictReader[str], *, name: str, stage: str, step: int) -> list[FairnessRecord]:
    if not set(reader.fieldnames or ()) >= _COLUMNS:
        raise ValueError(f"its columns are {reader.fieldnames}, and {', '.join(sorted(_COLUMNS))} are needed")
    groups: dict[str, dict[str, dict[str, Figure]]] = {}
    disparities: dict[str, dict[str, Figure]] = {}
    small: dict[str, set[str]] = {}
    for row in reader:
        if None in row.values() or row["class"]:  # a line that was cut off; rates of single classes of many
            continue
        attribute, group = row["attribute"], row["group"]
        figure = Figure(*(_number(row[column]) for column in ("value", "low", "high")))
        if group:
            groups.setdefault(attribute, {}).setdefault(group, {})[row["figure"]] = figure
            if row.get("too_small") == "1":
                small.setdefault(attribute, set()).add(group)
        else:
            disparities.setdefault(attribute, {})[row["figure"]] = figure
    return [
        FairnessRecord(
            name=name,
            stage=stage,
            step=step,
            attribute=attribute,
            groups=found,
            disparities=disparities.get(attribute, {}),
            too_small=frozenset(small.get(attribute, ())),
        )
        for attribute, found in groups.items()
    ]


def _number(text: str) -> float | None:
    """A number, or None for an empty field.

    Raises:
        ValueError: It is neither.
    """
    value = float(text) if text.strip() else math.nan
    return value if math.isfinite(value) else None
