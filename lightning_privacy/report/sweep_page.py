"""The report of a sweep as a page: the picture of accuracy, fairness and epsilon, and what all of it costs together.

Example:
    >>> from pathlib import Path
    >>> from lightning_privacy.report.sweep_data import sweep_data
    >>> from lightning_privacy.report.sweep_record import SweepRecord
    >>> page = sweep_page(sweep_data(SweepRecord(Path("runs/sweep"))))
    >>> "No run has finished" in page
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lightning_privacy.report._parallel import parallel_chart
from lightning_privacy.report._svg import Point, scatter_chart
from lightning_privacy.report.pages import render_page
from lightning_privacy.report.sweep_data import LABELS

__all__ = ["sweep_page"]

_PAIRS = (("epsilon", "accuracy"), ("epsilon", "worst"), ("accuracy", "worst"))


def sweep_page(data: Mapping[str, Any]) -> str:
    """Draw it.

    Args:
        data: As :func:`~lightning_privacy.report.sweep_data.sweep_data` gives it.

    Returns:
        A page in one file that fetches nothing.
    """
    return render_page(
        "sweep.html.j2",
        title=f"Sweep {data['name']}",
        data=data,
        labels=LABELS,
        charts=_charts(data),
        parallel=_parallel(data),
    )


def _charts(data: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """A picture for each pair of figures; of group and class, the one that was measured."""
    figures = data["figures"]
    worst = "worst_group" if "worst_group" in figures else "worst_class"
    charts = []
    for x, y in _PAIRS:
        x, y = (worst if name == "worst" else name for name in (x, y))
        if x in figures and y in figures:
            title = f"{LABELS[y].capitalize()} against {LABELS[x]}"
            points = _points(data["runs"], x, y)
            if points:
                charts.append((title, scatter_chart(points, title=title, x_label=LABELS[x], y_label=LABELS[y])))
    return charts


def _points(runs: Sequence[Mapping[str, Any]], x: str, y: str) -> list[Point]:
    known = [run for run in runs if run["figures"].get(x) is not None and run["figures"].get(y) is not None]
    # Epsilon is to be low, all else high.
    sign = -1 if x == "epsilon" else 1
    places = [(sign * run["figures"][x], run["figures"][y]) for run in known]
    return [
        Point(
            run["figures"][x],
            run["figures"][y],
            f"run {run['run']}" + "".join(f", {name}={value}" for name, value in run["settings"].items()),
            marked=not any(a >= place[0] and b >= place[1] and (a, b) != place for a, b in places),
        )
        for run, place in zip(known, places, strict=True)
    ]


def _parallel(data: Mapping[str, Any]) -> Markup:
    runs = data["runs"]
    columns: list[tuple[str, list[str | float | None]]] = [
        (name, [run["settings"][name] for run in runs]) for name in data["settings"]
    ]
    columns += [(LABELS[name], [run["figures"].get(name) for run in runs]) for name in data["figures"]]
    return parallel_chart(
        columns,
        labels=[run["run"] for run in runs],
        title="Settings and figures of all runs",
        marked=[run["pareto"] for run in runs],
    )
