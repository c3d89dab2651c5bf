"""Where the examples of a batch are in a layer's output.

Most layers see the batch in their first dimension. Others see it in the second (time first), folded together with
positions (``view(batch * steps, ...)``), or not at all (positions looked up once for all). Shapes alone can't tell:
64 time steps of 64 examples look the same either way. So the layout of every call is found beforehand, by running
the same step on batches of two sizes; see :mod:`lightning_privacy.gradients.probe`.

Example:
    >>> import torch
    >>> infer_layout(torch.Size([7, 2, 5]), torch.Size([7, 3, 5]), sizes=(2, 3))
    Layout(dimension=1, leading=7, dimensions=3)
    >>> infer_layout(torch.Size([14, 5]), torch.Size([21, 5]), sizes=(2, 3))  # folded, 7 rows for each example
    Layout(dimension=0, leading=14, dimensions=2)
    >>> infer_layout(torch.Size([1, 7, 5]), torch.Size([1, 7, 5]), sizes=(2, 3)).shared
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_privacy.gradients.contributions import Contribution

__all__ = ["FIRST", "Layout", "Layouts", "fold", "infer_layout", "spread"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the examples are in one tensor.

    Args:
        dimension: the dimension that grows with the batch, by the same number of rows for each example, those of an
            example next to each other; None for a tensor that is the same for all examples.
        leading: size of the first dimension when the layout was found.
        dimensions: number of dimensions then.
    """

    dimension: int | None
    leading: int = 0
    dimensions: int = 0

    @property
    def shared(self) -> bool:
        """Whether the tensor has no examples in it."""
        return self.dimension is None

    def spread_already(self, shape: torch.Size, rows: int) -> bool:
        """Return whether a shared tensor of ``shape`` got its ``rows`` by something before that was spread."""
        if not shape or shape[0] != rows:
            return False
        return len(shape) > self.dimensions or (len(shape) == self.dimensions and self.leading == 1 != rows)


FIRST = Layout(0)
"""One row for each example (and view), in the first dimension."""

Layouts = Mapping[str, Sequence[Layout]]
"""Layouts by the name of the layer, one for each of its calls in a step."""


def infer_layout(first: torch.Size, second: torch.Size, *, sizes: tuple[int, int]) -> Layout | None:
    """Return the layout that explains the shapes of one tensor in batches of two sizes; None when there is none.

    Args:
        first: shape in a batch of ``sizes[0]`` examples.
        second: shape in a batch of ``sizes[1]`` examples, else the same.
        sizes: the two numbers of examples.
    """
    if len(first) != len(second):
        return None
    leading = first[0] if first else 0
    changed = [place for place, (one, two) in enumerate(zip(first, second, strict=True)) if one != two]
    if not changed:
        return Layout(None, leading, len(first))
    place = changed[0]
    folded = first[place] * sizes[1] == second[place] * sizes[0] and first[place] % sizes[0] == 0
    return Layout(place, leading, len(first)) if len(changed) == 1 and folded else None


def spread(values: Any, layout: Layout, rows: int) -> Any:
    """Give every row a copy (a view) of its own of tensors that all examples share.

    Args:
        values: a tensor, or a tuple in which other things than tensors stay as they are.
        layout: of the layer's output; the tensors have their batch dimension, if any, where it has its own.
        rows: number of rows.
    """
    if isinstance(values, tuple):
        return tuple(spread(item, layout, rows) for item in values)
    if not isinstance(values, Tensor):
        return values
    if layout.leading == 1 and values.dim() > 0 and values.shape[0] == 1:
        return values.expand(rows, *values.shape[1:])
    return values.unsqueeze(0).expand(rows, *values.shape)


def fold(contribution: Contribution, examples: int, rows: int) -> Contribution:
    """Return the contribution of examples from that of their rows.

    Args:
        contribution: over rows; those of an example are next to each other.
        examples: number of examples.
        rows: number of rows, a multiple of it.
    """
    return contribution if rows == examples else contribution.folded(rows // examples)
