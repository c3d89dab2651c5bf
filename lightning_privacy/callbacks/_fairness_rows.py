"""The rows of one loader in one validation: predictions, labels and groups, kept until the end of the epoch.

Groups and classes that are not said beforehand are those that all processes met, so nothing is counted before the end.

Example:
    >>> import torch
    >>> from lightning_privacy.callbacks._fairness_alignment import RowOrder
    >>> from lightning_privacy.callbacks._fairness_attributes import attributes_of
    >>> from lightning_privacy.callbacks._processes import Processes
    >>> from lightning_privacy.fairness.predictions import Predictions
    >>> rows = Rows(attributes_of("sex"), RowOrder(None), num_classes=None, threshold=0.5)
    >>> rows.add(Predictions(probs=torch.tensor([0.9, 0.2])), torch.tensor([1, 0]), [["f", "m"]], rows.order.next(2))
    >>> gathered = rows.gather(Processes(count=1, rank=0), device="cpu")
    >>> gathered.names, gathered.views["sex"].figures()["accuracy"].tolist()
    ((('f', 'm'),), [1.0, 1.0])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_privacy.callbacks._fairness_alignment import RowOrder
from lightning_privacy.callbacks._fairness_attributes import Attribute, Vocabulary
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.metrics import GroupMetrics
from lightning_privacy.fairness.predictions import Predictions
from lightning_privacy.fairness.sample import GroupSample

__all__ = ["Gathered", "Rows"]


@dataclass(frozen=True)
class Gathered:
    """The rows of all processes.

    Attributes:
        names: Of the groups of each attribute.
        views: What is known by attribute, and by their intersections; by name.
        sizes: Number of groups of each attribute.
        left_out: Attributes that are not among the others, with the group that stands for a missing one, in which
            every row is: nothing is known of how the model treats their groups.
    """

    names: tuple[tuple[str, ...], ...]
    views: dict[str, GroupSample]
    sizes: tuple[int, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


class Rows:
    """Collects the rows one process sees.

    Args:
        attributes: Whose groups.
        order: Of the loader's rows.
        num_classes: Number of classes; None to find it out.
        threshold: Of the probability of class 1, where it is all that is given.
    """

    def __init__(
        self, attributes: Sequence[Attribute], order: RowOrder, *, num_classes: int | None, threshold: float
    ) -> None:
        self.order = order
        self._words = [Vocabulary(attribute) for attribute in attributes]
        self._num_classes = num_classes
        self._threshold = threshold
        self._predictions: list[Predictions] = []
        self._target: list[Tensor] = []
        self._groups: list[Tensor] = []

    def add(self, predictions: Predictions, target: Tensor, values: Sequence[Any], places: Tensor) -> None:
        """Add a batch; rows that another process has given are left out.

        Args:
            predictions: Of the batch.
            target: Its labels, shape ``(N,)``.
            values: For each attribute the values of the rows.
            places: Positions of the rows; see :class:`RowOrder`.

        Raises:
            ConfigurationError: The lengths differ, or a group is not known.
        """
        given = predictions.classes if predictions.probs is None else predictions.probs
        groups = [words.add(column) for words, column in zip(self._words, values, strict=True)]
        lengths = [0 if given is None else len(given), len(target), *map(len, groups)]
        if len(set(lengths)) != 1:
            names = ["predictions", "labels", *(f"groups of {words.attribute.name!r}" for words in self._words)]
            listed = ", ".join(f"{length} {name}" for length, name in zip(lengths, names, strict=True))
            raise ConfigurationError(f"predictions, labels and groups of a batch differ in number: {listed}")
        kept = ~self.order.repeated(places)
        self._predictions.append(_rows_of(predictions, kept))
        self._target.append(target[kept.to(target.device)])
        self._groups.append(torch.stack(groups, dim=1)[kept])

    def gather(self, processes: Processes, *, device: torch.device | str, leave_out: bool = True) -> Gathered | None:
        """Put together what all processes have; each of them must call this.

        Args:
            processes: Those that validate together.
            device: Where they can exchange tensors.
            leave_out: Leave out attributes of which nothing is known, which is to be seen from the rows.

        Returns:
            None when no process has a row.

        Raises:
            ConfigurationError: Predictions of the batches don't fit together, or a class is out of range.
        """
        facts = processes.gather(
            (
                [words.met for words in self._words],
                self._classes(),
                all(predictions.probs is not None for predictions in self._predictions),
                sum(map(len, self._target)),
                self._known(),
            )
        )
        if not sum(count for *_, count, _ in facts):
            return None
        kept = [at for at in range(len(self._words)) if not leave_out or any(known[at] for *_, known in facts)]
        left_out = {
            words.attribute.name: words.attribute.missing or ""
            for at, words in enumerate(self._words)
            if at not in kept
        }
        if not kept:
            return Gathered((), {}, (), left_out)
        merged = [self._words[at].merged([met[at] for met, *_ in facts]) for at in kept]
        sizes = tuple(len(names) for names, _ in merged)
        metric = GroupMetrics(
            sizes,
            names=tuple(self._words[at].attribute.name for at in kept),
            num_classes=self._num_classes or max(2, *(classes for _, classes, *_ in facts)),
            scores=all(scored for _, _, scored, *_ in facts),
            threshold=self._threshold,
        ).to(device)
        for predictions, target, groups in zip(self._predictions, self._target, self._groups, strict=True):
            columns = [table[groups[:, at]] for at, (_, table) in zip(kept, merged, strict=True)]
            metric.update(_on(predictions, device), target.to(device), torch.stack(columns, dim=1).to(device))
        with metric.sync_context():
            views = metric.views()
        return Gathered(names=tuple(names for names, _ in merged), views=views, sizes=sizes, left_out=left_out)

    def _known(self) -> list[bool]:
        """For each attribute, whether a row is in another group than the one that stands for a missing one."""
        found = []
        for position, words in enumerate(self._words):
            missing, names = words.attribute.missing, words.names
            number = names.index(missing) if missing is not None and missing in names else None
            columns = [groups[:, position] for groups in self._groups]
            found.append(
                any(bool((column != number).any()) for column in columns)
                if number is not None
                else bool(sum(map(len, columns)))
            )
        return found

    def _classes(self) -> int:
        """Number of classes, as far as this process can tell."""
        found = 0
        for predictions, target in zip(self._predictions, self._target, strict=True):
            if predictions.probs is not None and predictions.probs.dim() == 2:
                found = max(found, predictions.probs.shape[1])
            else:
                found = max(found, 2 if predictions.probs is not None else 0)
                for labels in (predictions.classes, target):
                    if predictions.probs is None and labels is not None and labels.numel():
                        found = max(found, int(labels.max()) + 1)
        return found


def _rows_of(predictions: Predictions, kept: Tensor) -> Predictions:
    probs, classes = (
        None if values is None else values[kept.to(values.device)]
        for values in (predictions.probs, predictions.classes)
    )
    return Predictions(probs, classes)


def _on(predictions: Predictions, device: torch.device | str) -> Predictions:
    probs, classes = (
        None if values is None else values.to(device) for values in (predictions.probs, predictions.classes)
    )
    return Predictions(probs, classes)
