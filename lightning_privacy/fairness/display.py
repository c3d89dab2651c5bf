"""A fairness table for the terminal.

Example:
    >>> import torch
    >>> from lightning_privacy.fairness import GroupSample
    >>> from lightning_privacy.fairness.table import FairnessTable
    >>> counts = torch.tensor([[[40, 10], [10, 40]], [[20, 30], [5, 45]]])
    >>> table = FairnessTable.of(GroupSample(counts), attribute="sex", group_names=("female", "male"))
    >>> print(text_of([table], title="Validation").splitlines()[0])
    Validation: sex
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_privacy.fairness.disparities import CRITERIA
from lightning_privacy.fairness.table import FairnessTable

__all__ = ["print_tables", "render", "text_of"]

# The complements tnr and fnr are left out: the line of a group must fit.
_COLUMNS = {
    "n": "n",
    "base_rate": "base rate",
    "selection_rate": "selected",
    "accuracy": "accuracy",
    "tpr": "TPR",
    "fpr": "FPR",
    "precision": "precision",
    "auroc": "AUROC",
    "log_loss": "log-loss",
    "calibration_error": "calib. error",
}
_WIDTH = 110
_UNDEFINED = "-"
_MARK = " *"


def _number(value: float) -> str:
    return _UNDEFINED if math.isnan(value) else f"{value:.3f}"


def _cells(figures: dict[str, list[float]], position: int) -> list[str]:
    return [
        f"{figures[name][position]:.0f}" if name == "n" else _number(figures[name][position])
        for name in _COLUMNS
        if name in figures
    ]


def _groups(table: FairnessTable, title: str) -> Table:
    grid = Table(title=Text(f"{title}: {table.attribute}"), title_justify="left", show_edge=False, pad_edge=False)
    grid.add_column("group")
    # Rates that have one value for each class are in the file only.
    flat = {name: values.tolist() for name, values in table.figures.items() if values.dim() == 1}
    for name, heading in _COLUMNS.items():
        if name in flat:
            grid.add_column(heading, justify="right", no_wrap=True)
    for position, group in enumerate(table.group_names):
        small = group in table.too_small
        # The name of a group is the user's own text and no markup.
        grid.add_row(Text(group + (_MARK if small else "")), *_cells(flat, position), style="dim" if small else None)
    grid.add_section()
    grid.add_row("(all)", *_cells({name: table.overall[name].tolist() for name in flat}, 0))
    return grid


def _gaps(table: FairnessTable) -> Table:
    grid = Table(show_edge=False, pad_edge=False)
    grid.add_column("criterion")
    grid.add_column("difference", justify="right")
    if table.intervals is not None:
        grid.add_column("interval", justify="right")
    grid.add_column("ratio", justify="right")
    for criterion in CRITERIA:
        name = f"{criterion}_difference"
        cells = [criterion.replace("_", " "), _number(table.disparities[name])]
        if table.intervals is not None:
            low, high = (_number(end) for end in table.intervals.disparities[name].tolist())
            cells.append(_UNDEFINED if low == _UNDEFINED else f"{low} to {high}")
        grid.add_row(*cells, _number(table.disparities[f"{criterion}_ratio"]))
    return grid


def _notes(table: FairnessTable) -> list[str]:
    worst = table.disparities["worst_group_accuracy"]
    notes = [] if math.isnan(worst) else [f"Accuracy of the worst group: {worst:.3f}"]
    if table.too_small:
        notes.append(
            f"* {len(table.too_small)} of {len(table.group_names)} groups have fewer than {table.min_group_size} rows: "
            "too few to judge, and left out of the comparisons"
        )
    if table.per_class:
        notes.append("Rates are compared class by class; the worst class counts")
    if table.epsilon is not None:
        notes.append(f"From counts with noise, released at epsilon {table.epsilon:g}; figures of scores are left out")
    return notes


def render(tables: Sequence[FairnessTable], *, title: str, left_out: Mapping[str, str] | None = None) -> RenderableType:
    """The tables as something rich can print.

    Args:
        tables: One for each attribute.
        title: What they are of, such as ``"Validation after 300 steps"``.
        left_out: Attributes without a table, with the group that everybody is in.
    """
    parts: list[RenderableType] = []
    for table in tables:
        parts += [_groups(table, title), "", _gaps(table), *map(Text, _notes(table)), ""]
    for attribute, group in (left_out or {}).items():
        said = f"{title}: {attribute} is left out, as nobody is known to be in another group than {group!r}"
        parts += [Text(said), ""]
    return Group(*parts)


def print_tables(tables: Sequence[FairnessTable], *, title: str, left_out: Mapping[str, str] | None = None) -> None:
    """Print the tables on the standard output; where it is a file, wide enough for all columns.

    Args:
        tables: One for each attribute.
        title: What they are of.
        left_out: As for :func:`render`.
    """
    # A terminal that is narrower breaks the lines; rich would shorten every column to nothing.
    console = Console(width=max(Console().width, _WIDTH), highlight=False)
    console.print(render(tables, title=title, left_out=left_out), soft_wrap=False)


def text_of(tables: Sequence[FairnessTable], *, title: str) -> str:
    """The tables as plain text.

    Args:
        tables: One for each attribute.
        title: What they are of.
    """
    buffer = io.StringIO()
    Console(file=buffer, width=_WIDTH, color_system=None).print(render(tables, title=title))
    return buffer.getvalue()
