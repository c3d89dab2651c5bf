"""What is kept of a tensor to tell whether the rows of some examples changed.

Of a long row a sample of its entries is kept, with its sum and its norm, which every entry has a part in.

Example:
    >>> import torch
    >>> first = rows_of(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> second = rows_of(torch.tensor([[9.0, 2.0], [3.0, 4.0]]))
    >>> changed_rows(first, second, tolerance=1e-4)
    tensor([ True, False])
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_privacy.gradients.layout import Layout

__all__ = ["changed_rows", "in_other_order", "rows_of", "split_rows", "tolerance_for", "without_row"]

_KEPT = 4096
"""Entries kept of a row."""
_FLOOR = 1e-2
"""Changes are measured against a row's norm, or this share of something larger that it is a part of, whichever is
more: rounding does not get smaller because one parameter's gradient happens to cancel out."""


def tolerance_for(dtype: torch.dtype) -> float:
    """Return the relative change that rounding can make, generously, when the same numbers are added up in batches.

    Args:
        dtype: the coarsest that the network computes in.
    """
    return min(max(1000 * torch.finfo(dtype).eps, 1e-10), 0.05)


def rows_of(values: Tensor) -> Tensor:
    """Return ``(B, k)``: of each row of ``values`` what is compared.

    Args:
        values: shape ``(B, *)``.
    """
    flat = values.detach().reshape(values.shape[0], -1)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    if flat.shape[1] <= _KEPT:
        return flat.clone()
    step = -(-flat.shape[1] // _KEPT)
    total = flat.sum(1, keepdim=True) / flat.shape[1] ** 0.5
    return torch.cat([flat[:, ::step], total, flat.norm(dim=1, keepdim=True)], 1)


def split_rows(values: Tensor, layout: Layout, examples: int) -> Tensor:
    """Return a tensor as one row for each example, ``(B, *)``; ``(1, *)`` where all share it.

    Args:
        values: the tensor.
        layout: where its examples are.
        examples: how many there are.
    """
    if layout.dimension is None:
        return values.reshape(1, -1)
    moved = values.movedim(layout.dimension, 0)
    return moved.reshape(examples, -1)


def without_row(rows: Tensor, place: int) -> Tensor:
    """Return all rows but one.

    Args:
        rows: shape ``(B, *)``.
        place: which one to leave out.
    """
    return torch.cat([rows[:place], rows[place + 1 :]])


def changed_rows(first: Tensor, second: Tensor, *, tolerance: float, whole: Tensor | None = None) -> Tensor:
    """Return for each row whether it is another one now, beyond rounding: bool, ``(B,)``.

    Args:
        first: shape ``(B, k)``.
        second: the same shape; NaN in the place of NaN is no change.
        tolerance: relative to the norm of the row.
        whole: norm of what each row is a part of, ``(B,)``; by default the largest row's.
    """
    difference = torch.where(first.isnan() & second.isnan(), 0.0, first - second)
    difference = torch.where(first == second, 0.0, difference)  # infinities
    norms = torch.maximum(_norms(first), _norms(second))
    if norms.numel():
        norms = torch.maximum(norms, _FLOOR * (norms.max() if whole is None else whole.to(norms)))
    unchanged: Tensor = difference.norm(dim=1) <= tolerance * norms
    return ~unchanged


def in_other_order(first: Tensor, second: Tensor, *, tolerance: float) -> bool:
    """Return whether all rows but one are there again, each once, wherever they are now.

    Args:
        first: shape ``(B, k)``.
        second: the same shape.
        tolerance: as of :func:`changed_rows`.
    """
    same = ~torch.stack([changed_rows(row.expand_as(second), second, tolerance=tolerance) for row in first])
    free, missing = list(range(len(second))), 0
    for row in same:
        found = next((place for place in free if row[place]), None)
        if found is None:
            missing += 1
        else:
            free.remove(found)
    return missing <= 1


def _norms(rows: Tensor) -> Tensor:
    norms: Tensor = rows.nan_to_num(0.0, 0.0, 0.0).norm(dim=1)
    return norms
