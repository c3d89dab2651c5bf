"""The check for seeds, steps and positions: whole numbers from 0 up.

Example:
    >>> whole_number(3, "step")
    3
"""

from __future__ import annotations

from numbers import Integral

from lightning_privacy.errors import ConfigurationError

__all__ = ["whole_number"]


def whole_number(value: object, name: str, bits: int | None = None) -> int:
    """Return ``value`` as an int.

    Args:
        value: an int, or an integer scalar of NumPy; bool is refused, it is never meant.
        name: what the message calls it.
        bits: when given, ``value`` must be below ``2**bits``.

    Raises:
        ConfigurationError: ``value`` is not a whole number in [0, 2**bits).
    """
    limit = "" if bits is None else f" and < 2**{bits}"
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ConfigurationError(f"{name} must be a whole number >= 0{limit}, got {value!r}")
    number = int(value)
    if bits is not None and number >> bits:
        raise ConfigurationError(f"{name} must be a whole number >= 0{limit}, got {value!r}")
    return number
