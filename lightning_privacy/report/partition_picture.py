"""A picture of who holds what: the labels of each client, as stacked bars or as bubbles.

Bars show how large clients are and of what they consist; bubbles show which client has which label, with no need to
tell colours apart. Both are readable for a hundred clients; of more, a hundred are shown, evenly spaced by size.

The picture shows the labels of single clients. Where those are private, it is as private as they are.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.federated import DirichletPartition
    >>> labels = np.arange(1000) % 10
    >>> parts = DirichletPartition(20, alpha=0.3).split(labels, 1000, seed=0)
    >>> figure = partition_picture(labels, parts)
    >>> figure.axes[0].get_xlabel()
    'client'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_privacy._validate import one_of, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report._figures import ACCENT, colours, new_figure, save, tidy
from lightning_privacy.sampling.labels import factorize, label_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["label_counts", "partition_picture"]

_KINDS = ("auto", "bars", "bubbles")
_MOST_COLOURS = 10  # beyond these, neighbours in a stack are hard to tell apart
_LARGEST_BUBBLE = 0.95  # of the distance between two clients or two labels
_NAMES_UP_TO = 30


def label_counts(labels: object, parts: Sequence[npt.NDArray[np.int64]]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """How often each client has each label.

    Args:
        labels: Label of each example, shape ``(num_examples,)``.
        parts: Indices of each client, as :meth:`Partition.split` returns them.

    Returns:
        Counts, shape ``(num_clients, num_labels)``, and the labels as text, in order.

    Example:
        >>> counts, names = label_counts(["cat", "dog", "cat"], [np.array([0, 2]), np.array([1])])
        >>> counts.tolist(), names
        ([[2, 0], [0, 1]], ['cat', 'dog'])
    """
    codes, names = factorize(label_array(labels))
    if not parts or max(int(part.max(initial=0)) for part in parts) >= len(codes):
        raise ConfigurationError(
            f"parts must hold the indices of at least one client, below the number of labels, {len(codes)}"
        )
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    cells = owners * len(names) + codes[np.concatenate(parts)]
    counts = np.bincount(cells, minlength=len(parts) * len(names)).reshape(len(parts), len(names))
    return counts, [str(name) for name in names]


def partition_picture(
    labels: object,
    parts: Sequence[npt.NDArray[np.int64]],
    *,
    kind: str = "auto",
    client_names: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    max_clients: int = 100,
    path: str | Path | None = None,
) -> Figure:
    """Draw the label distribution of each client.

    Args:
        labels: Label of each example, shape ``(num_examples,)``.
        parts: Indices of each client, as :meth:`Partition.split` returns them.
        kind: ``"bars"``, ``"bubbles"``, or ``"auto"``: bars for up to ten labels.
        client_names: One per client, shown for up to 30 clients; their numbers otherwise.
        label_names: One per distinct label, in increasing order of the labels.
        max_clients: Most clients that are shown, >= 1.
        path: Where to save the picture, in the format of its ending; None: nowhere.

    Returns:
        The figure; it belongs to no window, and ``figure.savefig`` writes it.

    Raises:
        ConfigurationError: matplotlib is missing, a list of names is of another length, or an argument is out of range.

    Example:
        >>> parts = [np.array([0, 1]), np.array([2])]
        >>> figure = partition_picture([0, 1, 1], parts, kind="bubbles", client_names=["anna", "ben"])
        >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
        ['anna', 'ben']
    """
    one_of(_KINDS, kind=kind)
    positive_int(max_clients=max_clients)
    counts, found_names = label_counts(labels, parts)
    label_names = _checked(label_names, found_names, "label_names")
    client_names = _checked(client_names, [str(number) for number in range(len(parts))], "client_names")
    shown = _evenly_by_size(counts.sum(1), max_clients)
    drawn_as_bars = kind == "bars" or (kind == "auto" and len(label_names) <= _MOST_COLOURS)
    width = min(4.0 + 0.09 * len(shown), 13.0)
    height = 4.2 if drawn_as_bars else min(1.4 + 0.2 * len(label_names), 13.0)
    figure, (axes,) = new_figure(max(width, 6.0), height)
    draw = _bars if drawn_as_bars else _bubbles
    draw(axes, counts[shown], label_names)
    tidy([axes])
    axes.set_xlim(-0.7, len(shown) - 0.3)
    axes.set_xlabel("client")
    if len(shown) <= _NAMES_UP_TO:
        axes.set_xticks(range(len(shown)), [client_names[client] for client in shown])
        if any(len(client_names[client]) > 3 for client in shown):
            axes.tick_params(axis="x", rotation=90)
    elif len(shown) < len(parts):
        axes.set_xticks([])
        axes.set_xlabel(f"{len(shown)} of {len(parts):,} clients, evenly spaced by size, the largest first")
    sizes = counts.sum(1)
    axes.set_title(
        f"{len(parts):,} clients, {sizes.sum():,} examples: {sizes.min():,} to {sizes.max():,} a client, median "
        f"{np.median(sizes):,.0f}",
        fontsize="medium",
    )
    save(figure, path)
    return figure


def _checked(names: Sequence[str] | None, default: list[str], argument: str) -> list[str]:
    if names is None:
        return default
    if len(names) != len(default):
        raise ConfigurationError(f"{argument} must have {len(default)} entries, got {len(names)}")
    return [str(name) for name in names]


def _evenly_by_size(sizes: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """All clients in order, or so many from the largest to the smallest."""
    if len(sizes) <= most:
        return np.arange(len(sizes))
    largest_first = np.argsort(-sizes, kind="stable")
    return largest_first[np.linspace(0, len(sizes) - 1, most).round().astype(np.int64)]


def _bars(axes: Axes, counts: npt.NDArray[np.int64], label_names: list[str]) -> None:
    below = np.zeros(len(counts), dtype=np.int64)
    for name, colour, column in zip(label_names, colours(len(label_names)), counts.T, strict=True):
        axes.bar(range(len(counts)), column, bottom=below, width=0.9, color=colour, label=name, linewidth=0)
        below = below + column
    axes.set_ylabel("examples")
    # From top to bottom as in the bars.
    axes.legend(title="label", reverse=True, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _bubbles(axes: Axes, counts: npt.NDArray[np.int64], label_names: list[str]) -> None:
    from matplotlib.collections import EllipseCollection

    clients, found = np.nonzero(counts)
    # The area is the count; the largest bubble nearly fills its cell, in the direction in which cells are narrower.
    box = axes.get_window_extent()
    narrow = box.width / len(counts) < box.height / len(label_names)
    diameters = np.sqrt(counts[clients, found] / counts.max()) * _LARGEST_BUBBLE
    bubbles = EllipseCollection(
        diameters,
        diameters,
        np.zeros(len(diameters)),
        units="x" if narrow else "y",
        offsets=np.column_stack([clients, found]),
        transOffset=axes.transData,
        facecolor=ACCENT,
    )
    axes.add_collection(bubbles)
    axes.set_ylim(-0.7, len(label_names) - 0.3)
    if len(label_names) <= _NAMES_UP_TO:
        axes.set_yticks(range(len(label_names)), label_names)
    axes.grid(visible=True, linewidth=0.3, alpha=0.5)
    axes.set_axisbelow(True)
    axes.set_ylabel("label")
    axes.text(1.0, 1.0, f"largest: {counts.max():,} examples", transform=axes.transAxes, ha="right", fontsize="small")
