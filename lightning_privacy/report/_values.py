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

__all__ = ["mapping", "mappings", "number", "sequence", "text", "texts", "whole"]

# No page needs them, and some readers take them for something else; line ends and tabs stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
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
