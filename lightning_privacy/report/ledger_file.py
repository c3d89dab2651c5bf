"""The ledger of a run as a file: every release with what it costs, from which the ledger can be made again.

Example:
    >>> import tempfile
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> ledger = PrivacyLedger(delta=1e-5, budget=3.0)
    >>> ledger.charge(SampledGaussian(noise_multiplier=2.0, sample_rate=0.1), count=10, label="training")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_ledger(Path(folder), ledger)
    ...     read_ledger(path).epsilon(exact=True) == ledger.epsilon(exact=True)
    True
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_privacy._text_file import write_text
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.ledger_state import SCHEMA
from lightning_privacy.accounting.ledger_table import LedgerTable
from lightning_privacy.callbacks._balance_cost import CellCost
from lightning_privacy.errors import CheckpointError

__all__ = ["LEDGER_FILE", "ledger_of", "ledger_values", "read_ledger", "write_ledger"]

LEDGER_FILE = "ledger.json"
VERSION = 1


def ledger_values(
    ledger: PrivacyLedger,
    *,
    classes: Sequence[CellCost] = (),
    covers: str = "training",
    complete: bool = True,
    records_per_person: int | None = None,
) -> dict[str, Any]:
    """A ledger as plain values that JSON has; an infinite epsilon is ``None`` beside ``"private": False``.

    Args:
        ledger: The ledger.
        classes: What the run costs the examples of single classes.
        covers: ``"training"``, or ``"data"`` where only the preparation of the data was charged.
        complete: Whether the run came to its end.
        records_per_person: The most records of a person in all that was charged; None where nobody knows.
    """
    table = LedgerTable(
        history=ledger.history, delta=ledger.delta, budget=ledger.budget, unit=ledger.unit, caveats=ledger.caveats
    )
    private = math.isfinite(table.epsilon)
    return {
        "version": VERSION,
        "covers": covers,
        "complete": complete,
        "private": private,
        "epsilon": _finite(table.epsilon),
        "delta": ledger.delta,
        "budget": ledger.budget,
        "unit": ledger.unit,
        "records_per_person": records_per_person,
        "adjacency": "zero-out",
        "replace_one_epsilon": _finite(table.replace_one) if private else None,
        "releases": [
            {
                "name": release.label,
                "label": label,
                "count": count,
                "parameters": release.to_dict(),
                "private": release.private,
                "epsilon_alone": _finite(alone),
                "share": share,
            }
            for (release, count, label), alone, share in zip(ledger.history, table.alone, table.shares, strict=True)
        ],
        "caveats": list(ledger.caveats),
        "classes": [{"name": cost.name, "rate": cost.rate, "epsilon": _finite(cost.epsilon)} for cost in classes],
    }


def write_ledger(folder: str | Path, ledger: PrivacyLedger, **about: Any) -> Path:
    """Write ``ledger.json`` into a folder.

    Args:
        folder: Of the run.
        ledger: The ledger.
        **about: As :func:`ledger_values` takes it.

    Returns:
        The file.

    Raises:
        OSError: It can't be written.
    """
    path = Path(folder) / LEDGER_FILE
    write_text(path, json.dumps(ledger_values(ledger, **about), indent=2, allow_nan=False) + "\n")
    return path


def ledger_of(values: Mapping[str, Any]) -> PrivacyLedger:
    """The ledger that :func:`ledger_values` described, without its budget: nothing more is charged to it.

    Args:
        values: As they were read from a file.

    Raises:
        CheckpointError: Something is missing, of the wrong type or unknown.
    """
    if values.get("version") != VERSION:
        raise CheckpointError(
            f"the ledger is of version {values.get('version')!r}, and this version of lightning_privacy reads {VERSION}"
        )
    if not isinstance(values.get("releases"), list):
        raise CheckpointError(f"releases of the ledger must be a list, got {values.get('releases')!r}")
    try:
        unit, delta = values["unit"], values["delta"]
        epsilon = values["epsilon"]
        state = {
            "schema": SCHEMA,
            "unit": unit,
            "delta": delta,
            "budget": None,
            "epsilon": math.inf if epsilon is None else epsilon,
            "releases": [
                {"release": each["parameters"], "count": each["count"], "label": each["label"]}
                for each in values["releases"]
            ],
            "caveats": values["caveats"],
        }
        ledger = PrivacyLedger(delta=delta, unit=unit)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the ledger can't be read: {type(error).__name__} {error}") from error
    ledger.load_state_dict(state)
    return ledger


def read_ledger(path: Path) -> PrivacyLedger:
    """Read a file that :func:`write_ledger` wrote.

    Args:
        path: The file.

    Raises:
        CheckpointError: It holds no ledger of this version.
        OSError: It can't be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} holds no ledger: {error}") from error
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{path} holds no ledger: it is a {type(values).__name__}")
    return ledger_of(values)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
