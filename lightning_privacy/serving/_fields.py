"""Reading a JSON object field by field: what is missing, superfluous or of the wrong type is named by its place.

Example:
    >>> Fields({"count": "3"}, "manifest").whole("count")
    Traceback (most recent call last):
        ...
    lightning_privacy.serving.errors.ExportError: manifest: count must be a whole number >= 0, got '3'
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from lightning_privacy.serving.errors import ExportError

__all__ = ["Fields"]


class Fields:
    """The fields of one JSON object.

    Args:
        values: What was read.
        place: Where it stands, for messages.

    Raises:
        ExportError: It is not an object.
    """

    def __init__(self, values: object, place: str) -> None:
        if not isinstance(values, dict):
            raise ExportError(f"{place} must be an object, got {_shown(values)}")
        self._values: dict[str, Any] = dict(values)
        self.place = place

    def names(self) -> list[str]:
        """Names of the fields not taken yet."""
        return list(self._values)

    def take(self, name: str) -> Any:
        """The value of a field, whatever it is; it can be taken once."""
        if name not in self._values:
            raise ExportError(f"{self.place}: {name} is missing")
        return self._values.pop(name)

    def done(self) -> None:
        """Refuse fields that nobody took."""
        if self._values:
            raise ExportError(f"{self.place}: unknown {', '.join(sorted(self._values))[:200]}")

    def wrong(self, name: str, requirement: str, value: object = None) -> ExportError:
        """The error of a field."""
        got = "" if value is None else f", got {_shown(value)}"
        return ExportError(f"{self.place}: {name} must be {requirement}{got}")

    def text(self, name: str, *, among: Collection[str] | None = None) -> str:
        """A text, one of a few where that is given."""
        value = self.take(name)
        if not isinstance(value, str) or (among is not None and value not in among):
            raise self.wrong(name, "a text" if among is None else f"one of {', '.join(among)}", value)
        return value

    def text_or_none(self, name: str) -> str | None:
        """A text or null."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a text or null", value)
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self.take(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.wrong(name, "a list of texts", value)
        return list(value)

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def whole(self, name: str) -> int:
        """A whole number of at least 0."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.wrong(name, "a whole number >= 0", value)
        return value

    def sizes(self, name: str) -> tuple[int, ...]:
        """A shape: a list of whole numbers of at least 0."""
        value = self.take(name)
        if not isinstance(value, list) or not all(type(each) is int and each >= 0 for each in value):
            raise self.wrong(name, "a list of whole numbers >= 0", value)
        return tuple(value)

    def number_or_none(self, name: str, *, least: float = -math.inf) -> float | None:
        """A finite number, or null."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or value < least:
            raise self.wrong(name, "a finite number or null" if least == -math.inf else f"a number >= {least:g}", value)
        return float(value)

    def object(self, name: str) -> Fields:
        """An object."""
        return Fields(self.take(name), f"{self.place}: {name}")

    def records(self, name: str) -> list[Fields]:
        """A list of objects."""
        value = self.take(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list", value)
        return [Fields(each, f"{self.place}: {name}[{number}]") for number, each in enumerate(value)]


def _shown(value: object) -> str:
    return type(value).__name__ if isinstance(value, dict | list) else f"{value!r:.80}"
