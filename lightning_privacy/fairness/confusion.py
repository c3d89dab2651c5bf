"""How often each group has each label and is given each prediction: the table most fairness figures are functions of.

The table has shape ``(G, C, C)``: group, true class, predicted class. Tables of parts of the data (batches, ranks) add
up, and the table of one attribute is a sum over the others of the table of their intersections.

Example:
    >>> import torch
    >>> counts = group_confusion(
    ...     torch.tensor([1, 0, 1]), torch.tensor([1, 0, 1]), torch.tensor([0, 0, 1]), num_groups=2, num_classes=2
    ... )
    >>> counts.tolist()
    [[[1, 0], [0, 0]], [[0, 0], [1, 1]]]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["attribute_groups", "check_ids", "group_confusion", "intersect", "marginal_counts"]

_MOST_CELLS = 2**27


def check_ids(ids: Tensor, limit: int, *, what: str, limit_name: str) -> Tensor:
    """Return whole numbers in 0 to ``limit - 1`` as int64.

    Args:
        ids: any shape; booleans and floating-point tensors that hold whole numbers will do.
        limit: one above the largest.
        what: what the numbers are, for messages.
        limit_name: what sets the limit, for messages.

    Raises:
        ConfigurationError: a number is not whole or out of range.

    Example:
        >>> check_ids(torch.tensor([1.0, 0.0]), 2, what="target", limit_name="num_classes")
        tensor([1, 0])
    """
    if ids.is_complex():
        raise ConfigurationError(f"{what} must be whole numbers, got {ids.dtype}")
    whole = ids.to(torch.int64)
    if ids.is_floating_point() and not bool((whole == ids).all()):
        wrong = ids[whole != ids].flatten()[0].item()
        raise ConfigurationError(f"{what} must be whole numbers, got {wrong:g}")
    if whole.numel():
        least, most = (int(end) for end in torch.aminmax(whole))
        if least < 0 or most >= limit:
            raise ConfigurationError(
                f"{what} must be in 0 to {limit - 1} ({limit_name}={limit}), got {least if least < 0 else most}: "
                f"give a missing or new value a number of its own, or raise {limit_name}"
            )
    return whole


def group_confusion(groups: Tensor, target: Tensor, preds: Tensor, *, num_groups: int, num_classes: int) -> Tensor:
    """Count the rows of each group, true class and predicted class.

    Args:
        groups: group of each row, in 0 to ``num_groups - 1``, shape ``(N,)``.
        target: true class of each row, in 0 to ``num_classes - 1``, shape ``(N,)``.
        preds: predicted class of each row, shape ``(N,)``.
        num_groups: number of groups G, those without a row included.
        num_classes: number of classes C.

    Returns:
        Counts of shape ``(G, C, C)``, int64.

    Raises:
        ConfigurationError: shapes differ, or a number is out of range; the message names it.
    """
    num_groups, num_classes = positive_int(num_groups=num_groups), positive_int(num_classes=num_classes)
    cells = num_groups * num_classes**2
    if cells > _MOST_CELLS:
        raise ConfigurationError(
            f"num_groups={num_groups} and num_classes={num_classes} make a table of {cells} cells, and the limit is "
            f"{_MOST_CELLS}: use fewer attributes, or one class against the rest"
        )
    shapes = {tuple(column.shape) for column in (groups, target, preds)}
    if len(shapes) != 1 or groups.dim() != 1:
        raise ConfigurationError(
            "groups, target and preds must have one value per row, got shapes "
            f"{tuple(groups.shape)}, {tuple(target.shape)} and {tuple(preds.shape)}"
        )
    group = check_ids(groups, num_groups, what="groups", limit_name="num_groups")
    true = check_ids(target, num_classes, what="target", limit_name="num_classes")
    predicted = check_ids(preds, num_classes, what="preds", limit_name="num_classes")
    cell = (group * num_classes + true) * num_classes + predicted
    return torch.bincount(cell, minlength=cells).view(num_groups, num_classes, num_classes)


def intersect(groups: Tensor, sizes: Sequence[int], names: Sequence[str] | None = None) -> Tensor:
    """Number the intersections of several attributes, the last attribute fastest.

    Args:
        groups: one column per attribute, shape ``(N, A)``; ``(N,)`` for a single one.
        sizes: number of groups of each attribute.
        names: of the attributes, for messages.

    Returns:
        Number of each row's intersection, in 0 to the product of ``sizes`` less 1, shape ``(N,)``, int64.

    Raises:
        ConfigurationError: the number of columns is not that of ``sizes``, or a group is out of range.

    Example:
        >>> intersect(torch.tensor([[0, 2], [1, 0]]), (2, 3))
        tensor([2, 3])
    """
    columns = groups.unsqueeze(1) if groups.dim() == 1 else groups
    if columns.dim() != 2 or columns.shape[1] != len(sizes):
        raise ConfigurationError(
            f"groups must have one column for each of {len(sizes)} attributes, got shape {tuple(groups.shape)}"
        )
    cell = torch.zeros(len(columns), dtype=torch.int64, device=columns.device)
    for position, size in enumerate(sizes):
        what = "groups" if names is None else f"groups of {names[position]}"
        cell = cell * size + check_ids(columns[:, position], size, what=what, limit_name="num_groups")
    return cell


def attribute_groups(cells: Tensor, sizes: Sequence[int], attribute: int) -> Tensor:
    """The group of one attribute that each intersection belongs to: the reverse of :func:`intersect`.

    Args:
        cells: numbers of intersections, any shape.
        sizes: number of groups of each attribute.
        attribute: which of them.

    Example:
        >>> attribute_groups(torch.tensor([2, 3]), (2, 3), 1)
        tensor([2, 0])
    """
    return cells // math.prod(sizes[attribute + 1 :]) % sizes[attribute]


def marginal_counts(counts: Tensor, sizes: Sequence[int], attribute: int) -> Tensor:
    """The table of one attribute, from that of the intersections of all.

    Args:
        counts: shape ``(..., I, C, C)`` with I the product of ``sizes``.
        sizes: number of groups of each attribute.
        attribute: which of them.

    Returns:
        Shape ``(..., sizes[attribute], C, C)``.
    """
    before, after = math.prod(sizes[:attribute]), math.prod(sizes[attribute + 1 :])
    classes = counts.shape[-2:]
    split = counts.reshape(*counts.shape[:-3], before, sizes[attribute], after, *classes)
    return split.sum(dim=(-5, -3))
