"""The report of a run as plain values: what the page, the model card and ``report.json`` are made from.

Example:
    >>> from pathlib import Path
    >>> from lightning_privacy.report.run_record import RunRecord
    >>> data = report_data(RunRecord(Path("runs/one"), summary={"outcome": {"steps": 3}, "guarantee": None}))
    >>> data["guarantee"]["status"], data["results"]["steps"]
    ('none', 3)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.report._curves import charts_of, epsilon_curves, federated_spread
from lightning_privacy.report._fairness_record import FairnessRecord, Figure, wilson
from lightning_privacy.report._guarantee_data import contradicted, guarantee_data, unconfirmed
from lightning_privacy.report._scale import thinned
from lightning_privacy.report._values import cleaned, mapping, mappings, number, sequence, text, texts, whole
from lightning_privacy.report._version import package_version
from lightning_privacy.report.hidden import (
    environment_texts,
    hidden_argument,
    hidden_config,
    hidden_texts,
    without_home,
)
from lightning_privacy.report.run_record import RunRecord

__all__ = ["VERSION", "report_data"]

VERSION = 1
_MOST_POINTS = 300
_MOST_CURVES = 12
_MOST_IMAGES = 24
_MOST_PIXELS = 40_000  # of one picture
_MOST_GROUPS = 60
_LONGEST_CONFIG = 100_000


def report_data(record: RunRecord) -> dict[str, Any]:
    """Everything the report says, as values that JSON has.

    Args:
        record: Of the run's folder.
    """
    missing = list(record.missing)
    guarantee = guarantee_data(record, missing)
    audits = [_audit(name, audit) for name, audit in record.audits.items()]
    if any(audit["verdict"] == "broken" for audit in audits) and guarantee["status"] == "private":
        guarantee = contradicted(guarantee)
    elif record.unread_audits and guarantee["status"] == "private":
        guarantee = unconfirmed(guarantee)
    environment = mapping(record.environment)
    written_by = text(environment.get("lightning_privacy"))
    if written_by is not None and written_by != package_version():
        missing.append(
            f"The run was made by lightning_privacy {written_by}, and this report by {package_version()}: what the "
            "older one did not write is missing here."
        )
    found = {
        "version": VERSION,
        "made_by": package_version(),
        "run": {
            "name": text(record.folder.resolve().name) or "run",
            "data": _target(record.settings, "data"),
            "model": _target(record.settings, "model", "backbone") or _target(record.settings, "model"),
            "trained_on": text(environment.get("started")),
        },
        "guarantee": guarantee,
        "epsilon_curves": epsilon_curves(record.metrics),
        "results": _results(record.summary),
        "charts": charts_of(record.metrics),
        "fairness": [_fairness(each, noisy=_noisy_fairness(record)) for each in record.fairness],
        "audits": audits,
        "classification": _classification(record.classification),
        "federated": federated_spread(record.metrics),
        "preparation": _preparation(record.preparation),
        "environment": _environment(environment),
        "config": None if record.config is None else _shown_config(record.config),
        "artefacts": {
            name: without_home(path)
            for name, value in mapping(mapping(record.summary).get("artefacts")).items()
            if (path := text(value)) is not None
        },
        "missing": missing,
    }
    command = texts(environment.get("command"))
    values: dict[str, Any] = cleaned(hidden_texts(found, environment_texts("\n".join([record.config or "", *command]))))
    return values


def _target(settings: Mapping[str, Any], *keys: str) -> str | None:
    found: Any = settings
    for key in keys:
        found = mapping(found).get(key)
    target = text(mapping(found).get("_target_"))
    return None if target is None else target.rpartition(".")[2]


def _results(summary: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    outcome = mapping(summary.get("outcome"))
    twin = summary.get("without_privacy")
    return {
        "steps": whole(outcome.get("steps")),
        "seconds": number(outcome.get("seconds")),
        "test": _numbers(outcome.get("test")),
        "train": _numbers(outcome.get("train")),
        "without_privacy": (
            {"test": _numbers(mapping(twin).get("test")), "train": _numbers(mapping(twin).get("train"))}
            if isinstance(twin, Mapping)
            else None
        ),
    }


def _numbers(values: object) -> dict[str, float]:
    return {text(name) or "": found for name, value in mapping(values).items() if (found := number(value)) is not None}


def _noisy_fairness(record: RunRecord) -> bool:
    callbacks = mapping(record.settings.get("callbacks")).values()
    return any(number(mapping(each).get("private_epsilon")) is not None for each in callbacks)


def _fairness(record: FairnessRecord, *, noisy: bool) -> dict[str, Any]:
    """One attribute; accuracies without an interval get Wilson's, where counts are exact."""
    groups = []
    for name, figures in list(record.groups.items())[:_MOST_GROUPS]:
        size = figures.get("n", Figure(None)).value
        shown = {figure: _interval(value) for figure, value in figures.items() if figure != "n"}
        accuracy = figures.get("accuracy", Figure(None))
        exact = accuracy.value is not None and accuracy.low is None and not noisy
        if exact and accuracy.value is not None and size is not None and size >= 1 and 0 <= accuracy.value <= 1:
            low, high = wilson(accuracy.value * size, size)
            shown["accuracy"] = {"value": accuracy.value, "low": low, "high": high}
        groups.append({"name": text(name) or "", "n": size, "too_small": name in record.too_small, "figures": shown})
    return {
        "callback": text(record.name) or "",
        "attribute": text(record.attribute) or "",
        "stage": record.stage,
        "step": record.step,
        "noisy": noisy,
        "groups": groups,
        "left_out": max(0, len(record.groups) - _MOST_GROUPS),
        "disparities": {text(name) or "": _interval(value) for name, value in record.disparities.items()},
    }


def _interval(figure: Figure) -> dict[str, float | None]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def _audit(name: str, audit: AuditResult) -> dict[str, Any]:
    curves = []
    for curve in audit.curves[:_MOST_CURVES]:
        kept = thinned(list(zip(curve.x, curve.y, strict=True)), _MOST_POINTS)
        curves.append(
            {
                "label": text(str(curve.label)) or "",
                "x": [x for x, _ in kept],
                "y": [y for _, y in kept],
                "x_label": text(str(curve.x_label)) or "",
                "y_label": text(str(curve.y_label)) or "",
                "log": bool(curve.log),
            }
        )
    images = [image for image in audit.images if 0 < sum(map(len, image.rows)) <= _MOST_PIXELS]
    return {
        "file": name,
        "kind": audit.kind,
        "title": text(audit.title) or "",
        "verdict": audit.verdict,
        "sentence": text(audit.sentence) or "",
        "rows": [[text(row) or "", text(value) or ""] for row, value in audit.rows],
        "curves": curves,
        "images": [
            {"label": text(str(image.label)) or "", "rows": [[round(v, 3) for v in row] for row in image.rows]}
            for image in images[:_MOST_IMAGES]
        ],
        "left_out": max(0, len(audit.curves) - _MOST_CURVES) + len(audit.images) - len(images[:_MOST_IMAGES]),
    }


def _classification(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    rows = [[whole(cell) for cell in sequence(row)] for row in sequence(values.get("confusion"))]
    square = bool(rows) and all(len(row) == len(rows) and None not in row for row in rows)
    bins = [
        {key: number(each.get(key)) for key in ("low", "high", "confidence", "accuracy", "count")}
        for each in mappings(values.get("calibration"))
    ]
    return {
        "reason": text(values.get("reason")),
        "examples": whole(values.get("examples")),
        "classes": whole(values.get("classes")),
        "confusion": rows if square else None,
        "calibration": [each for each in bins if None not in each.values()],
    }


def _preparation(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    return {
        "steps": [
            {
                "name": text(step.get("name")) or "",
                "private": text(step.get("private")) or "",
                "rows_before": whole(step.get("rows_before")),
                "rows_after": whole(step.get("rows_after")),
                "changed": {text(name) or "": whole(count) for name, count in mapping(step.get("changed")).items()},
                "caveats": texts(step.get("caveats")),
            }
            for step in mappings(values.get("steps"))
        ],
        "counts": {text(name) or "": whole(count) for name, count in mapping(values.get("counts")).items()},
        "note": text(values.get("note")),
    }


def _environment(values: Mapping[str, Any]) -> dict[str, Any] | None:
    if not values:
        return None
    return {
        "command": list(map(hidden_argument, texts(values.get("command")))),
        "python": text(values.get("python")),
        "system": text(values.get("system")),
        "lightning_privacy": text(values.get("lightning_privacy")),
        "packages": {
            text(name) or "": found
            for name, value in mapping(values.get("packages")).items()
            if (found := text(value)) is not None
        },
        "cpu": text(values.get("cpu")),
        "cores": whole(values.get("cores")),
        "gpus": texts(values.get("gpus")),
        "started": text(values.get("started")),
    }


def _shown_config(config: str) -> str:
    """The config without the home folder and without the values of secrets."""
    return without_home(text(hidden_config(config), most=_LONGEST_CONFIG) or "").removesuffix("\n")
