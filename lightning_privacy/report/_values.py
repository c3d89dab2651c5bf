"""Reading values that somebody else wrote: of the wanted kind, or not there.

Example:
    >>> number("3"), number(True), number(float("nan")), number(2)
    (None, None, None, 2.0)
    >>> mapping([1]), texts(["a", 1])
    ({}, ['a'])
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["cleaned", "mapping", "mappings", "number", "sequence", "text", "texts", "whole"]

# Control characters, halves of surrogate pairs, and marks that turn the direction of writing, with which a text can
# look like another one; line ends and tabs stay.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    r"\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LONGEST = 4000


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: object) -> int | None:
    """A whole number of at least 0, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def text(value: object, *, most: int = _LONGEST) -> str | None:
    """A text without control characters, cut where it is very long; or None."""
    if not isinstance(value, str):
        return None
    clean = _CONTROL.sub("\ufffd", value)
    return clean if len(clean) <= most else clean[: most - 1] + "\u2026"


def cleaned(value: Any) -> Any:
    """Values with every text in them, keys included, without control characters."""
    if isinstance(value, dict):
        return {_CONTROL.sub("\ufffd", key): cleaned(each) for key, each in value.items()}
    if isinstance(value, list):
        return [cleaned(each) for each in value]
    return _CONTROL.sub("\ufffd", value) if isinstance(value, str) else value


def texts(value: object) -> list[str]:
    """The texts of a list."""
    return [found for each in sequence(value) if (found := text(each)) is not None]


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping, empty where there is none; keys that are no texts are left out."""
    return {key: each for key, each in value.items() if isinstance(key, str)} if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The mappings of a list."""
    return [mapping(each) for each in sequence(value) if isinstance(each, Mapping)]


def sequence(value: object) -> Sequence[Any]:
    """A list, empty where there is none."""
    return value if isinstance(value, list | tuple) else []
