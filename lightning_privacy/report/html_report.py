"""The report of a run as a page: the values of :func:`~lightning_privacy.report.report_data.report_data`, drawn.

Example:
    >>> from pathlib import Path
    >>> from lightning_privacy.report.report_data import report_data
    >>> from lightning_privacy.report.run_record import RunRecord
    >>> page = html_report(report_data(RunRecord(Path("runs/<one>"))))
    >>> "&lt;one&gt;" in page, "<one>" in page
    (True, False)
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lightning_privacy.report._drawings import (
    audit_view,
    calibration_chart,
    confusion_cells,
    epsilon_chart,
    fairness_view,
    federated_charts,
    training_charts,
)
from lightning_privacy.report._scale import number_text
from lightning_privacy.report.pages import render_page
from lightning_privacy.report.sentences import epsilon_text

__all__ = ["html_report"]

_BANNERS = {
    "private": ("good", "Trained with differential privacy"),
    "data": ("warn", "Trained without differential privacy, on data that were prepared with it"),
    "none": ("warn", "Trained without differential privacy"),
    "empty": ("warn", "Nothing was released"),
    "unknown": ("bad", "Not known to be private"),
    "not private": ("bad", "NOT PRIVATE"),
    "broken": ("bad", "NOT PRIVATE: an audit contradicts the guarantee"),
}


def html_report(data: Mapping[str, Any]) -> str:
    """The page.

    Args:
        data: As :func:`~lightning_privacy.report.report_data.report_data` gives it.

    Returns:
        One file of HTML, without scripts, that fetches nothing.
    """
    results, guarantee = data["results"], data["guarantee"]
    environment = data["environment"]
    drawings = {
        "epsilon": epsilon_chart(data["epsilon_curves"], guarantee["budget"]),
        "training": training_charts(data["charts"]),
        "calibration": calibration_chart(data["classification"]),
        "confusion": confusion_cells(data["classification"]),
        "federated": federated_charts(data["federated"]),
    }
    headings, rows = ([], []) if results is None else _results(results)
    return render_page(
        "report.html.j2",
        title=f"Report of {data['run']['name']}",
        data=data,
        banner=_banner(data),
        figures=_figures(data),
        sections=_sections(data, drawings),
        drawings=drawings,
        audits=[audit_view(audit) for audit in data["audits"]],
        fairness=[fairness_view(table) for table in data["fairness"]],
        result_headings=headings,
        result_rows=rows,
        class_rows=[[each["name"], _number(each["rate"]), _epsilon(each["epsilon"])] for each in guarantee["classes"]],
        count_rows=_counts(data["preparation"]),
        preparation_rows=[] if data["preparation"] is None else _preparation(data["preparation"]),
        environment_rows=[] if environment is None else _environment(environment),
        command="" if environment is None else shlex.join(environment["command"]),
    )


def _banner(data: Mapping[str, Any]) -> dict[str, str]:
    guarantee = data["guarantee"]
    look, headline = _BANNERS[guarantee["status"]]
    words = guarantee["plain"][0]
    if guarantee["status"] == "private":
        words = (
            f"Epsilon {epsilon_text(guarantee['epsilon'])} at delta {guarantee['delta']:g} for each "
            f"{guarantee['unit']}. This is about the weights; what else it covers, and what it does not, is said below."
        )
    broken = [audit["sentence"] for audit in data["audits"] if audit["verdict"] == "broken"]
    return {"look": "bad" if broken else look, "headline": headline, "text": " ".join([*broken, words])}


def _figures(data: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """The few figures that everybody looks for."""
    guarantee, results = data["guarantee"], data["results"]
    found: list[tuple[str, str, str | None]] = []
    if guarantee["status"] in ("private", "data", "broken"):
        promised = "promised, and contradicted" if guarantee["status"] == "broken" else f"for each {guarantee['unit']}"
        found.append(("Epsilon", epsilon_text(guarantee["epsilon"]), f"{promised}, at delta {guarantee['delta']:g}"))
    elif guarantee["status"] == "not private":
        found.append(("Epsilon", "none", "nothing bounds what is told"))
    if results is not None and "acc" in results["test"]:
        twin = results["without_privacy"]
        beside = None if twin is None or "acc" not in twin["test"] else f"{twin['test']['acc']:.1%} without privacy"
        found.append(("Test accuracy", f"{results['test']['acc']:.1%}", beside))
    worst = _worst_group(data["fairness"])
    if worst is not None:
        found.append(("Worst group", f"{worst[0]:.1%}", f"accuracy of {worst[1]}"))
    broken = sum(audit["verdict"] == "broken" for audit in data["audits"])
    if data["audits"]:
        found.append(("Audits", str(len(data["audits"])), f"{broken} broken" if broken else "none broken"))
    return found


def _worst_group(tables: list[Mapping[str, Any]]) -> tuple[float, str] | None:
    """The lowest accuracy of a group that is large enough to be judged, and whose it is."""
    found = [
        (group["figures"]["accuracy"]["value"], f"{table['attribute']} {group['name']}")
        for table in tables
        for group in table["groups"]
        if group["name"] != "(all)" and not group["too_small"] and group["figures"].get("accuracy", {}).get("value")
    ]
    return min(found, default=None)


def _sections(data: Mapping[str, Any], drawings: Mapping[str, Any]) -> list[tuple[str, str]]:
    guarantee = data["guarantee"]
    known = (
        ("missing", "What is missing", data["missing"]),
        ("guarantee", "Guarantee", True),
        ("caveats", "Caveats", guarantee["caveats"]),
        ("ledger", "Ledger", guarantee["releases"] or drawings["epsilon"]),
        ("audits", "Audits", True),
        ("results", "Accuracy", data["results"]),
        ("fairness", "Groups", data["fairness"]),
        ("federated", "Clients", drawings["federated"]),
        ("preparation", "Data", data["preparation"]),
        ("reproduce", "Environment", True),
    )
    return [(name, title) for name, title, there in known if there]


def _results(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    twin = results["without_privacy"]
    headings = ["Figure", "Test", "Training (no noise)"]
    if twin is not None:
        headings += ["Test, without privacy", "Training, without privacy"]
    columns = [results["test"], results["train"], *([] if twin is None else [twin["test"], twin["train"]])]
    names = [name for name in dict.fromkeys([*results["test"], *results["train"]]) if "/" not in name]
    rows = [[_metric(name)] + [_shown(name, column.get(name)) for column in columns] for name in names]
    blank = [""] * (len(columns) - 1)
    if results["steps"] is not None:
        rows.append(["steps", f"{results['steps']:,}", *blank])
    if results["seconds"] is not None:
        rows.append(["seconds of training", f"{results['seconds']:.1f}", *blank])
    return headings, rows


def _metric(name: str) -> str:
    return "accuracy" if name == "acc" else name


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if name == "acc" else number_text(value)


def _preparation(preparation: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            step["name"],
            _number(step["rows_before"]),
            _number(step["rows_after"]),
            ", ".join(f"{name}: {_number(count)}" for name, count in step["changed"].items()) or "-",
            step["private"] + (" (caveat)" if step["caveats"] else ""),
        ]
        for step in preparation["steps"]
    ]


def _counts(preparation: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    counts = {} if preparation is None else preparation["counts"]
    return [(name, _number(count)) for name, count in counts.items() if count is not None]


def _environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("Started", environment["started"]),
        ("Python", environment["python"]),
        ("System", environment["system"]),
        ("Processor", environment["cpu"]),
        ("Cores", None if environment["cores"] is None else str(environment["cores"])),
        ("GPUs", ", ".join(environment["gpus"]) or None),
        ("lightning_privacy", environment["lightning_privacy"]),
        *environment["packages"].items(),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _number(value: float | None) -> str:
    return "-" if value is None else number_text(value)


def _epsilon(value: float | None) -> str:
    return "infinite" if value is None else epsilon_text(value)
