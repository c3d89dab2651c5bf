"""How a model treats groups of people: figures for each group, how far they are apart, and intervals.

Example:
    >>> import torch
    >>> from lightning_privacy.fairness import GroupMetrics
    >>> metric = GroupMetrics(2, scores=False)
    >>> metric.update(torch.tensor([1, 0, 1]), torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]))
    >>> metric.compute()["tpr"].tolist()
    [0.5, nan]
"""

from __future__ import annotations

from lightning_privacy.fairness.adversarial import Adversary, debiased_gradient, reverse_gradient
from lightning_privacy.fairness.auroc import group_auroc
from lightning_privacy.fairness.batch_groups import groups_of
from lightning_privacy.fairness.bootstrap import interval, resample_counts, resample_rows
from lightning_privacy.fairness.calibration import group_calibration_error
from lightning_privacy.fairness.confusion import attribute_groups, group_confusion, intersect, marginal_counts
from lightning_privacy.fairness.disparities import difference, disparities, ratio, worst_group
from lightning_privacy.fairness.group_dro import GroupDROLoss
from lightning_privacy.fairness.log_loss import group_log_loss
from lightning_privacy.fairness.metrics import GroupDisparity, GroupMetrics
from lightning_privacy.fairness.rates import group_rates, one_against_rest
from lightning_privacy.fairness.reweighing import cell_counts, reweighing_weights
from lightning_privacy.fairness.sample import GroupSample, Intervals
from lightning_privacy.fairness.thresholds import GroupThresholds, scores_of

__all__ = [
    "Adversary",
    "GroupDROLoss",
    "GroupDisparity",
    "GroupMetrics",
    "GroupSample",
    "GroupThresholds",
    "Intervals",
    "attribute_groups",
    "cell_counts",
    "debiased_gradient",
    "difference",
    "disparities",
    "group_auroc",
    "group_calibration_error",
    "group_confusion",
    "group_log_loss",
    "group_rates",
    "groups_of",
    "intersect",
    "interval",
    "marginal_counts",
    "one_against_rest",
    "ratio",
    "resample_counts",
    "resample_rows",
    "reverse_gradient",
    "reweighing_weights",
    "scores_of",
    "worst_group",
]
