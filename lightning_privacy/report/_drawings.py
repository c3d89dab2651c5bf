"""What of a report is drawn: its values as charts and as rows of tables.

Example:
    >>> calibration = [{"low": 0.9, "high": 1.0, "count": 10, "confidence": 0.95, "accuracy": 0.9}]
    >>> str(calibration_chart({"calibration": calibration}))[:14]
    '<svg role="img'
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lightning_privacy.report._png import data_uri
from lightning_privacy.report._scale import number_text
from lightning_privacy.report._svg import Bar, Reference, Series, bar_chart, line_chart

__all__ = [
    "audit_view",
    "calibration_chart",
    "confusion_cells",
    "epsilon_chart",
    "fairness_view",
    "federated_charts",
    "training_charts",
]

_MOST_CLASSES = 30
_MOST_BARS = 30
_VERDICTS = {"holds": ("good", "holds"), "broken": ("bad", "broken"), "measured": ("warn", "measured")}
_FIGURES = ("accuracy", "selection_rate", "tpr", "fpr", "precision", "auroc", "calibration_error")
_HEADINGS = {
    "accuracy": "Accuracy",
    "selection_rate": "Selection rate",
    "tpr": "True positives",
    "fpr": "False positives",
    "precision": "Precision",
    "auroc": "AUROC",
    "calibration_error": "Calibration error",
}
_FEDERATED = {
    "loss": "loss of the clients, mean and spread",
    "cosine": "cosine to the mean update",
    "delta_norm": "norm of the update",
    "clients": "clients of the round",
    "bytes": "bytes sent in the round",
    "seconds": "seconds of the slowest client",
}
_ALL = "(all)"


def epsilon_chart(curves: Sequence[Mapping[str, Any]], budget: float | None) -> Markup | None:
    """Epsilon over the steps, below the budget."""
    if not curves:
        return None
    return line_chart(
        [_series(curve) for curve in curves],
        title="Epsilon over the steps",
        x_label="step",
        y_label="epsilon",
        y_range=(0.0, 0.0),
        references=[] if budget is None else [Reference(f"budget {number_text(budget)}", budget)],
    )


def training_charts(charts: Sequence[Mapping[str, Any]]) -> list[tuple[Markup, str, bool]]:
    """What was logged: drawing, title, and whether something of it was computed on the training data."""
    return [
        (
            line_chart(
                [_series(each) for each in chart["series"]],
                title=f"{chart['title']} while training",
                x_label="step",
                y_label=chart["title"],
            ),
            chart["title"],
            any(each["source"] == "training" for each in chart["series"]),
        )
        for chart in charts
    ]


def calibration_chart(classification: Mapping[str, Any] | None) -> Markup | None:
    """How often the model is right, by how sure it is."""
    bins = [] if classification is None else classification["calibration"]
    if not bins:
        return None
    series = Series("model", [each["confidence"] for each in bins], [each["accuracy"] for each in bins])
    told = "; ".join(
        f"{each['count']:,.0f} examples at {each['confidence']:.0%}: {each['accuracy']:.0%} right" for each in bins
    )
    return line_chart(
        [series, Series("as sure as right", [0.0, 1.0], [0.0, 1.0])],
        title="Calibration",
        x_label="confidence",
        y_label="share that is right",
        description=told,
    )


def confusion_cells(classification: Mapping[str, Any] | None) -> list[list[tuple[int, str]]] | None:
    """Counts of true and predicted class, each with its share of its row; None for none or very many classes."""
    rows = None if classification is None else classification["confusion"]
    if not rows or len(rows) > _MOST_CLASSES:
        return None
    return [[(count, f"{count / max(1, sum(row)):.2f}") for count in row] for row in rows]


def federated_charts(federated: Mapping[str, Any] | None) -> list[tuple[Markup, str]]:
    """A chart for each figure of the rounds; the loss with its best and worst client."""
    if federated is None:
        return []
    by_name = {each["label"]: each for each in federated["series"]}
    found = []
    for name, title in _FEDERATED.items():
        if name not in by_name:
            continue
        each = by_name[name]
        best, worst = by_name.get("loss_best"), by_name.get("loss_worst")
        spread = name == "loss" and best is not None and worst is not None
        if spread and best is not None and worst is not None and best["x"] == worst["x"] == each["x"]:
            series = Series("mean, best and worst client", each["x"], each["y"], low=best["y"], high=worst["y"])
        else:
            series = _series(each)
        found.append((line_chart([series], title=title, x_label="round", y_label=name.replace("_", " ")), title))
    return found


def fairness_view(table: Mapping[str, Any]) -> dict[str, Any]:
    """One attribute as the page shows it."""
    groups = table["groups"]
    bars = [
        Bar(
            group["name"],
            _or_nan(group["figures"].get("accuracy", {}).get("value")),
            group["figures"].get("accuracy", {}).get("low"),
            group["figures"].get("accuracy", {}).get("high"),
            note="few" if group["too_small"] else "",
        )
        for group in groups
    ]
    shown = [name for name in _FIGURES if any(name in group["figures"] for group in groups)]
    rows = [
        [
            group["name"] + (" (too few to judge)" if group["too_small"] else ""),
            _number(group["n"]),
            *(_number(group["figures"].get(name, {}).get("value")) for name in shown),
        ]
        for group in groups
    ]
    note = f"{'Test' if table['stage'] == 'test' else 'Validation'} after {table['step']:,} steps."
    if any(bar.low is not None for bar in bars):
        note += " Lines across the ends are 95% intervals."
    return {
        "attribute": table["attribute"],
        "noisy": table["noisy"],
        "people": "the test set" if table["stage"] == "test" else "the validation set",
        "note": note,
        "drawing": bar_chart(
            bars[:_MOST_BARS], title=f"Accuracy by {table['attribute']}", percent=True, x_label="accuracy"
        ),
        "headings": ["Group", "People", *(_HEADINGS[name] for name in shown)],
        "rows": rows,
        "disparities": [
            [name.replace("_", " "), _number(value["value"]), _ends(value)]
            for name, value in table["disparities"].items()
        ],
        "left_out": table["left_out"],
    }


def audit_view(audit: Mapping[str, Any]) -> dict[str, Any]:
    """One audit as the page shows it: curves with the same axes share a chart."""
    look, verdict = _VERDICTS[audit["verdict"]]
    charts: dict[tuple[str, str, bool], list[Mapping[str, Any]]] = {}
    for curve in audit["curves"]:
        charts.setdefault((curve["x_label"], curve["y_label"], curve["log"]), []).append(curve)
    return {
        **audit,
        "look": look,
        "verdict_text": verdict,
        "drawings": [
            (
                line_chart(
                    [Series(curve["label"], curve["x"], curve["y"]) for curve in curves],
                    title=f"{audit['title']}: {y_label or 'curve'}",
                    x_label=x_label,
                    y_label=y_label,
                    log_x=log,
                    log_y=log,
                ),
                f"{y_label} by {x_label}" if x_label and y_label else curves[0]["label"],
            )
            for (x_label, y_label, log), curves in charts.items()
        ],
        "pictures": [(data_uri(image["rows"]), image["label"]) for image in audit["images"]],
    }


def _series(values: Mapping[str, Any]) -> Series:
    return Series(values["label"], values["x"], values["y"])


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _number(value: float | None) -> str:
    return "-" if value is None else number_text(value)


def _ends(value: Mapping[str, float | None]) -> str:
    low, high = value["low"], value["high"]
    return "-" if low is None or high is None else f"{number_text(low)} to {number_text(high)}"
