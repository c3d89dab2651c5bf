"""A picture of a federated run: accuracy and loss by round, the spread over clients, the size of the updates.

Example:
    >>> history = [
    ...     {"round": number, "accuracy": 1 - 0.9**number, "client_accuracy": [0.5, 0.7], "bytes": 4000}
    ...     for number in range(1, 6)
    ... ]
    >>> figure = federated_report(history)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['accuracy', 'accuracy of a client', 'megabytes sent']
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report._figures import ACCENT, SECOND, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["federated_report"]

_COLUMNS = 2
_MEGA = 1e6
# A line of single rounds is readable with markers only while there are few.
_MARKERS_UP_TO = 40


def federated_report(history: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """Draw what happened, round by round; a panel for each figure the history has.

    Args:
        history: One mapping per round, in order, with ``round`` and any of: ``loss`` and ``accuracy`` of the global
            model; ``client_loss`` and ``client_accuracy``, a list with one number per client of the cohort;
            ``delta_norm``, the norm of the update, ``cosine`` of the clients' deltas to their mean, ``bytes`` sent and
            ``seconds``, each a number or a list of one per client. None, NaN and empty lists are gaps.
        path: Where to save the picture, in the format of its ending; None: nowhere.

    Returns:
        The figure; it belongs to no window, and ``figure.savefig`` writes it.

    Raises:
        ConfigurationError: matplotlib is missing; the history is empty, a round has no number, or there is nothing
            to draw.
    """
    if not history:
        raise ConfigurationError("history must hold at least one round, got none: draw it after the training")
    if any("round" not in entry for entry in history):
        raise ConfigurationError("history must have the key 'round' in every entry")
    rounds = np.array([float(entry["round"]) for entry in history])
    panels = [panel for panel in _PANELS if any(_numbers(entry.get(panel[0])).size for entry in history)]
    if not panels:
        wanted = ", ".join(name for name, _, _ in _PANELS)
        raise ConfigurationError(f"history must have at least one of {wanted}, got {sorted(history[0])}")
    rows = math.ceil(len(panels) / _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    figure, axes = new_figure(5.2 * columns, 2.7 * rows + 0.4, rows, columns)
    for each, (name, label, draw) in zip(axes, panels, strict=False):
        draw(each, rounds, [_numbers(entry.get(name)) for entry in history])
        each.set_ylabel(label)
        each.set_xlabel("round")
        each.grid(visible=True, axis="y", linewidth=0.3)
    spreads = [each for each in axes if each.get_legend_handles_labels()[0]]
    if spreads:  # one legend is enough: the others look alike
        spreads[0].legend(fontsize="x-small", frameon=False)
    for unused in axes[len(panels) :]:
        unused.remove()
    tidy(axes[: len(panels)])
    save(figure, path)
    return figure


def _numbers(value: Any) -> npt.NDArray[np.float64]:
    """One number, several, or none, without what is not finite."""
    if value is None:
        return np.empty(0)
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    return numbers[np.isfinite(numbers)]


_Values = Sequence[npt.NDArray[np.float64]]


def _mean(axes: Axes, rounds: npt.NDArray[np.float64], values: _Values, label: str | None = None) -> None:
    means = [float(numbers.mean()) if numbers.size else math.nan for numbers in values]
    marker = "o" if len(rounds) <= _MARKERS_UP_TO else None
    axes.plot(rounds, means, color=ACCENT, marker=marker, markersize=3, label=label)


def _spread(axes: Axes, rounds: npt.NDArray[np.float64], values: _Values) -> None:
    """Mean, middle half and range over clients; told apart by shape and lightness."""
    quantiles = np.full((5, len(rounds)), math.nan)
    for column, numbers in enumerate(values):
        if numbers.size:
            quantiles[:, column] = np.quantile(numbers, [0.0, 0.25, 0.5, 0.75, 1.0])
    axes.fill_between(rounds, quantiles[0], quantiles[4], color=ACCENT, alpha=0.15, linewidth=0, label="least to most")
    axes.fill_between(rounds, quantiles[1], quantiles[3], color=ACCENT, alpha=0.35, linewidth=0, label="middle half")
    axes.plot(rounds, quantiles[2], color=SECOND, linestyle="--", linewidth=1.2, label="median")
    _mean(axes, rounds, values, label="mean")


def _one_or_several(axes: Axes, rounds: npt.NDArray[np.float64], values: _Values) -> None:
    several = any(numbers.size > 1 for numbers in values)
    (_spread if several else _mean)(axes, rounds, values)


def _total(axes: Axes, rounds: npt.NDArray[np.float64], values: _Values) -> None:
    sums = np.cumsum([float(numbers.sum()) for numbers in values]) / _MEGA
    axes.plot(rounds, sums, color=ACCENT)
    axes.set_ylim(bottom=0)


_PANELS: tuple[tuple[str, str, Callable[[Axes, npt.NDArray[np.float64], _Values], None]], ...] = (
    ("accuracy", "accuracy", _mean),
    ("loss", "loss", _mean),
    ("client_accuracy", "accuracy of a client", _spread),
    ("client_loss", "loss of a client", _spread),
    ("delta_norm", "norm of the update", _one_or_several),
    ("cosine", "cosine to the mean update", _one_or_several),
    ("bytes", "megabytes sent", _total),
    ("seconds", "seconds", _one_or_several),
)
