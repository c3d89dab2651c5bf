"""What a manifest says of figures and roles, as plain values from which nothing else can be read.

Example:
    >>> figures_of({"source": "public", "accuracy": float("nan"), "note": "from /home/jane/run/metrics.csv"})
    {'source': 'public', 'accuracy': None, 'note': 'from <path>'}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.table import FairnessTable

__all__ = ["columns_of", "figures_of", "plain", "without_paths"]

_SOURCES = ("public", "held_out", "charged")
# An absolute path of two parts or more, on either kind of system; folders may have spaces in their names.
_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.+@~ -]*[\w.+@~-])+/[\w.+@~-]*|\b[A-Za-z]:\\[^\s'\"]+|\\\\[^\s'\"]+")


def figures_of(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Figures for a manifest, which say what they were computed from.

    Raises:
        ConfigurationError: They do not say it, or are not figures.
    """
    if metrics is None:
        return None
    if not isinstance(metrics, Mapping) or metrics.get("source") not in _SOURCES:
        raise ConfigurationError(
            "metrics must be a mapping that says under 'source' what the figures were computed from: 'public' or "
            "'held_out' people, or 'charged' where each was released through the ledger; figures of private data may "
            "not leave otherwise"
        )
    figures: dict[str, Any] = plain(metrics)
    return figures


def plain(value: Any) -> Any:
    """Numbers and texts as JSON has them; what is not a number is null; no text has a path.

    Raises:
        ConfigurationError: There is something else among them.
    """
    if isinstance(value, FairnessTable):
        groups: dict[str, Any] = {}
        for record in value.records():
            if record["group"]:
                figures = groups.setdefault(str(record["group"]), {})
                name = str(record["figure"]) + (f"/{record['class']}" if record["class"] != "" else "")
                figures[name] = None if record["value"] == "" else record["value"]
        small = {"too_small_to_judge": ", ".join(value.too_small)} if value.too_small else {}
        return plain({"groups": groups, "disparities": value.disparities, **small})
    if isinstance(value, Mapping):
        return {without_paths(str(name)): plain(each) for name, each in value.items()}
    if isinstance(value, str):
        return without_paths(value)
    if hasattr(value, "item") and not isinstance(value, bool | int | float):
        value = value.item()  # scalars of torch and NumPy
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ConfigurationError(f"metrics must be numbers, texts and mappings of them, got {type(value).__name__}")


def without_paths(text: str) -> str:
    """The text with ``<path>`` for each absolute path."""
    return _PATH.sub("<path>", text)


def columns_of(roles: Any) -> dict[str, tuple[str, ...]]:
    """Names of the columns of each role that has some.

    Raises:
        ConfigurationError: They are not names.
    """
    if roles is None:
        return {}
    values = asdict(roles) if is_dataclass(roles) and not isinstance(roles, type) else roles
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"roles must be Roles or a mapping of column names, got {type(roles).__name__}")
    found = {}
    for role, columns in values.items():
        names = (columns,) if isinstance(columns, str) else tuple(columns or ())
        if not all(isinstance(name, str) for name in names):
            raise ConfigurationError(f"roles must be names of columns, got {columns!r:.80} for {role!r}")
        if names:
            found[str(role)] = tuple(without_paths(name) for name in names)
    return found
