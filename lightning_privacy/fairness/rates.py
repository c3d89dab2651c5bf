"""Figures of a group that are functions of its counts of label and prediction: rates, accuracy, precision.

A figure whose denominator is zero is undefined and comes out as NaN: the true positive rate of a group without
positives is unknown, not zero. (scikit-learn and fairlearn put 0 there.)

Example:
    >>> import torch
    >>> counts = torch.tensor([[[6, 2], [1, 3]], [[4, 0], [0, 0]]])  # group, label, prediction
    >>> rates = group_rates(counts)
    >>> rates["tpr"].tolist(), rates["selection_rate"][0].item()
    ([0.75, nan], 0.4166666666666667)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError

__all__ = ["RATES", "group_rates", "one_against_rest"]

RATES = ("n", "base_rate", "selection_rate", "accuracy", "tpr", "fpr", "tnr", "fnr", "precision")
"""Names of the figures of :func:`group_rates`, in the order of tables."""


def one_against_rest(counts: Tensor, positive_class: int) -> Tensor:
    """Join all classes but one.

    Args:
        counts: shape ``(..., C, C)``: true class, predicted class.
        positive_class: the class that becomes class 1; all others become class 0.

    Returns:
        Shape ``(..., 2, 2)``.

    Raises:
        ConfigurationError: there is no such class.

    Example:
        >>> one_against_rest(torch.tensor([[5, 1, 0], [2, 3, 0], [0, 4, 1]]), 1)
        tensor([[6, 5],
                [2, 3]])
    """
    classes = counts.shape[-1]
    if isinstance(positive_class, bool) or not 0 <= positive_class < classes:
        raise ConfigurationError(f"positive_class must be in 0 to {classes - 1}, got {positive_class!r}")
    tp, fp, tn, fn = (part[..., positive_class] for part in _parts(counts))
    return torch.stack([torch.stack([tn, fp], dim=-1), torch.stack([fn, tp], dim=-1)], dim=-2)


def _parts(counts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """True positives, false positives, true negatives, false negatives of each class, shape ``(..., C)``."""
    tp = counts.diagonal(dim1=-2, dim2=-1)
    fp, fn = counts.sum(dim=-2) - tp, counts.sum(dim=-1) - tp
    return tp, fp, counts.sum(dim=(-2, -1)).unsqueeze(-1) - tp - fp - fn, fn


def group_rates(counts: Tensor, positive_class: int | None = None) -> dict[str, Tensor]:
    """Rates, accuracy and precision of each group.

    With two classes, class 1 is the positive one. With more, every class is taken against the rest in turn, which adds
    a dimension to all figures but ``n`` and ``accuracy``; or one class is, when ``positive_class`` names it.

    Args:
        counts: rows of each group, true class and predicted class, shape ``(..., G, C, C)``; they need not be whole.
        positive_class: the class to take against the rest; ``accuracy`` stays that over all classes.

    Returns:
        Figures of shape ``(..., G)``, or ``(..., G, C)`` where there is one for each class, float64, by the names in
        ``RATES``: ``n``, the number of rows; ``base_rate``, the share of positives; ``selection_rate``, the share of
        predicted positives; ``tpr``, ``fpr``, ``tnr``, ``fnr`` and ``precision``. What is undefined is NaN.

    Raises:
        ConfigurationError: the shape is wrong, or there is no such class.
    """
    if counts.dim() < 3 or counts.shape[-1] != counts.shape[-2] or counts.shape[-1] < 2:
        raise ConfigurationError(
            f"counts must have shape (..., groups, classes, classes), two classes at least, got {tuple(counts.shape)}"
        )
    table = counts.to(torch.float64)
    n = table.sum(dim=(-2, -1))
    accuracy = table.diagonal(dim1=-2, dim2=-1).sum(dim=-1) / n
    if positive_class is None and counts.shape[-1] == 2:
        positive_class = 1
    if positive_class is None:
        tp, fp, tn, fn = _parts(table)
        rows = n.unsqueeze(-1)
    else:
        tp, fp, tn, fn = (part[..., 1] for part in _parts(one_against_rest(table, positive_class)))
        rows = n
    positives, negatives, selected = tp + fn, fp + tn, tp + fp
    return {
        "n": n,
        "base_rate": positives / rows,
        "selection_rate": selected / rows,
        "accuracy": accuracy,
        "tpr": tp / positives,
        "fpr": fp / negatives,
        "tnr": tn / negatives,
        "fnr": fn / positives,
        "precision": tp / selected,
    }
