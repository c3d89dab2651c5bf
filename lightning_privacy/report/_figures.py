"""Figures of matplotlib, without its global state, and colours that most eyes can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_privacy.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ACCENT", "SECOND", "colours", "new_figure", "save", "tidy"]

# The qualitative scheme "muted" of Tol, "Colour Schemes" (SRON/EPS/TN/09-002, 2021), and black: told apart with the
# common forms of colour blindness. In this order neighbours differ most.
_MUTED = (
    "#332288",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#DDCC77",
    "#882255",
    "#88CCEE",
    "#117733",
    "#000000",
    "#CC6677",
)
ACCENT, SECOND = _MUTED[0], _MUTED[9]
_DOTS_PER_INCH = 150


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches and its axes, row by row.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError("pictures need matplotlib: pip install 'lightning-privacy[plots]'") from error
    figure = Figure(figsize=(width, height), layout="constrained", dpi=_DOTS_PER_INCH)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.ravel())


def colours(number: int) -> list[str]:
    """So many colours: ten that are chosen for it, beyond that steps of one scale from dark to light."""
    if number <= len(_MUTED):
        return list(_MUTED[:number])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["cividis"]
    return [to_hex(scale(index / (number - 1))) for index in range(number)]


def tidy(axes: Sequence[Axes]) -> None:
    """Take away what carries no information."""
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: str | Path | None) -> None:
    """Write the figure in the format of the path's ending, if there is a path.

    Raises:
        ConfigurationError: The ending is of no format that matplotlib writes.
    """
    if path is None:
        return
    known = sorted(figure.canvas.get_supported_filetypes())
    if Path(path).suffix.removeprefix(".") not in known:
        raise ConfigurationError(f"path must end with one of {', '.join(known)}, got {path}")
    figure.savefig(path)
