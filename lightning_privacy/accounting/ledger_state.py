"""Reading a saved ledger: everything is checked before anything is taken over.

Example:
    >>> from lightning_privacy.accounting.ledger_state import read_state
    >>> read_state({"schema": 1}, unit="example", delta=1e-5)
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.CheckpointError: the saved ledger lacks budget, caveats, delta, epsilon, releases, unit
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_privacy.accounting.releases import Release, release_from_dict
from lightning_privacy.errors import CheckpointError, ConfigurationError

__all__ = ["SCHEMA", "LedgerState", "read_state"]

# Version of the layout; raised when a saved ledger could no longer be read the same way.
SCHEMA = 1

_KEYS = {"schema", "unit", "delta", "budget", "epsilon", "releases", "caveats"}


@dataclass(frozen=True)
class LedgerState:
    """A checked saved ledger.

    Args:
        history: count of each pair of release and label, in the order of the first charge.
        caveats: limits of the guarantee.
        epsilon: the exact figure at the time of saving.
    """

    history: Mapping[tuple[Release, str | None], int]
    caveats: tuple[str, ...]
    epsilon: float


def read_state(state: object, *, unit: str, delta: float) -> LedgerState:
    """Check a saved ledger and give its content.

    Args:
        state: what ``PrivacyLedger.state_dict`` gave, possibly damaged.
        unit: the unit the ledger must have.
        delta: the delta the ledger must have.

    Returns:
        The content.

    Raises:
        CheckpointError: naming what is missing, of the wrong type, unknown or foreign.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(f"the saved ledger must be a mapping, got {type(state).__name__}")
    if "schema" in state and state["schema"] != SCHEMA:
        raise CheckpointError(
            f"the saved ledger has schema {state['schema']!r}; this version of lightning_privacy reads {SCHEMA}"
        )
    missing = _KEYS - set(state)
    if missing:
        raise CheckpointError(f"the saved ledger lacks {', '.join(sorted(missing))}")
    unknown = set(state) - _KEYS
    if unknown:
        raise CheckpointError(f"the saved ledger has unknown entries: {', '.join(sorted(map(str, unknown)))}")
    if not isinstance(state["unit"], str):
        raise CheckpointError(f"unit of the saved ledger must be a text, got {state['unit']!r}")
    if state["unit"] != unit:
        raise CheckpointError(
            f"the saved ledger protects each {state['unit']!r}, this one each {unit!r}; figures for different "
            f"units cannot be added"
        )
    if _number(state, "delta") != delta:
        raise CheckpointError(
            f"the saved ledger is kept at delta {state['delta']!r}, this one at {delta!r}; give this one the saved "
            f"delta, epsilon at another is epsilon(delta=...)"
        )
    if state["budget"] is not None and not 0 < _number(state, "budget") < math.inf:
        raise CheckpointError(f"budget of the saved ledger must be above 0 or None, got {state['budget']!r}")
    epsilon = _number(state, "epsilon")
    if not epsilon >= 0:
        raise CheckpointError(f"epsilon of the saved ledger must be at least 0, got {epsilon!r}")
    caveats = state["caveats"]
    if not isinstance(caveats, list) or not all(isinstance(text, str) for text in caveats):
        raise CheckpointError(f"caveats of the saved ledger must be a list of texts, got {caveats!r}")
    return LedgerState(_history(state["releases"]), tuple(caveats), epsilon)


def _number(state: Mapping[str, Any], key: str) -> float:
    value = state[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{key} of the saved ledger must be a number, got {value!r}")
    return float(value)


def _history(entries: object) -> dict[tuple[Release, str | None], int]:
    if not isinstance(entries, list):
        raise CheckpointError(f"releases of the saved ledger must be a list, got {type(entries).__name__}")
    history: dict[tuple[Release, str | None], int] = {}
    for position, entry in enumerate(entries):
        where = f"releases[{position}] of the saved ledger"
        if not isinstance(entry, Mapping) or set(entry) != {"release", "count", "label"}:
            raise CheckpointError(f"{where} must have exactly release, count and label, got {entry!r}")
        count, label = entry["count"], entry["label"]
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise CheckpointError(f"count of {where} must be a whole number >= 1, got {count!r}")
        if label is not None and not isinstance(label, str):
            raise CheckpointError(f"label of {where} must be a text or None, got {label!r}")
        try:
            release = release_from_dict(entry["release"])
        except ConfigurationError as error:
            raise CheckpointError(f"{where}: {error}") from error
        history[(release, label)] = history.get((release, label), 0) + count
    return history
