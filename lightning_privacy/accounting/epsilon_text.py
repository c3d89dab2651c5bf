"""An epsilon as text that says no less than was spent: rounded up, and yet not above a budget that was kept.

A lower bound is rounded down, as no more of it was proved.

Example:
    >>> epsilon_text(2.99901), epsilon_text(0.0012341)
    ('3.000', '0.00124')
    >>> epsilon_text(2.9994, budget=2.9995)
    '2.9995'
    >>> lower_bound_text(0.6768)
    '0.676'
    >>> replacement_text(0.3, 1e-5)
    'never more than epsilon 0.600 at delta 2.35e-05'
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

__all__ = ["epsilon_text", "lower_bound_text", "replacement_text"]

_PLACES = 3
# From here on that many places say enough; below, that many digits are shown.
_SMALL = 0.01
# More than any float has before and after its point together.
_CONTEXT = Context(prec=800)
_DELTA = Context(prec=3, rounding=ROUND_CEILING)
_LARGEST_EXPONENT = 700.0


def epsilon_text(value: float, *, budget: float | None = None) -> str:
    """An epsilon with three digits after the point, or three in all where it is small; never rounded down.

    Args:
        value: The epsilon, 0 or above.
        budget: What was not to be passed. Where the epsilon is within it and would be rounded to more, the budget
            itself is shown, which is no less than the epsilon.

    Returns:
        The text, which as a float is at least ``value``; ``"infinite"`` where that is not finite.
    """
    if not math.isfinite(value):
        return "infinite"
    if value == 0:
        return "0"
    shown = _rounded(value, ROUND_CEILING)
    if budget is not None and value <= budget < shown:
        return f"{Decimal(repr(float(budget))):f}"
    return f"{shown:f}"


def lower_bound_text(value: float) -> str:
    """A lower bound of an epsilon, with as many digits as :func:`epsilon_text` gives; never rounded up.

    Args:
        value: The bound, 0 or above.

    Returns:
        The text, which as a float is at most ``value``; ``"infinite"`` where that is not finite.
    """
    if not math.isfinite(value):
        return "infinite"
    return "0" if value == 0 else f"{_rounded(value, ROUND_FLOOR):f}"


def replacement_text(epsilon: float, delta: float) -> str:
    """What is always true for the replacement of a record by any other, from the figure for a null record.

    One record is replaced by the null record, and that by the other. Two such steps, each (epsilon, delta), are
    ``(2 epsilon, (1 + e^epsilon) delta)`` together (Vadhan, "The Complexity of Differential Privacy", 2017, Lemma 2.2).

    Args:
        epsilon: For the replacement by a null record, or of one.
        delta: Of that epsilon.

    Returns:
        Text that goes on with a sentence about the figure; ``"not bounded"`` where delta would be 1.
    """
    larger = delta * (1.0 + math.exp(epsilon)) if epsilon < _LARGEST_EXPONENT else math.inf
    if not larger < 1.0:
        return "not bounded"
    shown = float(_DELTA.create_decimal(repr(larger)))
    return f"never more than epsilon {epsilon_text(2.0 * epsilon)} at delta {shown:g}"


def _rounded(value: float, how: str) -> Decimal:
    places = _PLACES if value >= _SMALL else _PLACES - 1 - math.floor(math.log10(value))
    # By the shortest decimal that is this float: what is a hair above 1.1 in binary fractions is 1.100.
    return Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-places, _CONTEXT), how, _CONTEXT)
