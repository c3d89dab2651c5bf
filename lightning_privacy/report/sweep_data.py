"""The report of a sweep as plain values: what the page, the table of the terminal and ``sweep.json`` are made from.

Example:
    >>> from pathlib import Path
    >>> from lightning_privacy.report.sweep_record import SweepEntry
    >>> runs = [
    ...     SweepEntry(str(number), "finished", overrides=(f"lr={rate}",), figures={"epsilon": cost, "accuracy": right})
    ...     for number, (rate, cost, right) in enumerate([(0.1, 1.0, 0.8), (0.2, 1.0, 0.7), (0.1, 3.0, 0.9)])
    ... ]
    >>> data = sweep_data(SweepRecord(Path("runs/sweep"), tuple(runs)))
    >>> [run["pareto"] for run in data["runs"]], data["settings"]
    ([True, False, True], ['lr'])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_privacy.report._version import package_version
from lightning_privacy.report.hidden import hidden_argument
from lightning_privacy.report.sweep_privacy import SweepPrivacy, selection_privacy, sweep_privacy
from lightning_privacy.report.sweep_record import SweepEntry, SweepRecord
from lightning_privacy.sweeps.random_runs import BEST, Selection

__all__ = ["LABELS", "VERSION", "sweep_data"]

VERSION = 1
LABELS = {
    "epsilon": "epsilon",
    "accuracy": "accuracy",
    "worst_group": "accuracy of the worst group",
    "worst_class": "worst class",
}
# Two figures of a calibration to the same epsilon differ by less.
_SAME = 5e-3


def sweep_data(record: SweepRecord, *, delta: float | None = None) -> dict[str, Any]:
    """Everything the report says, as values that JSON has; an infinite epsilon is ``None`` beside ``private: false``.

    Args:
        record: Of the sweep's folder.
        delta: At which the sweep's epsilon is wanted; the smallest of the runs' by default.

    Raises:
        ConfigurationError: ``delta`` is outside (0, 1).
        CheckpointError: The folder is of a search for the best of random runs, and what it left is damaged.
    """
    selection = Selection.read(record.folder)
    if selection is None:
        cost = sweep_privacy(record.entries, missing=record.missing, delta=delta, adaptive=record.adaptive)
    else:
        others = [entry for entry in record.entries if entry.run != BEST]
        cost = selection_privacy(selection, others)
    # 10 after 9, whenever each was done.
    finished = sorted(map(_cleaned, record.finished), key=lambda entry: (len(entry.run), entry.run))
    front = _front(finished)
    settings = _varying(finished)
    return {
        "version": VERSION,
        "made_by": package_version(),
        "name": record.folder.resolve().name,
        "privacy": _privacy(cost),
        "settings": settings,
        "figures": [name for name in LABELS if any(name in entry.figures for entry in finished)],
        "runs": [_run(entry, settings, pareto=entry in front) for entry in finished],
        "lost": [
            {"run": entry.run, "status": entry.status, "why": entry.why, "cost_known": not entry.unknown}
            for entry in record.entries
            if entry.status != "finished"
        ],
        "budgets": _budgets(finished),
    }


def _cleaned(entry: SweepEntry) -> SweepEntry:
    """A run without the figures that are none; an infinite epsilon is one."""
    figures = {
        name: value
        for name, value in entry.figures.items()
        if math.isfinite(value) or (name == "epsilon" and value == math.inf)
    }
    return replace(entry, figures=figures)


def _privacy(cost: SweepPrivacy) -> dict[str, Any]:
    return {
        "known": cost.known,
        "private": math.isfinite(cost.epsilon),
        "epsilon": cost.epsilon if math.isfinite(cost.epsilon) else None,
        "figure": cost.figure,
        "delta": cost.delta,
        "unit": cost.unit,
        "private_runs_epsilon": cost.private_epsilon,
        "rule": cost.rule,
        "sentences": list(cost.sentences),
    }


def _run(entry: SweepEntry, settings: Sequence[str], *, pareto: bool) -> dict[str, Any]:
    given = _given(entry)
    return {
        "run": entry.run,
        "private": entry.private,
        "settings": {name: given.get(name, "-") for name in settings},
        "figures": {name: value if math.isfinite(value) else None for name, value in entry.figures.items()},
        "pareto": pareto,
    }


def _given(entry: SweepEntry) -> dict[str, str]:
    given = map(hidden_argument, entry.overrides)
    pairs = (override.lstrip("+").partition("=") for override in given if "=" in override)
    return {name: value for name, _, value in pairs}


def _varying(entries: Sequence[SweepEntry]) -> list[str]:
    """Settings that the runs don't have in common."""
    given = [_given(entry) for entry in entries]
    names = dict.fromkeys(name for each in given for name in each)
    return [name for name in names if len({each.get(name) for each in given}) > 1]


def _gains(entry: SweepEntry) -> tuple[float, ...]:
    """Figures that are to be high."""
    figures = entry.figures
    worst = figures.get("worst_group", figures.get("worst_class", -math.inf))
    return (-figures.get("epsilon", math.inf), figures.get("accuracy", -math.inf), worst)


def _front(entries: Sequence[SweepEntry]) -> list[SweepEntry]:
    """Those that no other beats in one figure without being beaten in another."""

    def beaten(entry: SweepEntry) -> bool:
        own = _gains(entry)
        return any(
            all(a >= b for a, b in zip(other, own, strict=True)) and other != own for other in map(_gains, entries)
        )

    return [entry for entry in entries if "accuracy" in entry.figures and not beaten(entry)]


def _budgets(entries: Sequence[SweepEntry]) -> list[dict[str, Any]]:
    """The best run within each epsilon that runs have, by accuracy and by the worst group."""
    private = [entry for entry in entries if math.isfinite(entry.figures.get("epsilon", math.inf))]
    steps: list[float] = []
    for epsilon in sorted(entry.figures["epsilon"] for entry in private):
        if steps and epsilon <= steps[-1] * (1 + _SAME):
            steps[-1] = epsilon
        else:
            steps.append(epsilon)
    rows = []
    for budget in steps:
        within = [entry for entry in private if entry.figures["epsilon"] <= budget]
        row: dict[str, Any] = {"epsilon": budget}
        for name in LABELS:
            rated = [entry for entry in within if name in entry.figures and name != "epsilon"]
            if rated:
                best = max(rated, key=lambda entry: entry.figures[name])
                row[name] = {"run": best.run, "value": best.figures[name]}
        rows.append(row)
    return rows
