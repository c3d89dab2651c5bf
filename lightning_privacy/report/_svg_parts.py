"""Pieces of charts: marks, axes, legends and the element around them.

Example:
    >>> print(svg("", 10, 20, "A <chart>", "words"))
    <svg role="img" aria-label="A &lt;chart&gt;: words" viewBox="0 0 10 20"></svg>
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from lightning_privacy.report._scale import Scale, number_text

__all__ = [
    "BOTTOM",
    "HEIGHT",
    "LEFT",
    "RIGHT",
    "TOP",
    "WIDTH",
    "axes",
    "drawable",
    "legend",
    "mark",
    "nothing",
    "short",
    "style",
    "svg",
    "whisker",
]

# In the units of the picture. It is as wide as a phone, so that its text is readable there; a page shows several
# side by side where there is room.
WIDTH, HEIGHT = 400.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 10.0, 40.0
_COLOURS = 6  # variables --series-1 ... of the page
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 2", "1 2")
_MOST_TOLD = 1500
_LETTER = 6.2  # about the width of one, at the size of the labels


def style(number: int) -> tuple[str, str]:
    """Colour and dash of the so-many-th series."""
    dash = _DASHES[number % len(_DASHES)]
    return f"var(--series-{number % _COLOURS + 1})", f'stroke-dasharray="{dash}"' if dash else ""


def mark(x: float, y: float, number: int, size: float, label: str | None = None) -> str:
    """A disc, square, triangle or diamond."""
    colour, _ = style(number)
    told = "" if label is None else f"<title>{escape(label)}</title>"
    corners = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
        3: ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    }.get(number % 4)
    if corners is None:
        return f'<circle class="mark" style="fill:{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">{told}</circle>'
    path = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" style="fill:{colour}" points="{path}">{told}</polygon>'


def whisker(low: float, high: float, y: float) -> str:
    """An interval."""
    ends = "".join(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 5}" y2="{y + 5}"/>' for x in (low, high))
    return f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>{ends}'


def axes(x_scale: Scale, y_scale: Scale, x_label: str, y_label: str) -> str:
    """Both axes with their ticks and labels."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    out = ""
    for tick in y_scale.ticks:
        y = y_scale(tick)
        out += f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        out += f'<text class="tick" text-anchor="end" x="{LEFT - 5}" y="{y + 4:.1f}">{number_text(tick)}</text>'
    for tick in x_scale.ticks:
        x = x_scale(tick)
        out += f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        out += f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 16}">{number_text(tick)}</text>'
    out += f'<line class="frame" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    middle = (LEFT + right) / 2
    out += f'<text class="axis" text-anchor="middle" x="{middle}" y="{bottom + 33}">{escape(x_label)}</text>'
    height = (TOP + bottom) / 2
    out += f'<text class="axis" text-anchor="middle" transform="rotate(-90 12 {height})" x="12" y="{height}">'
    return out + f"{escape(y_label)}</text>"


def legend(entries: Sequence[tuple[str, int | None]], *, marks: bool = False) -> tuple[str, float]:
    """Names under the picture, row by row; a reference line has no number."""
    out, x, row = "", LEFT, 0
    for name, number in entries:
        text = short(name, 44)
        width = 30.0 + _LETTER * len(text)
        if x > LEFT and x + width > WIDTH:
            x, row = LEFT, row + 1
        y = HEIGHT + 8.0 + 17.0 * row
        if number is None:
            out += f'<line class="reference" x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}"/>'
        else:
            colour, dash = style(number)
            if not marks:
                out += f'<line class="line" style="stroke:{colour}" {dash} x1="{x}" x2="{x + 18}" '
                out += f'y1="{y - 4}" y2="{y - 4}"/>'
            out += mark(x + 9, y - 4, number, 4.0 if marks else 3.0)
        out += f'<text class="name" x="{x + 23}" y="{y}">{escape(text)}</text>'
        x += width
    return out, 17.0 * (row + 1) if entries else 0.0


def svg(body: str, width: float, height: float, title: str, description: str) -> Markup:
    """The element, with a name that tells all to those who don't see it.

    Args:
        body: Elements, their text escaped.
        width: Of the picture.
        height: Of the picture.
        title: What it is.
        description: What it shows.
    """
    told = escape(short(f"{title}: {description}", _MOST_TOLD))
    return Markup(  # noqa: S704 - every text in it is escaped, and the rest is numbers
        f'<svg role="img" aria-label="{told}" viewBox="0 0 {width:g} {height:g}">{body}</svg>'
    )


def nothing(title: str) -> Markup:
    """What stands in place of an empty chart."""
    return Markup('<p class="quiet">{}: there is nothing to draw.</p>').format(title)


def drawable(value: float, *, log: bool) -> bool:
    """Whether there is a place for a value."""
    return math.isfinite(value) and (value > 0 or not log)


def short(text: str, most: int) -> str:
    """At most so many letters of a text."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"
