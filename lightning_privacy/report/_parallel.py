"""Parallel coordinates: a line for each run across an axis for each setting and figure.

Example:
    >>> chart = parallel_chart([("lr", ["0.1", "0.2"]), ("accuracy", [0.9, 0.8])], labels=["0", "1"], title="All runs")
    >>> chart.count("<polyline")
    2
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from lightning_privacy.report._scale import number_text
from lightning_privacy.report._svg_parts import nothing, short, style, svg

__all__ = ["parallel_chart"]

_STEP, _SIDE, _TOP, _HEIGHT = 110.0, 60.0, 44.0, 190.0
# Values that span more than this are told apart by their logarithms only.
_LOG_FROM = 30.0
_MOST_NAMES = 12

Column = tuple[str, Sequence[str | float | None]]


def parallel_chart(
    columns: Sequence[Column], *, labels: Sequence[str], title: str, marked: Sequence[bool] = ()
) -> Markup:
    """Draw runs as lines over axes.

    Args:
        columns: Name of each axis and the value of each run on it: a number, a text, or ``None`` for a gap.
        labels: Names of the runs.
        title: Name of the chart.
        marked: Whether a run is drawn thick; none is by default.

    Returns:
        An ``svg`` element, or a paragraph that says that there is nothing to draw.
    """
    shown = [(name, list(values)) for name, values in columns if any(value is not None for value in values)]
    if len(shown) < 2 or not labels:
        return nothing(title)
    width = 2 * _SIDE + _STEP * (len(shown) - 1)
    body, places = "", []
    for number, (name, values) in enumerate(shown):
        x = _SIDE + _STEP * number
        at, ticks = _axis(values)
        places.append([None if place is None else (x, place) for place in at])
        body += f'<line class="frame" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_TOP + _HEIGHT}"/>'
        # Names of neighbours at two heights, so that long ones don't meet.
        body += f'<text class="axis" text-anchor="middle" x="{x}" y="{16 + 15 * (number % 2)}">'
        body += f"{escape(short(name.rpartition('.')[2] or name, 30))}<title>{escape(name)}</title></text>"
        body += "".join(
            f'<text class="tick" x="{x + 5}" y="{place + 4:.1f}">{escape(short(text, 14))}</text>'
            for text, place in ticks
        )
    for run, label in enumerate(labels):
        points = [column[run] for column in places]
        path = " ".join(f"{point[0]:.1f},{point[1]:.1f}" for point in points if point is not None)
        thick = bool(marked) and marked[run]
        colour, dash = style(0 if thick else 1)
        told = "; ".join(f"{name} {_text(values[run])}" for name, values in shown)
        body += f'<polyline class="line" style="stroke:{colour};stroke-width:{2.6 if thick else 1.2}" {dash} '
        body += f'points="{path}"><title>{escape(f"run {label}: {told}")}</title></polyline>'
    told = "; ".join(
        f"run {label}: " + ", ".join(_text(values[run]) for _, values in shown) for run, label in enumerate(labels)
    )
    return svg(body, width, _TOP + _HEIGHT + 14, title, f"{', '.join(name for name, _ in shown)}. {told}")


def _text(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else number_text(value)


def _axis(values: Sequence[str | float | None]) -> tuple[list[float | None], list[tuple[str, float]]]:
    """Where each value is, and what is written at the axis."""
    numbers = [_number(value) for value in values]
    if all(number is not None or value is None for number, value in zip(numbers, values, strict=True)):
        return _scaled(numbers)
    names = list(dict.fromkeys(_text(value) for value in values if value is not None))
    step = _HEIGHT / max(1, len(names) - 1)
    at = {name: _TOP + _HEIGHT - step * place for place, name in enumerate(names)}
    return [None if value is None else at[_text(value)] for value in values], list(at.items())[:_MOST_NAMES]


def _number(value: str | float | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _scaled(numbers: Sequence[float | None]) -> tuple[list[float | None], list[tuple[str, float]]]:
    known = [number for number in numbers if number is not None]
    low, high = min(known), max(known)
    log = low > 0 and high / low > _LOG_FROM

    def place(number: float) -> float:
        a, b, x = (math.log(low), math.log(high), math.log(number)) if log else (low, high, number)
        share = 0.5 if a == b else (x - a) / (b - a)
        return _TOP + _HEIGHT * (1 - share)

    distinct = sorted(set(known))
    ticks = distinct if len(distinct) <= 6 else [low, math.sqrt(low * high) if log else (low + high) / 2, high]
    return (
        [None if number is None else place(number) for number in numbers],
        [(number_text(tick), place(tick)) for tick in ticks],
    )
