"""Mean negative log-likelihood of each group.

Example:
    >>> import torch
    >>> probs, target = torch.tensor([0.5, 0.25]), torch.tensor([1, 0])
    >>> group_log_loss(probs, target, torch.tensor([0, 1]), num_groups=3)
    tensor([0.6931, 0.2877,    nan], dtype=torch.float64)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_privacy.fairness.confusion import check_ids

__all__ = ["group_log_loss", "row_losses"]


def row_losses(probs: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of each row, in nats.

    Args:
        probs: probability of class 1, shape ``(N,)``, or of every class, shape ``(N, C)``.
        target: class of each row, shape ``(N,)``.

    Returns:
        Shape ``(N,)``, float64. A probability below the smallest step above 0 of its type (1.2e-7 for float32), or as
        close to 1, is moved there, as in scikit-learn: a single row must not make the mean infinite.

    Raises:
        ConfigurationError: a class is out of range.
    """
    classes = probs.shape[1] if probs.dim() == 2 else 2
    target = check_ids(target, classes, what="target", limit_name="num_classes")
    smallest = torch.finfo(probs.dtype).eps
    chances = probs.to(torch.float64).clamp(smallest, 1.0 - smallest)
    if probs.dim() == 2:
        return -chances.gather(1, target.unsqueeze(1)).squeeze(1).log()
    return -torch.where(target == 1, chances, 1.0 - chances).log()


def group_log_loss(
    probs: Tensor, target: Tensor, groups: Tensor, *, num_groups: int, weights: Tensor | None = None
) -> Tensor:
    """Mean negative log-likelihood of each group, in nats.

    Args:
        probs: probability of class 1, shape ``(N,)``, or of every class, shape ``(N, C)``.
        target: class of each row, shape ``(N,)``.
        groups: group of each row, in 0 to ``num_groups - 1``, shape ``(N,)``.
        num_groups: number of groups G.
        weights: how often each row counts, shape ``(N,)``; once by default.

    Returns:
        Shape ``(G,)``, float64; NaN for a group without rows.

    Raises:
        ConfigurationError: a class or group is out of range.
    """
    groups = check_ids(groups, num_groups, what="groups", limit_name="num_groups")
    losses = row_losses(probs, target)
    weight = torch.ones_like(losses) if weights is None else weights.to(torch.float64)
    total = torch.bincount(groups, weights=weight * losses, minlength=num_groups)
    return total / torch.bincount(groups, weights=weight, minlength=num_groups)
