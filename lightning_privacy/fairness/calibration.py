"""Expected calibration error of each group: how far predicted probabilities are from observed frequencies.

Probabilities are sorted into ``bins`` of equal width, [0, 1/bins), [1/bins, 2/bins) up to the last, which includes 1;
the error is the mean over the bins, weighted by their rows, of the absolute difference between mean probability and
observed frequency (Naeini et al. 2015; Guo et al. 2017, equation 3). With two classes the probability is that of class
1 and the frequency that of label 1; with more it is that of the predicted class and how often it is right. torchmetrics
does the same, but gives a probability of exactly 1 a bin of its own.

The figure grows with fewer rows, also for a perfectly calibrated model: compare groups of very different size by their
intervals.

Example:
    >>> import torch
    >>> probs, target = torch.tensor([0.9, 0.9, 0.9, 0.1]), torch.tensor([1, 1, 0, 0])
    >>> group_calibration_error(probs, target, torch.tensor([0, 0, 0, 0]), num_groups=1)
    tensor([0.2000], dtype=torch.float64)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.fairness.confusion import check_ids

__all__ = ["BinnedProbabilities", "group_calibration_error"]


class BinnedProbabilities:
    """Rows put into bins once, so that the error can be computed for many weights.

    Args:
        probs: of class 1, shape ``(N,)``, or of every class, shape ``(N, C)``.
        target: class of each row, shape ``(N,)``.
        groups: in 0 to ``num_groups - 1``, shape ``(N,)``.
        num_groups: number of groups G.
        bins: number of bins of equal width.

    Raises:
        ConfigurationError: ``bins`` is not a whole number above 0, or a class or group is out of range.

    Example:
        >>> one = torch.tensor([1])
        >>> BinnedProbabilities(torch.tensor([0.75]), one, 0 * one, num_groups=1).error()
        tensor([0.2500], dtype=torch.float64)
    """

    def __init__(self, probs: Tensor, target: Tensor, groups: Tensor, *, num_groups: int, bins: int = 15) -> None:
        bins = positive_int(bins=bins)
        target = check_ids(target, probs.shape[1] if probs.dim() == 2 else 2, what="target", limit_name="num_classes")
        groups = check_ids(groups, num_groups, what="groups", limit_name="num_groups")
        if probs.dim() == 2:
            confidence, predicted = probs.max(dim=1)
            right = (predicted == target).to(torch.float64)
        else:
            confidence, right = probs, target.to(torch.float64)
        confidence = confidence.to(torch.float64)
        place = (confidence * bins).long().clamp(0, bins - 1)
        self._cell = groups * bins + place
        self._excess = right - confidence
        self._shape = (num_groups, bins)

    def error(self, weights: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """The error of each group.

        Args:
            weights: how often each row counts, in the order the rows were given, shape ``(N,)``; once by default.
            rows: sum of the weights of each group, shape ``(G,)``, where it is known already.

        Returns:
            Shape ``(G,)``, float64; NaN for a group whose rows weigh nothing.
        """
        cells = self._shape[0] * self._shape[1]
        weight = torch.ones_like(self._excess) if weights is None else weights.to(torch.float64)
        excess = torch.bincount(self._cell, weights=weight * self._excess, minlength=cells).view(self._shape)
        if rows is None:
            rows = torch.bincount(self._cell, weights=weight, minlength=cells).view(self._shape).sum(dim=1)
        return excess.abs().sum(dim=1) / rows


def group_calibration_error(
    probs: Tensor, target: Tensor, groups: Tensor, *, num_groups: int, bins: int = 15, weights: Tensor | None = None
) -> Tensor:
    """Expected calibration error of each group.

    Args:
        probs: probability of class 1, shape ``(N,)``, or of every class, shape ``(N, C)``.
        target: class of each row, shape ``(N,)``.
        groups: group of each row, in 0 to ``num_groups - 1``, shape ``(N,)``.
        num_groups: number of groups G.
        bins: number of bins of equal width.
        weights: how often each row counts, shape ``(N,)``; once by default.

    Returns:
        Shape ``(G,)``, float64, in 0 to 1; NaN for a group without rows.

    Raises:
        ConfigurationError: ``bins`` is not a whole number above 0, or a class or group is out of range.
    """
    return BinnedProbabilities(probs, target, groups, num_groups=num_groups, bins=bins).error(weights)
