"""Group fairness as torchmetrics metrics: state for each group, added up over batches and processes.

Example:
    >>> import torch
    >>> metric = GroupMetrics(2)
    >>> metric.update(torch.tensor([0.9, 0.2, 0.8, 0.6]), torch.tensor([1, 0, 0, 1]), torch.tensor([0, 0, 1, 1]))
    >>> figures = metric.compute()
    >>> figures["accuracy"].tolist(), figures["auroc"].tolist()
    ([1.0, 0.5], [1.0, 0.0])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lightning_privacy._validate import non_negative_int, one_of, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.confusion import group_confusion, intersect
from lightning_privacy.fairness.disparities import CRITERIA, METHODS
from lightning_privacy.fairness.predictions import Predictions, read_predictions
from lightning_privacy.fairness.sample import GroupSample

__all__ = ["GroupDisparity", "GroupMetrics"]


class GroupMetrics(Metric):
    """The figures of each group, from its size over accuracy, rates and precision to AUROC, log-loss and calibration.

    Counts are exact sums of whole numbers. With ``scores=True`` the probabilities, labels and groups of all rows are
    kept, 20 bytes a row for two classes, so that the AUROC is exact; they are gathered from all processes when the
    metric is computed.

    Args:
        num_groups: number of groups; with several attributes the number of each, and a group is then an intersection
            of them: ``update`` takes one column for each attribute.
        num_classes: number of classes.
        names: of the attributes, where there are several; used in the names of the figures.
        positive_class: with more than two classes, the one to take against the rest. By default rates have one value
            for each class.
        scores: whether to keep probabilities for AUROC, log-loss and calibration error.
        logits: whether floating-point predictions are logits. By default they are probabilities.
        threshold: from which probability on class 1 is predicted, where predictions are probabilities of class 1.
        calibration_bins: bins of the calibration error.
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ConfigurationError: an argument is out of range; in ``update``, predictions, labels or groups are.

    Example:
        >>> metric = GroupMetrics((2, 3), names=("sex", "race"), scores=False)
        >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), torch.tensor([[0, 2], [1, 0]]))
        >>> metric.compute()["race/tpr"].tolist()
        [0.0, nan, 1.0]
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    counts: Tensor
    kept_scores: list[Tensor] | Tensor
    kept_target: list[Tensor] | Tensor
    kept_groups: list[Tensor] | Tensor

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        num_classes: int = 2,
        names: Sequence[str] | None = None,
        positive_class: int | None = None,
        scores: bool = True,
        logits: bool = False,
        threshold: float = 0.5,
        calibration_bins: int = 15,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sizes = (num_groups,) if isinstance(num_groups, int) else tuple(num_groups)
        if not sizes:
            raise ConfigurationError("num_groups must be a whole number >= 1, or one for each attribute, got none")
        self.sizes = tuple(positive_int(num_groups=size) for size in sizes)
        self.names = tuple(f"attribute_{i}" for i in range(len(sizes))) if names is None else tuple(names)
        if len(set(self.names)) != len(self.sizes) or len(self.names) != len(self.sizes):
            raise ConfigurationError(f"names must be one name for each of {len(self.sizes)} attributes, got {names!r}")
        self.num_classes = positive_int(num_classes=num_classes)
        if self.num_classes < 2:
            raise ConfigurationError(f"num_classes must be a whole number >= 2, got {num_classes!r}")
        if positive_class is not None and non_negative_int(positive_class=positive_class) >= self.num_classes:
            raise ConfigurationError(f"positive_class must be below num_classes={num_classes}, got {positive_class!r}")
        self.positive_class = positive_class
        self.scores = scores
        self.logits = logits
        self.threshold = threshold
        self.calibration_bins = positive_int(calibration_bins=calibration_bins)
        cells = math.prod(self.sizes)
        empty = torch.zeros(0, dtype=torch.int64)
        zeros = group_confusion(empty, empty, empty, num_groups=cells, num_classes=self.num_classes)
        self.add_state("counts", zeros, dist_reduce_fx="sum")
        if scores:
            for name in ("kept_scores", "kept_target", "kept_groups"):
                self.add_state(name, [], dist_reduce_fx="cat")

    @override
    def update(self, preds: Tensor | Predictions, target: Tensor, groups: Tensor) -> None:
        """Add a batch, which need not have a row of every group.

        Args:
            preds: classes, whole numbers of shape ``(N,)``; probabilities (or logits) of class 1, floating point of
                shape ``(N,)``; or those of every class, shape ``(N, C)``.
            target: class of each row, shape ``(N,)`` or ``(N, 1)``.
            groups: group of each row, shape ``(N,)``; or one column for each attribute, shape ``(N, A)``.
        """
        if not isinstance(preds, Predictions):
            kind = "logits" if self.logits else "probs"
            preds = read_predictions(preds, kind=kind if preds.is_floating_point() else "preds")
        labels = preds.labels(self.num_classes, self.threshold)
        target = target.squeeze(1) if target.dim() == 2 and target.shape[1] == 1 else target
        cells = intersect(groups, self.sizes, None if len(self.sizes) == 1 else self.names)
        scores = preds.scores(self.num_classes).float() if self.scores else None  # refused before anything is counted
        self.counts += group_confusion(
            cells, target, labels, num_groups=math.prod(self.sizes), num_classes=self.num_classes
        )
        if scores is not None:
            self._keep(scores, target.long(), cells)

    def _keep(self, scores: Tensor, target: Tensor, cells: Tensor) -> None:
        columns = (self.kept_scores, scores), (self.kept_target, target), (self.kept_groups, cells)
        for kept, values in columns:
            if isinstance(kept, list):
                kept.append(values.to(self.device))

    @override
    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any | None = None,
        should_sync: bool = True,
        distributed_available: Callable[..., Any] | None = None,
    ) -> None:
        """Gather the state of all processes; one that has no row yet takes part with none."""
        if self.scores and isinstance(self.kept_scores, list) and not self.kept_scores:
            # What torchmetrics would send for an empty list has a shape and a type of its own.
            width = (0,) if self.num_classes == 2 else (0, self.num_classes)
            self._keep(torch.zeros(width), *(torch.zeros(0, dtype=torch.int64) for _ in range(2)))
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def sample(self) -> GroupSample:
        """What was added so far, in this process; within :meth:`sync_context`, in all of them."""
        if not self.scores or self.num_rows == 0:
            return GroupSample(self.counts)
        return GroupSample(
            self.counts, dim_zero_cat(self.kept_scores), dim_zero_cat(self.kept_target), dim_zero_cat(self.kept_groups)
        )

    @property
    def num_rows(self) -> int:
        """Rows added so far."""
        return int(self.counts.sum())

    def views(self) -> dict[str, GroupSample]:
        """The sample by attribute, and with several by their intersections too; by name."""
        sample = self.sample()
        if len(self.sizes) == 1:
            return {self.names[0]: sample}
        views = {name: sample.attribute(self.sizes, position) for position, name in enumerate(self.names)}
        return views | {" x ".join(self.names): sample}

    @override
    def compute(self) -> dict[str, Tensor]:
        """The figures of each group.

        Returns:
            By name, each of shape ``(G,)``, or ``(G, C)`` where there is one for each class; NaN where undefined. With
            several attributes the names are ``"<attribute>/<figure>"``, and those of their intersections
            ``"<attribute> x <attribute>/<figure>"``.
        """
        found: dict[str, Tensor] = {}
        for name, view in self.views().items():
            figures = view.figures(positive_class=self.positive_class, calibration_bins=self.calibration_bins)
            prefix = "" if len(self.sizes) == 1 else f"{name}/"
            found |= {f"{prefix}{figure}": self._here(values) for figure, values in figures.items()}
        return found

    def _here(self, values: Tensor) -> Tensor:
        # Apple's devices have no float64.
        return (values.float() if self.device.type == "mps" else values).to(self.device)


class GroupDisparity(GroupMetrics):
    """How far the groups are apart in one criterion of fairness: a number that can be logged and monitored.

    Args:
        num_groups: as for :class:`GroupMetrics`; with several attributes their intersections are compared.
        criterion: ``"demographic_parity"``, ``"equal_opportunity"``, ``"equalized_odds"``, ``"predictive_parity"`` or
            ``"accuracy_parity"``; see :mod:`lightning_privacy.fairness.disparities`.
        kind: ``"difference"``, 0 where the groups are equal, or ``"ratio"``, 1 there.
        method: ``"between_groups"`` or ``"to_overall"``.
        min_group_size: groups with fewer rows are left out.
        **kwargs: of :class:`GroupMetrics`, except ``scores``.

    Raises:
        ConfigurationError: an argument is out of range.

    Example:
        >>> metric = GroupDisparity(2, criterion="demographic_parity")
        >>> metric(torch.tensor([1, 0, 1, 1]), torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0, 1, 1])).item()
        0.5
    """

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        criterion: str,
        kind: str = "difference",
        method: str = "between_groups",
        min_group_size: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_groups, scores=False, **kwargs)
        one_of(tuple(CRITERIA), criterion=criterion)
        one_of(("difference", "ratio"), kind=kind)
        one_of(METHODS, method=method)
        self.figure = f"{criterion}_{kind}"
        self.method = method
        self.min_group_size = non_negative_int(min_group_size=min_group_size)

    @override
    def compute(self) -> Tensor:  # type: ignore[override] # a single number, as its users expect of a metric
        """The difference or ratio, shape ``()``; NaN where fewer than two groups are defined."""
        found = self.sample().disparities(
            positive_class=self.positive_class, method=self.method, min_group_size=self.min_group_size
        )
        return self._here(found[self.figure])
