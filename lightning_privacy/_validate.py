"""Validators that name the argument and its value.

Each takes exactly one keyword argument: its name is the name in the message, so the message
cannot drift from the signature.

Example:
    >>> from lightning_privacy._validate import positive
    >>> positive(epsilon=-1.0)
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.ConfigurationError: epsilon must be a finite number > 0, got -1.0
"""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real

from lightning_privacy.errors import ConfigurationError

__all__ = [
    "finite",
    "non_negative",
    "non_negative_int",
    "one_of",
    "positive",
    "positive_int",
    "probability",
    "within_open_unit",
]


def _single(arguments: dict[str, object]) -> tuple[str, object]:
    ((name, value),) = arguments.items()
    return name, value


def _real(name: str, value: object, requirement: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigurationError(f"{name} must be {requirement}, got {value!r}")
    return float(value)


def finite(**argument: object) -> float:
    """Return the one keyword argument as a float, which must be finite."""
    name, value = _single(argument)
    return _real(name, value, "a finite number")


def positive(**argument: object) -> float:
    """Return the one keyword argument as a float, which must be finite and above 0."""
    name, value = _single(argument)
    number = _real(name, value, "a finite number > 0")
    if number <= 0:
        raise ConfigurationError(f"{name} must be a finite number > 0, got {value!r}")
    return number


def non_negative(**argument: object) -> float:
    """Return the one keyword argument as a float, which must be finite and at least 0."""
    name, value = _single(argument)
    number = _real(name, value, "a finite number >= 0")
    if number < 0:
        raise ConfigurationError(f"{name} must be a finite number >= 0, got {value!r}")
    return number


def probability(**argument: object) -> float:
    """Return the one keyword argument as a float in (0, 1]."""
    name, value = _single(argument)
    number = _real(name, value, "a number in (0, 1]")
    if not 0 < number <= 1:
        raise ConfigurationError(f"{name} must be a number in (0, 1], got {value!r}")
    return number


def within_open_unit(**argument: object) -> float:
    """Return the one keyword argument as a float in the open interval (0, 1)."""
    name, value = _single(argument)
    number = _real(name, value, "a number in (0, 1)")
    if not 0 < number < 1:
        raise ConfigurationError(f"{name} must be a number in (0, 1), got {value!r}")
    return number


def _whole(name: str, value: object, least: int, bits: int | None = None) -> int:
    # Whole numbers of NumPy will do; a bool is never meant.
    number = -1 if isinstance(value, bool) or not isinstance(value, Integral) else int(value)
    if number < least or (bits is not None and number >> bits):
        limit = "" if bits is None else f" and < 2**{bits}"
        raise ConfigurationError(f"{name} must be a whole number >= {least}{limit}, got {value!r}")
    return number


def positive_int(**argument: object) -> int:
    """Return the one keyword argument as an int of at least 1."""
    name, value = _single(argument)
    return _whole(name, value, 1)


def non_negative_int(*, bits: int | None = None, **argument: object) -> int:
    """Return the one keyword argument as an int of at least 0, and below ``2**bits`` where that is given."""
    name, value = _single(argument)
    return _whole(name, value, 0, bits)


def one_of(choices: Collection[object], **argument: object) -> object:
    """Return the one keyword argument, which must be among ``choices``."""
    name, value = _single(argument)
    if value not in choices:
        options = ", ".join(repr(choice) for choice in choices)
        raise ConfigurationError(f"{name} must be one of {options}, got {value!r}")
    return value
