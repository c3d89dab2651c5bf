"""The guarantee of a run as plain values, held against its releases: a figure that is too low is not passed on.

Example:
    >>> from pathlib import Path
    >>> from lightning_privacy.report.run_record import RunRecord
    >>> guarantee_data(RunRecord(Path("run")), [])["status"]
    'unknown'
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import LightningPrivacyError
from lightning_privacy.report._values import mapping, mappings, number, text, texts, whole
from lightning_privacy.report.ledger_file import ledger_of, ledger_values
from lightning_privacy.report.run_journals import charge_journals
from lightning_privacy.report.run_record import RunRecord
from lightning_privacy.report.sentences import Promise, contradicts, pitfall_of, several_records, voids

__all__ = ["contradicted", "guarantee_data", "unconfirmed"]

# Figures that are worked out twice, maybe by another version of what is used for it, differ by less.
_TOLERANCE = 1e-3
_OF_DATA = ("laplace", "pure", "selection", "randomized_response")
_CLAIMS = ("private", "data", "empty")
_PLAIN = {
    "none": ["This model was trained without differential privacy: nothing limits what it tells of its training data."],
    "not private": [
        (
            "There is no privacy guarantee: something was released without protection, or the noise can be worked out "
            "again. The ledger and the caveats say what."
        )
    ],
    "unknown": [
        (
            "Whether this model is private is not known, because the files that would say it are missing or can't be "
            "read. Take it as not private."
        )
    ],
    "broken": [
        (
            "Do not rely on what was promised: an audit of this very run found more than that allows. Something is "
            "wrong with the training, the accounting or the audit, and until it is found it counts as not private."
        ),
    ],
    "empty": ["Nothing was released when this was written, so that nothing was spent and nothing is protected yet."],
}


def guarantee_data(record: RunRecord, missing: list[str]) -> dict[str, Any]:
    """What was promised.

    Args:
        record: Of the run's folder.
        missing: What can't be held against anything is added to it.

    Returns:
        Values, of which ``status`` is one of ``"private"``, ``"data"`` (only what was released while the data were
        prepared has an epsilon), ``"not private"``, ``"none"`` (trained without privacy), ``"empty"`` (nothing was
        released) and ``"unknown"``.
    """
    values = _ledger_values(record)
    if values is None:
        known = record.summary is not None and record.summary.get("guarantee", ...) is None
        if known and record.summary is not None and record.summary.get("data_releases") is None:
            return _without("none")
        missing.append("Neither ledger.json nor summary.json says what was spent.")
        return _without("unknown")
    ledger = _ledger(record, missing)
    journals = None if ledger is None else _with_journals(ledger, record, missing)
    if ledger is not None and journals:
        # What it cost single classes was worked out for the steps of ledger.json.
        values = {**values, "releases": ledger_values(ledger)["releases"], "classes": []}
    epsilon = _checked(values, record, ledger, missing)
    # What is there to be worked out again is not taken as it stands.
    replace_one = number(values.get("replace_one_epsilon")) if ledger is None else ledger.replace_one_epsilon()
    caveats = texts(values.get("caveats"))
    delta, unit = number(values.get("delta")), text(values.get("unit"))
    disproved = [caveat for caveat in caveats if contradicts(caveat)]
    status = _status(values, epsilon, [caveat for caveat in caveats if caveat not in disproved])
    if status != "not private" and _left_over(values, record):
        missing.append("ledger.json is of a training that summary.json knows no guarantee of: it was not this run.")
        status = "not private"
    if status in _CLAIMS and journals is None:
        status = "unknown"
    if status == "data" and ledger is not None and not ledger.history:
        status = "unknown"  # an epsilon without a release
    found = {
        "status": status,
        "epsilon": epsilon,
        "delta": delta,
        "budget": number(values.get("budget")),
        "unit": unit,
        "adjacency": "zero-out",
        "replace_one_epsilon": number(replace_one),
        "complete": values.get("complete") is not False,
        "releases": [_release(each) for each in mappings(values.get("releases"))],
        "caveats": [{"text": caveat, "pitfall": pitfall_of(caveat), "voids": voids(caveat)} for caveat in caveats],
        "classes": [
            {
                "name": text(each.get("name")) or "",
                "rate": number(each.get("rate")),
                "epsilon": number(each.get("epsilon")),
            }
            for each in mappings(values.get("classes"))
        ],
    }
    if delta is None or unit is None or not 0 < delta < 1:
        found["status"] = "unknown" if found["status"] in _CLAIMS else found["status"]
    found |= _sentences(found, _records_per_person(values, caveats))
    return contradicted(found) if disproved and found["status"] in _CLAIMS else found


def contradicted(guarantee: Mapping[str, Any]) -> dict[str, Any]:
    """A guarantee that an audit found broken.

    Args:
        guarantee: As :func:`guarantee_data` gives it.
    """
    return {
        **guarantee,
        "status": "broken",
        "precise": f"Promised, and contradicted by an audit: {guarantee['precise']}",
        "plain": _PLAIN["broken"],
        "covered": [],
        "not_covered": [],
    }


def unconfirmed(guarantee: Mapping[str, Any]) -> dict[str, Any]:
    """A guarantee of a run whose audit can't be read: it may say that the guarantee does not hold.

    Args:
        guarantee: As :func:`guarantee_data` gives it.
    """
    return {**guarantee, "status": "unknown", **_sentences({"status": "unknown"})}


def _ledger_values(record: RunRecord) -> Mapping[str, Any] | None:
    """Of the ledger's file, or as much of it as an older run's summary has."""
    if record.ledger is not None:
        return record.ledger
    for key, covers in (("guarantee", "training"), ("data_releases", "data")):
        found = mapping(record.summary).get(key)
        if isinstance(found, Mapping):
            epsilon = number(found.get("epsilon"))
            return {**mapping(found), "epsilon": epsilon, "private": epsilon is not None, "covers": covers}
    return None


def _ledger(record: RunRecord, missing: list[str]) -> PrivacyLedger | None:
    """The ledger made again from its file, to work out its figures once more."""
    if record.ledger is None:
        missing.append("Epsilon is taken from summary.json as it stands: its releases are not there to check it.")
        return None
    try:
        return ledger_of(record.ledger)
    except (LightningPrivacyError, TypeError, ValueError) as error:
        missing.append(f"Epsilon could not be checked against the releases in ledger.json: {str(error)[:200]}.")
        return None


def _with_journals(ledger: PrivacyLedger, record: RunRecord, missing: list[str]) -> list[str] | None:
    """Charge what journals in the folder know of and ledger.json does not; which those are, None if one is damaged."""
    if mapping(record.ledger).get("covers") == "data":
        return []
    try:
        names = charge_journals(ledger, record.folder)
    except (LightningPrivacyError, OSError) as error:
        missing.append(f"Epsilon could not be checked against the journals of the run: {str(error)[:200]}.")
        return None
    for name in names:
        missing.append(
            f"{name} knows of more steps than ledger.json, which are counted: the run went on after that was written, "
            "or another one wrote to its folder."
        )
    return names


def _left_over(values: Mapping[str, Any], record: RunRecord) -> bool:
    """Whether there is the ledger of a training beside the summary of one that had none."""
    return (
        record.ledger is not None
        and values.get("covers") != "data"
        and record.summary is not None
        and record.summary.get("guarantee", ...) is None
    )


def _checked(
    values: Mapping[str, Any], record: RunRecord, ledger: PrivacyLedger | None, missing: list[str]
) -> float | None:
    """The epsilon that is stated, or the larger one that its releases or the summary give."""
    stated = number(values.get("epsilon"))
    others: dict[str, float] = {} if ledger is None else {"its releases give": ledger.epsilon(exact=True)}
    summary = mapping(mapping(record.summary).get("guarantee"))
    if record.ledger is not None and "epsilon" in summary:
        claimed = number(summary["epsilon"])
        others["summary.json says"] = math.inf if claimed is None else claimed
    for source, other in others.items():
        if stated is not None and not math.isclose(other, stated, rel_tol=_TOLERANCE):
            missing.append(f"ledger.json says epsilon {stated:.6g}, and {source} {other:.6g}: the larger one is shown.")
            stated = number(max(stated, other))
    return stated


def _status(values: Mapping[str, Any], epsilon: float | None, caveats: list[str]) -> str:
    if epsilon is None or epsilon < 0 or values.get("private") is False or any(map(voids, caveats)):
        return "not private"
    if epsilon == 0 and not mappings(values.get("releases")):
        return "empty"
    return "private" if values.get("covers") != "data" and _trained(values) else "data"


def _trained(values: Mapping[str, Any]) -> bool:
    """Whether there is a step of a training among the releases: statistics and labels alone make no model private."""
    if "releases" not in values:
        return bool(whole(values.get("steps")))
    for release in mappings(values.get("releases")):
        kind = mapping(release.get("parameters")).get("kind")
        # A noisy sum of the preparation is charged without a label.
        if kind not in _OF_DATA and (kind != "gaussian" or release.get("label") is not None):
            return True
    return False


def _release(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": text(values.get("name")) or "",
        "label": text(values.get("label")),
        "count": whole(values.get("count")),
        "parameters": {
            key: found
            for key, value in mapping(values.get("parameters")).items()
            if (found := text(value) if isinstance(value, str) else number(value)) is not None
        },
        "epsilon_alone": number(values.get("epsilon_alone")),
        "share": number(values.get("share")),
    }


def _records_per_person(values: Mapping[str, Any], caveats: list[str]) -> int | None:
    """Records of a person, in all that was released; None where that is not known, or a caveat says otherwise."""
    return None if any(map(several_records, caveats)) else whole(values.get("records_per_person"))


def _sentences(found: Mapping[str, Any], records_per_person: int | None = None) -> dict[str, Any]:
    if found["status"] not in ("private", "data"):
        return {"precise": None, "plain": _PLAIN[found["status"]], "covered": [], "not_covered": []}
    promise = Promise(
        epsilon=found["epsilon"],
        delta=found["delta"],
        unit=found["unit"],
        replace_one_epsilon=found["replace_one_epsilon"],
        covers="data" if found["status"] == "data" else "training",
        records_per_person=records_per_person,
    )
    return {
        "precise": promise.precise(),
        "plain": promise.plain(),
        "covered": promise.covered(),
        "not_covered": promise.not_covered(),
    }


def _without(status: str) -> dict[str, Any]:
    return {
        "status": status,
        "epsilon": None,
        "delta": None,
        "budget": None,
        "unit": None,
        "adjacency": None,
        "replace_one_epsilon": None,
        "complete": True,
        "releases": [],
        "caveats": [],
        "classes": [],
        "precise": None,
        "plain": _PLAIN[status],
        "covered": [],
        "not_covered": [],
    }
