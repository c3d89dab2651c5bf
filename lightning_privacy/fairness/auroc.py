"""Area under the ROC curve of each group, exactly, ties counted half.

It is the probability that a random positive of the group scores higher than a random negative of the same group
(Hanley and McNeil 1982). Without positives or without negatives there is nothing to compare, and it is undefined.

Example:
    >>> import torch
    >>> scores = torch.tensor([0.9, 0.4, 0.4, 0.2, 0.7])
    >>> group_auroc(scores, torch.tensor([1, 1, 0, 0, 1]), torch.tensor([0, 0, 0, 0, 1]), num_groups=2)
    tensor([0.8750,    nan], dtype=torch.float64)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.confusion import check_ids

__all__ = ["RankedScores", "group_auroc", "score_order"]


def score_order(scores: Tensor, groups: Tensor) -> Tensor:
    """The order of rows by group, and within a group by score, shape ``(N,)``; equal rows stay as they are."""
    by_score = torch.argsort(scores, stable=True)
    return by_score[torch.argsort(groups[by_score], stable=True)]


class RankedScores:
    """Rows sorted by group and score once, so that the area can be computed for many weights.

    Args:
        scores: of class 1, higher for a more likely positive, shape ``(N,)``.
        target: 0 or 1, shape ``(N,)``.
        groups: in 0 to ``num_groups - 1``, shape ``(N,)``.
        num_groups: number of groups G.

    Raises:
        ConfigurationError: a score is NaN, a label is not 0 or 1, or a group is out of range.

    Example:
        >>> ranked = RankedScores(torch.tensor([0.2, 0.8]), torch.tensor([0, 1]), torch.tensor([0, 0]), num_groups=1)
        >>> ranked.auroc()
        tensor([1.], dtype=torch.float64)
    """

    def __init__(self, scores: Tensor, target: Tensor, groups: Tensor, *, num_groups: int) -> None:
        if bool(scores.isnan().any()):
            raise ConfigurationError("scores must not be NaN: the model gave NaN for at least one row")
        labels = check_ids(target, 2, what="target", limit_name="num_classes")
        groups = check_ids(groups, num_groups, what="groups", limit_name="num_groups")
        order = score_order(scores, groups)
        scores, groups = scores[order], groups[order]
        # Rows that come in order already, as a caller with many weights can see to, save a look-up for each of them.
        self._order = None if bool((order.diff() == 1).all()) else order
        self._negative = (labels[order] == 0).to(torch.float64)
        new = torch.ones(len(order), dtype=torch.bool, device=order.device)
        new[1:] = (scores[1:] != scores[:-1]) | (groups[1:] != groups[:-1])
        starts = torch.nonzero(new).flatten()
        # Sums of runs of equal scores are differences of cumulative sums at these places.
        self._bounds = torch.cat([starts, starts.new_tensor([len(order)])])
        sizes = torch.bincount(groups[starts], minlength=num_groups)
        self._group_bounds = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        self._one_each = len(starts) == len(order)

    def auroc(self, weights: Tensor | None = None) -> Tensor:
        """The area of each group.

        Args:
            weights: how often each row counts, in the order the rows were given, shape ``(N,)``; once by default.

        Returns:
            Shape ``(G,)``, float64; NaN for a group whose positives or negatives weigh nothing.
        """
        weight = torch.ones_like(self._negative) if weights is None else weights.to(torch.float64)
        if weights is not None and self._order is not None:
            weight = weight.index_select(0, self._order)
        zero = weight.new_zeros(1)
        negative = weight * self._negative
        below = torch.cat([zero, negative.cumsum(0)])
        if self._one_each:
            positive_of_run, negative_of_run = weight - negative, negative
            below = below[:-1]
        else:
            total = torch.cat([zero, weight.cumsum(0)]).index_select(0, self._bounds)
            below = below.index_select(0, self._bounds)
            negative_of_run = below.diff()
            positive_of_run = total.diff() - negative_of_run
            below = below[:-1]
        # Each positive beats the negatives below it (those of earlier groups are taken off at the end) and ties with
        # half of those of its run.
        wins = torch.cat([zero, (positive_of_run * (below + 0.5 * negative_of_run)).cumsum(0)])[self._group_bounds]
        positives = torch.cat([zero, positive_of_run.cumsum(0)])[self._group_bounds].diff()
        negatives_to = torch.cat([zero, negative_of_run.cumsum(0)])[self._group_bounds]
        negatives = negatives_to.diff()
        return (wins.diff() - positives * negatives_to[:-1]) / (positives * negatives)


def group_auroc(
    scores: Tensor, target: Tensor, groups: Tensor, *, num_groups: int, weights: Tensor | None = None
) -> Tensor:
    """Area under the ROC curve of each group; with several classes the mean over each against the rest.

    Args:
        scores: of class 1, shape ``(N,)``; or of every class, shape ``(N, C)``.
        target: class of each row, shape ``(N,)``.
        groups: group of each row, in 0 to ``num_groups - 1``, shape ``(N,)``.
        num_groups: number of groups G.
        weights: how often each row counts, shape ``(N,)``; once by default.

    Returns:
        Shape ``(G,)``, float64. NaN where a class has no row in the group, or all of them: with several classes the
        mean over the others would not be comparable between groups.

    Raises:
        ConfigurationError: a score is NaN, or a class or group is out of range.
    """
    if scores.dim() == 1:
        return RankedScores(scores, target, groups, num_groups=num_groups).auroc(weights)
    classes = scores.shape[1]
    target = check_ids(target, classes, what="target", limit_name="num_classes")
    areas = [
        RankedScores(scores[:, label], target == label, groups, num_groups=num_groups).auroc(weights)
        for label in range(classes)
    ]
    return torch.stack(areas).mean(dim=0)
