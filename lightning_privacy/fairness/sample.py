"""What is known of a classifier on the groups of some data, and the figures that follow from it.

Example:
    >>> import torch
    >>> sample = GroupSample.of_rows(
    ...     preds=torch.tensor([1, 0, 1, 1]), target=torch.tensor([1, 0, 0, 1]), groups=torch.tensor([0, 0, 1, 1]),
    ...     num_groups=2, num_classes=2,
    ... )
    >>> sample.figures()["accuracy"].tolist(), sample.disparities()["demographic_parity_difference"].item()
    ([1.0, 0.5], 0.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.fairness.auroc import RankedScores, score_order
from lightning_privacy.fairness.bootstrap import interval, resample_counts, resample_rows
from lightning_privacy.fairness.calibration import BinnedProbabilities
from lightning_privacy.fairness.confusion import attribute_groups, group_confusion, marginal_counts
from lightning_privacy.fairness.disparities import disparities
from lightning_privacy.fairness.log_loss import row_losses
from lightning_privacy.fairness.rates import RATES, group_rates

__all__ = ["FIGURES", "SCORE_FIGURES", "GroupSample", "Intervals"]

SCORE_FIGURES = ("auroc", "log_loss", "calibration_error")
"""Figures that need the predicted probabilities of the rows."""

FIGURES = (*RATES, *SCORE_FIGURES)
"""All figures of a group, in the order of tables."""


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals.

    Attributes:
        figures: of the groups' figures, each of shape ``(2, G)``, or ``(2, G, C)``.
        disparities: of the disparities, each of shape ``(2,)``.
    """

    figures: dict[str, Tensor]
    disparities: dict[str, Tensor]


@dataclass(frozen=True)
class GroupSample:
    """Counts of group, label and prediction; and where they are at hand, the rows with their probabilities.

    Attributes:
        counts: rows of each group, true class and predicted class, shape ``(G, C, C)``.
        probs: probability of class 1, shape ``(N,)``, or of every class, shape ``(N, C)``; None for counts alone.
        target: class of each row, shape ``(N,)``, where there are probabilities.
        groups: group of each row, shape ``(N,)``, where there are probabilities.
    """

    counts: Tensor
    probs: Tensor | None = None
    target: Tensor | None = None
    groups: Tensor | None = None

    @classmethod
    def of_rows(
        cls,
        *,
        preds: Tensor,
        target: Tensor,
        groups: Tensor,
        num_groups: int,
        num_classes: int,
        probs: Tensor | None = None,
    ) -> GroupSample:
        """Make one from rows.

        Args:
            preds: predicted class of each row, shape ``(N,)``.
            target: true class of each row, shape ``(N,)``.
            groups: group of each row, shape ``(N,)``.
            num_groups: number of groups G.
            num_classes: number of classes C.
            probs: probability of class 1, shape ``(N,)``, or of every class, shape ``(N, C)``.

        Raises:
            ConfigurationError: shapes differ, or a class or group is out of range.
        """
        counts = group_confusion(groups, target, preds, num_groups=num_groups, num_classes=num_classes)
        return cls(counts) if probs is None else cls(counts, probs, target, groups)

    @property
    def num_groups(self) -> int:
        """Number of groups, those without a row included."""
        return self.counts.shape[0]

    def overall(self) -> GroupSample:
        """All rows as one group."""
        groups = None if self.groups is None else torch.zeros_like(self.groups)
        return GroupSample(self.counts.sum(dim=0, keepdim=True), self.probs, self.target, groups)

    def attribute(self, sizes: Sequence[int], position: int) -> GroupSample:
        """The groups of one attribute, where the groups are the intersections of several.

        Args:
            sizes: number of groups of each attribute; see :func:`~lightning_privacy.fairness.intersect`.
            position: which of them.
        """
        groups = None if self.groups is None else attribute_groups(self.groups, sizes, position)
        return GroupSample(marginal_counts(self.counts, sizes, position), self.probs, self.target, groups)

    def figures(self, *, positive_class: int | None = None, calibration_bins: int = 15) -> dict[str, Tensor]:
        """The figures of each group.

        Args:
            positive_class: with more than two classes, the one to take against the rest; see
                :func:`~lightning_privacy.fairness.group_rates`. The log-loss and the calibration error are those of
                all classes even then.
            calibration_bins: bins of the calibration error.

        Returns:
            By name, in the order of ``FIGURES``, each of shape ``(G,)`` (or ``(G, C)``, one for each class), float64,
            on the CPU. Without probabilities those in ``SCORE_FIGURES`` are not among them.

        Raises:
            ConfigurationError: there is no such class, or ``calibration_bins`` is out of range.
        """
        figures = group_rates(self.counts.cpu(), positive_class)
        rows = self._scored(positive_class, calibration_bins)
        return figures if rows is None else figures | rows.figures()

    def _scored(self, positive_class: int | None, calibration_bins: int) -> _ScoredRows | None:
        if self.probs is None or self.target is None or self.groups is None:
            return None
        rows = self.probs.cpu(), self.target.cpu(), self.groups.cpu()
        return _ScoredRows(rows, self.num_groups, positive_class, calibration_bins)

    def judged(self, min_group_size: int = 1) -> Tensor:
        """Which groups have at least so many rows, shape ``(G,)``, bool, on the CPU."""
        least = non_negative_int(min_group_size=min_group_size)
        return self.counts.cpu().sum(dim=(-2, -1)) >= least

    def disparities(
        self, *, positive_class: int | None = None, method: str = "between_groups", min_group_size: int = 1
    ) -> dict[str, Tensor]:
        """How far the groups are apart, as :func:`~lightning_privacy.fairness.disparities` says.

        Args:
            positive_class: with more than two classes, the one to take against the rest; otherwise the worst class
                counts.
            method: ``"between_groups"`` or ``"to_overall"``.
            min_group_size: groups with fewer rows are left out; they still count in the overall figure.

        Returns:
            By name, numbers of shape ``()``, float64, on the CPU.

        Raises:
            ConfigurationError: an argument is out of range.
        """
        return _disparities_of(self.counts.cpu(), positive_class, method, self.judged(min_group_size))

    def intervals(
        self,
        *,
        replicates: int = 200,
        confidence: float = 0.95,
        seed: int = 0,
        positive_class: int | None = None,
        method: str = "between_groups",
        min_group_size: int = 1,
        calibration_bins: int = 15,
    ) -> Intervals:
        """Percentile intervals by the bootstrap; the global random state is neither used nor changed.

        Args:
            replicates: bootstrap samples.
            confidence: share of the replicates within an interval.
            seed: of the draws.
            positive_class: as for :meth:`figures`.
            method: as for :meth:`disparities`.
            min_group_size: as for :meth:`disparities`; which groups are judged is not drawn anew.
            calibration_bins: as for :meth:`figures`.

        Raises:
            ConfigurationError: an argument is out of range.
        """
        replicates = positive_int(replicates=replicates)
        generator = torch.Generator().manual_seed(non_negative_int(seed=seed, bits=63))
        drawn = resample_counts(self.counts, replicates, generator=generator)
        found = group_rates(drawn, positive_class)
        rows = self._scored(positive_class, calibration_bins)
        if rows is not None and rows.count:
            scored = [rows.figures(weights) for weights in resample_rows(rows.count, replicates, generator=generator)]
            found |= {name: torch.stack([each[name] for each in scored]) for name in SCORE_FIGURES}
        apart = _disparities_of(drawn, positive_class, method, self.judged(min_group_size))
        return Intervals(
            figures={name: interval(values, confidence=confidence) for name, values in found.items()},
            disparities={name: interval(values, confidence=confidence) for name, values in apart.items()},
        )


def _disparities_of(counts: Tensor, positive_class: int | None, method: str, judged: Tensor) -> dict[str, Tensor]:
    rates = group_rates(counts, positive_class)
    overall = group_rates(counts.sum(dim=-3, keepdim=True), positive_class)
    return disparities(rates, overall, method=method, judged=judged)


class _ScoredRows:
    """The rows of a sample, sorted and binned once, for figures under any weights, which come in its own order."""

    def __init__(
        self, rows: tuple[Tensor, Tensor, Tensor], num_groups: int, positive_class: int | None, bins: int
    ) -> None:
        probs, target, groups = rows
        # Rows drawn at random have no order of their own, so they may as well come sorted for the first AUROC.
        first = probs if probs.dim() == 1 else probs[:, 1 if positive_class is None else positive_class]
        order = score_order(first, groups)
        probs, target, groups = probs[order], target[order], groups[order]
        self._sizes: list[int] = torch.bincount(groups, minlength=num_groups).tolist()
        self.count = len(groups)
        self._losses = row_losses(probs, target)
        self._bins = BinnedProbabilities(probs, target, groups, num_groups=num_groups, bins=bins)
        if probs.dim() == 1:
            columns = [(probs, target)]
        elif positive_class is not None or probs.shape[1] == 2:
            label = 1 if positive_class is None else positive_class
            columns = [(probs[:, label], target == label)]
        else:
            columns = [(probs[:, label], target == label) for label in range(probs.shape[1])]
        self._ranked = [RankedScores(scores, right, groups, num_groups=num_groups) for scores, right in columns]

    def figures(self, weights: Tensor | None = None) -> dict[str, Tensor]:
        weight = torch.ones_like(self._losses) if weights is None else weights.to(torch.float64)
        # Sorted by group, so that sums over a group are products of slices.
        parts = list(zip(torch.split(weight, self._sizes), torch.split(self._losses, self._sizes), strict=True))
        rows = torch.stack([part.sum() for part, _ in parts])
        return {
            "auroc": torch.stack([ranked.auroc(weight) for ranked in self._ranked]).mean(dim=0),
            "log_loss": torch.stack([torch.dot(part, losses) for part, losses in parts]) / rows,
            "calibration_error": self._bins.error(weight, rows),
        }
