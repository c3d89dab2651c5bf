"""Weights that make the label independent of the group.

Kamiran and Calders, "Data preprocessing techniques for classification without discrimination", Knowledge and
Information Systems 33, 2012, section 5.3: an example of group s and label y weighs ``P(s) P(y) / P(s, y)``, how often
the pair would occur were both independent, over how often it does. The weights sum to the number of examples, and
under them every group has the same share of each label.

Example:
    >>> import torch
    >>> counts = cell_counts(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 1]), num_groups=2, num_classes=2)
    >>> counts.tolist()
    [[2, 1], [0, 2]]
    >>> reweighing_weights(counts).round(decimals=3).tolist()
    [[0.6, 1.8], [1.0, 0.6]]
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["cell_counts", "reweighing_weights"]


def cell_counts(groups: Tensor, labels: Tensor, *, num_groups: int, num_classes: int) -> Tensor:
    """Count the examples of each group and label.

    Args:
        groups: from 0, shape ``(N,)``.
        labels: from 0, shape ``(N,)``.
        num_groups: how many groups there are.
        num_classes: how many labels there are.

    Returns:
        Shape ``(num_groups, num_classes)``, int64.

    Raises:
        ConfigurationError: lengths differ, or a number is out of range.
    """
    positive_int(num_groups=num_groups)
    positive_int(num_classes=num_classes)
    if groups.shape != labels.shape or groups.dim() != 1:
        raise ConfigurationError(
            f"groups and labels must be one number per example, got shapes {tuple(groups.shape)} and "
            f"{tuple(labels.shape)}"
        )
    for name, numbers, limit in (("groups", groups, num_groups), ("labels", labels, num_classes)):
        if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < limit:
            raise ConfigurationError(
                f"{name} must be numbered from 0 to {limit - 1}, got {int(numbers.min())} to {int(numbers.max())}"
            )
    cells = groups.long() * num_classes + labels.long()
    return torch.bincount(cells, minlength=num_groups * num_classes).view(num_groups, num_classes)


def reweighing_weights(counts: Tensor) -> Tensor:
    """Return the weight of an example of each group and label.

    Args:
        counts: number of examples of each, shape ``(num_groups, num_classes)``; noisy ones will do. A negative one is
            taken for 0.

    Returns:
        The same shape, float64: ``n_s n_y / (n n_sy)``, and 1 for a pair that does not occur.

    Raises:
        ConfigurationError: not a table of finite numbers, or nothing was counted.

    Example:
        >>> reweighing_weights(torch.tensor([[30, 10], [10, 30]])).round(decimals=3).tolist()
        [[0.667, 2.0], [2.0, 0.667]]
    """
    if counts.dim() != 2 or not bool(counts.double().isfinite().all()) or not bool((counts > 0).any()):
        raise ConfigurationError(
            "counts must be a table of finite numbers, one row per group and one column per label, with a positive "
            f"one, got {counts.tolist()}"
        )
    table = counts.double().clamp_min(0)
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    return torch.where(table > 0, expected / table.clamp_min(torch.finfo(torch.float64).tiny), torch.ones_like(table))
