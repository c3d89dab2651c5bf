"""Axes of charts: from values to places in a picture, round ticks, and lines of fewer points.

Example:
    >>> scale = scale_of([0.0, 9.3], 0.0, 100.0)
    >>> scale.ticks, scale(5.0)
    ((0.0, 2.0, 4.0, 6.0, 8.0, 10.0), 50.0)
    >>> number_text(0.00001234), number_text(12500), number_text(0.5)
    ('1.234e-05', '12,500', '0.5')
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scale", "number_text", "scale_of", "thinned"]

_TICKS = 5
_LARGE = 10_000
# Beyond these a picture says nothing, and sums of such numbers overflow.
_LARGEST = 1e300


@dataclass(frozen=True)
class Scale:
    """Where a value is drawn.

    Args:
        low: Value at ``start``.
        high: Value at ``end``.
        start: Place.
        end: Place.
        ticks: Values that are written at the axis.
        log: Whether places go with logarithms.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, min(max(value, -_LARGEST), _LARGEST)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        # Halved, so that the distance of the largest numbers is a number too.
        return self.start + (self.end - self.start) * ((at / 2 - low / 2) / (high / 2 - low / 2))


def scale_of(values: Sequence[float], start: float, end: float, *, log: bool = False, snug: bool = False) -> Scale:
    """The scale on which some values fit.

    Args:
        values: At least one; finite, and above 0 on a logarithmic scale.
        start: Place of the lowest.
        end: Place of the highest.
        log: Whether places go with logarithms.
        snug: Whether the scale ends with the values and not with the next round number.
    """
    low = max(-_LARGEST, min(values))
    high = min(_LARGEST, max(values))
    if log:
        return _log_scale(low, high, start, end)
    if high / 2 - low / 2 <= 1e-12 * max(abs(high), abs(low)):
        margin = abs(high) * 0.1 or 0.5
        low, high = low - margin, high + margin
    step = _round_step(high / _TICKS - low / _TICKS)
    if not snug:
        low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    # Written as multiples, so that 0.1 + 0.2 is 0.3; and no minus sign on zero.
    ticks = tuple(float(f"{(first + number) * step:.12g}") + 0.0 for number in range(max(1, min(count, 20))))
    return Scale(low, high, start, end, ticks)


def _log_scale(low: float, high: float, start: float, end: float) -> Scale:
    lowest, highest = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if highest - lowest <= 1:  # one decade: the steps within it are needed
        lowest, highest = min(lowest, highest - 1), max(highest, lowest + 1)
        ticks = tuple(10.0**lowest * factor for factor in (1.0, 2.0, 5.0, 10.0))
    else:
        stride = math.ceil((highest - lowest) / _TICKS)
        ticks = tuple(10.0**power for power in range(lowest, highest + 1, stride))
    return Scale(10.0**lowest, 10.0**highest, start, end, ticks, log=True)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 and 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step * (1 - 1e-9))


def number_text(value: float) -> str:
    """A number in at most four digits, or with separated thousands."""
    if not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: "-infinite"}.get(value, "undefined")
    if value == round(value) and abs(value) < 1e9:
        return f"{value:,.0f}"
    if abs(value) >= _LARGE and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most about so many points of a line, the least and the greatest of each stretch among them.

    Args:
        points: In the order of the line.
        most: How many to keep; the first and the last always are.
    """
    if len(points) <= max(4, most):
        return list(points)
    inner = points[1:-1]
    stretches = max(1, (most - 2) // 2)
    size = math.ceil(len(inner) / stretches)
    kept = [points[0]]
    for begin in range(0, len(inner), size):
        stretch = inner[begin : begin + size]
        heights = [y for _, y in stretch]
        kept += [stretch[index] for index in sorted({heights.index(min(heights)), heights.index(max(heights))})]
    return [*kept, points[-1]]
