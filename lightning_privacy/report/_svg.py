"""Charts as inline SVG: no library, no script, no font, nothing fetched; colours are the page's CSS variables.

A chart is ``role="img"`` with a name and a description in words, so that a reader who doesn't see it is told the same.
Series differ by dash and marker as well as by colour. All text is escaped.

Example:
    >>> chart = line_chart([Series("epsilon", [0, 1, 2], [0.5, 0.8, 1.0])], title="Spent", x_label="step", y_label="")
    >>> chart.startswith('<svg role="img"'), "epsilon" in chart
    (True, True)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report._scale import Scale, number_text, scale_of, thinned
from lightning_privacy.report._svg_parts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    drawable,
    legend,
    mark,
    nothing,
    short,
    style,
    svg,
    whisker,
)

__all__ = ["Bar", "Point", "Reference", "Series", "bar_chart", "line_chart", "scatter_chart"]

_MOST_POINTS = 300
_MARKERS_UP_TO = 30
_BAR, _GAP = 20.0, 14.0


@dataclass(frozen=True)
class Series:
    """One line.

    Args:
        label: What it is called in the legend.
        x: Places, as many as ``y``.
        y: Values; what is not finite is a gap.
        low: Lower ends of a band around the line, or None.
        high: Upper ends of it.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Point:
    """One mark of a scatter chart.

    Args:
        x: Place.
        y: Place.
        label: What is told of it when it is pointed at.
        group: Number of its colour and shape.
        marked: Whether it is drawn large and joined with the others that are.
    """

    x: float
    y: float
    label: str
    group: int = 0
    marked: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar.

    Args:
        label: Left of it.
        value: Its length; what is not finite has none, and is told as undefined.
        low: Lower end of its interval, or None.
        high: Upper end of it.
        note: A remark after its value.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Reference:
    """A horizontal line to compare with.

    Args:
        label: In the legend.
        y: Where it is.
    """

    label: str
    y: float


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    description: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    y_range: tuple[float, float] | None = None,
    references: Sequence[Reference] = (),
) -> Markup:
    """Lines over a common axis.

    Args:
        series: At least one.
        title: Name of the chart, for those who don't see it; a page writes its own heading.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis.
        description: The chart in words; by default the ends of each line.
        log_x: Whether the horizontal axis is logarithmic; places that are not above 0 are left out then.
        log_y: The same for the vertical one.
        y_range: Values the vertical axis reaches at least.
        references: Horizontal lines.

    Returns:
        An ``svg`` element, or a paragraph that says that there is nothing to draw.

    Raises:
        ConfigurationError: A series has not as many places as values.
    """
    for each in series:
        lengths = {len(values) for values in (each.x, each.y, each.low, each.high) if values is not None}
        if len(lengths) != 1:
            raise ConfigurationError(f"series {each.label!r} must have as many x as y, low and high, got {lengths}")
    drawn = [_Line.of(each, log_x=log_x, log_y=log_y) for each in series]
    shown = [line for line in drawn if line.points]
    if not shown:
        return nothing(title)
    lines = [reference for reference in references if drawable(reference.y, log=log_y)]
    heights = [y for line in shown for y in line.heights] + [reference.y for reference in lines]
    x_scale = scale_of([x for line in shown for x, _ in line.points], LEFT, WIDTH - RIGHT, log=log_x, snug=True)
    y_scale = scale_of([*heights, *(y_range or ())], HEIGHT - BOTTOM, TOP, log=log_y)
    body = axes(x_scale, y_scale, x_label, y_label)
    for number, line in enumerate(shown):
        body += line.draw(x_scale, y_scale, number)
    for reference in lines:
        y = y_scale(reference.y)
        body += f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    entries: list[tuple[str, int | None]] = [(line.label, number) for number, line in enumerate(shown)]
    entries += [(reference.label, None) for reference in lines]
    names, height = legend(entries if len(entries) > 1 else [])
    told = description or "; ".join(line.told(x_label) for line in shown)
    return svg(body + names, WIDTH, HEIGHT + height, title, told)


def scatter_chart(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    groups: Sequence[str] = (),
    description: str | None = None,
    log_x: bool = False,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Points, those that are marked joined by a line in the order of their places.

    Args:
        points: What is not finite is left out.
        title: Name of the chart.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis.
        groups: Names of the groups, for the legend.
        description: The chart in words; by default the marked points.
        log_x: Whether the horizontal axis is logarithmic.
        y_range: Values the vertical axis reaches at least.

    Returns:
        An ``svg`` element, or a paragraph that says that there is nothing to draw.
    """
    shown = [point for point in points if drawable(point.x, log=log_x) and math.isfinite(point.y)]
    if not shown:
        return nothing(title)
    x_scale = scale_of([point.x for point in shown], LEFT, WIDTH - RIGHT, log=log_x, snug=True)
    y_scale = scale_of([*(point.y for point in shown), *(y_range or ())], HEIGHT - BOTTOM, TOP)
    body = axes(x_scale, y_scale, x_label, y_label)
    front = sorted((point for point in shown if point.marked), key=lambda point: (point.x, point.y))
    if len(front) > 1:
        path = " ".join(f"{x_scale(point.x):.1f},{y_scale(point.y):.1f}" for point in front)
        body += f'<polyline class="front" points="{path}"/>'
    for point in shown:
        body += mark(x_scale(point.x), y_scale(point.y), point.group, 6.0 if point.marked else 4.0, point.label)
    names, height = legend([(name, number) for number, name in enumerate(groups)], marks=True)
    named = [f"{point.label}: {number_text(point.x)}, {number_text(point.y)}" for point in front or shown[:12]]
    return svg(body + names, WIDTH, HEIGHT + height, title, description or "; ".join(named))


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str,
    x_label: str = "",
    description: str | None = None,
    x_range: tuple[float, float] = (0.0, 1.0),
    percent: bool = False,
) -> Markup:
    """Horizontal bars from 0, each with its label above, its value beside it and its interval across its end.

    Args:
        bars: From top to bottom.
        title: Name of the chart.
        x_label: What the bars measure.
        description: The chart in words; by default every value.
        x_range: Values the axis reaches at least.
        percent: Whether values are shares, to be written as percentages.

    Returns:
        An ``svg`` element, or a paragraph that says that there is nothing to draw.
    """
    if not bars:
        return nothing(title)
    ends = [value for bar in bars for value in (bar.value, bar.low, bar.high) if value is not None]
    scale = scale_of([*(end for end in ends if math.isfinite(end)), *x_range, 0.0], 16.0, WIDTH - 20.0, snug=True)
    step, top = _BAR + _GAP + 10.0, 6.0
    bottom = top + step * len(bars)
    body = "".join(
        f'<line class="grid" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="{top}" y2="{bottom:.1f}"/>'
        f'<text class="tick" text-anchor="middle" x="{scale(tick):.1f}" y="{bottom + 14:.1f}">'
        f"{_value(tick, percent=percent)}</text>"
        for tick in scale.ticks
    )
    told = []
    for number, bar in enumerate(bars):
        y = top + step * number
        words = _bar_words(bar, percent=percent)
        told.append(f"{bar.label} {words}")
        body += f'<text class="name" x="16" y="{y + 12:.1f}">{escape(short(bar.label, 40))}</text>'
        body += f'<text class="name" text-anchor="end" x="{WIDTH - 20}" y="{y + 12:.1f}">{escape(words)}</text>'
        if math.isfinite(bar.value):
            left, right = sorted((scale(0.0), scale(bar.value)))
            body += f'<rect class="bar" x="{left:.1f}" y="{y + 18:.1f}" width="{right - left:.1f}" height="{_BAR}"/>'
        if bar.low is not None and bar.high is not None and math.isfinite(bar.low) and math.isfinite(bar.high):
            body += whisker(scale(bar.low), scale(bar.high), y + 18 + _BAR / 2)
    if x_label:
        body += (
            f'<text class="axis" text-anchor="middle" x="{WIDTH / 2}" y="{bottom + 30:.1f}">{escape(x_label)}</text>'
        )
    return svg(body, WIDTH, bottom + (38 if x_label else 20), title, description or "; ".join(told))


@dataclass(frozen=True)
class _Line:
    """A series as it is drawn: few enough points, gaps kept."""

    label: str
    runs: tuple[tuple[tuple[float, float], ...], ...]
    band: tuple[tuple[float, float, float], ...]

    @classmethod
    def of(cls, series: Series, *, log_x: bool, log_y: bool) -> _Line:
        runs: list[list[tuple[float, float]]] = [[]]
        for x, y in zip(series.x, series.y, strict=True):
            if drawable(x, log=log_x) and drawable(y, log=log_y):
                runs[-1].append((float(x), float(y)))
            elif runs[-1]:
                runs.append([])
        band: list[tuple[float, float, float]] = []
        if series.low is not None and series.high is not None:
            band = [
                (float(x), float(low), float(high))
                for x, low, high in zip(series.x, series.low, series.high, strict=True)
                if drawable(x, log=log_x) and drawable(low, log=log_y) and drawable(high, log=log_y)
            ]
        total = sum(len(run) for run in runs)
        most = max(2, _MOST_POINTS * max(1, len(runs[0])) // max(1, total)) if total > _MOST_POINTS else total
        kept = tuple(tuple(thinned(run, most)) for run in runs if run)
        return cls(series.label, kept[:_MOST_POINTS], tuple(band[:: max(1, len(band) // _MOST_POINTS)]))

    @property
    def points(self) -> list[tuple[float, float]]:
        return [point for run in self.runs for point in run]

    @property
    def heights(self) -> list[float]:
        return [y for _, y in self.points] + [end for _, low, high in self.band for end in (low, high)]

    def told(self, x_label: str) -> str:
        first, last = self.points[0], self.points[-1]
        ends = [f"{number_text(y)} at {x_label or 'x'} {number_text(x)}" for x, y in (first, last)]
        return f"{self.label} from {ends[0]} to {ends[1]}" if len(self.points) > 1 else f"{self.label} {ends[0]}"

    def draw(self, x_scale: Scale, y_scale: Scale, number: int) -> str:
        colour, dash = style(number)
        out = ""
        if len(self.band) > 1:
            upper = [f"{x_scale(x):.1f},{y_scale(high):.1f}" for x, _, high in self.band]
            lower = [f"{x_scale(x):.1f},{y_scale(low):.1f}" for x, low, _ in reversed(self.band)]
            out += f'<polygon class="band" style="fill:{colour}" points="{" ".join(upper + lower)}"/>'
        for run in self.runs:
            if len(run) > 1:
                path = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in run)
                out += f'<polyline class="line" style="stroke:{colour}" {dash} points="{path}"/>'
        lonely = [run[0] for run in self.runs if len(run) == 1]
        for x, y in self.points if len(self.points) <= _MARKERS_UP_TO else lonely:
            out += mark(x_scale(x), y_scale(y), number, 3.0)
        return out


def _value(value: float, *, percent: bool) -> str:
    return f"{number_text(100 * value)}%" if percent else number_text(value)


def _bar_words(bar: Bar, *, percent: bool) -> str:
    if not math.isfinite(bar.value):
        return f"undefined {bar.note}".strip()
    words = f"{100 * bar.value:.1f}%" if percent else number_text(bar.value)
    if bar.low is not None and bar.high is not None and math.isfinite(bar.low) and math.isfinite(bar.high):
        ends = [f"{100 * end:.1f}" if percent else number_text(end) for end in (bar.low, bar.high)]
        words += f" ({ends[0]} to {ends[1]})"
    return f"{words} {bar.note}".strip()
