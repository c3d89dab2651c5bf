"""The curves of a run: what was logged, sorted into charts, with what each figure was computed on.

Example:
    >>> charts = charts_of({"train/loss": ((0, 2.0), (9, 1.0)), "val/loss": ((9, 1.5),), "test/acc": ((9, 0.9),)})
    >>> [(chart["title"], [series["source"] for series in chart["series"]]) for chart in charts]
    [('loss', ['training', 'held out'])]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_privacy.report._scale import thinned
from lightning_privacy.report._values import text

__all__ = ["charts_of", "epsilon_curves", "federated_spread", "series_of"]

_MOST_POINTS = 300
_MOST_CHARTS = 12
_MOST_SERIES = 6
_SOURCES = {"train": "training", "val": "held out", "valid": "held out", "validation": "held out"}
_ELSEWHERE = ("epoch", "step")  # columns that are no figures
_Pairs = Sequence[tuple[float, float]]


def series_of(label: str, pairs: _Pairs, source: str) -> dict[str, Any]:
    """One line, of few enough points.

    Args:
        label: What it is called.
        pairs: Of step and value.
        source: What it was computed on: ``"training"``, ``"held out"``, ``"ledger"`` or ``"run"``.
    """
    kept = thinned(list(pairs), _MOST_POINTS)
    return {"label": label, "x": [x for x, _ in kept], "y": [y for _, y in kept], "source": source}


def epsilon_curves(metrics: Mapping[str, _Pairs]) -> list[dict[str, Any]]:
    """Epsilon over the steps."""
    return [
        series_of(text(name) or "", pairs, "ledger")
        for name, pairs in metrics.items()
        if name.rpartition("/")[2] == "epsilon"
    ][:_MOST_SERIES]


def charts_of(metrics: Mapping[str, _Pairs]) -> list[dict[str, Any]]:
    """Charts of what was logged while training: figures of one name on all parts of the data share one.

    Args:
        metrics: By name, as pairs of step and value.
    """
    charts: dict[str, list[dict[str, Any]]] = {}
    for name, pairs in metrics.items():
        stage, slash, rest = name.partition("/")
        if name in _ELSEWHERE or stage in ("test", "federated", "fairness") or name.rpartition("/")[2] == "epsilon":
            continue
        source = _SOURCES.get(stage if slash else name.partition("_")[0])
        # What is logged under another name may be of the training data as well: it is taken to be.
        title = rest if slash and stage in _SOURCES else name
        source = source or ("run" if name.startswith("lr") else "training")
        charts.setdefault(text(title) or "", []).append(series_of(text(name) or "", pairs, source))
    # Loss and accuracy first, then by name.
    order = sorted(charts, key=lambda title: (title != "loss", title not in ("acc", "accuracy"), title))
    return [{"title": title, "series": charts[title][:_MOST_SERIES]} for title in order[:_MOST_CHARTS]]


def federated_spread(metrics: Mapping[str, _Pairs]) -> dict[str, Any] | None:
    """Figures of the rounds and their spread over clients; None for a run without clients."""
    found = {name.removeprefix("federated/"): pairs for name, pairs in metrics.items() if name.startswith("federated/")}
    if not found:
        return None
    return {
        "rounds": len(next(iter(found.values()))),
        "series": [series_of(text(name) or "", pairs, "training") for name, pairs in found.items()],
    }
