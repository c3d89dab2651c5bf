"""The table of one attribute: figures of its groups, how far they are apart, which groups are too small to judge.

Example:
    >>> import torch
    >>> from lightning_privacy.fairness import GroupSample
    >>> counts = torch.tensor([[[40, 10], [10, 40]], [[20, 30], [5, 45]], [[1, 0], [0, 1]]])
    >>> table = FairnessTable.of(GroupSample(counts), attribute="race", group_names=("a", "b", "c"), min_group_size=30)
    >>> table.too_small, round(table.disparities["demographic_parity_difference"], 3)
    (('c',), 0.25)
    >>> table.scalars()["tpr/b"]
    0.9
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.sample import FIGURES, GroupSample, Intervals

__all__ = ["FairnessTable"]

_LOGGED = ("accuracy", "selection_rate", "tpr", "fpr")


@dataclass(frozen=True)
class FairnessTable:
    """What is reported of one attribute.

    Attributes:
        attribute: Its name, or the names of several whose intersections are the groups.
        group_names: Of the groups.
        figures: Of the groups, each of shape ``(G,)``, or ``(G, C)`` with one for each class; NaN where undefined.
        overall: Of all rows together, each of shape ``(1,)`` or ``(1, C)``.
        disparities: Differences and ratios between the groups that are large enough.
        too_small: Names of the groups with fewer rows than ``min_group_size``.
        min_group_size: Rows a group needs to be judged.
        method: What a group is compared with: ``"between_groups"`` or ``"to_overall"``.
        intervals: Bootstrap intervals; None without.
        epsilon: What the counts were released at; None for exact ones.
    """

    attribute: str
    group_names: tuple[str, ...]
    figures: dict[str, Tensor]
    overall: dict[str, Tensor]
    disparities: dict[str, float]
    too_small: tuple[str, ...]
    min_group_size: int
    method: str
    intervals: Intervals | None = field(default=None, compare=False)
    epsilon: float | None = None

    @classmethod
    def of(
        cls,
        sample: GroupSample,
        *,
        attribute: str,
        group_names: Sequence[str],
        min_group_size: int = 1,
        method: str = "between_groups",
        positive_class: int | None = None,
        replicates: int = 0,
        confidence: float = 0.95,
        seed: int = 0,
        epsilon: float | None = None,
    ) -> FairnessTable:
        """Work out a table.

        Args:
            sample: What is known of the groups.
            attribute: Its name.
            group_names: One for each group.
            min_group_size: Rows a group needs to be judged.
            method: What a group is compared with.
            positive_class: With more than two classes, the one to take against the rest.
            replicates: Bootstrap samples; 0 for no intervals.
            confidence: Of the intervals.
            seed: Of the bootstrap.
            epsilon: What the counts were released at, if they are noisy.

        Raises:
            ConfigurationError: An argument is out of range, or the names are not one for each group.
        """
        names = tuple(group_names)
        if len(names) != sample.num_groups:
            raise ConfigurationError(f"group_names must be {sample.num_groups} names, one per group, got {names!r}")
        choice: dict[str, Any] = {"positive_class": positive_class}
        judging: dict[str, Any] = choice | {"method": method, "min_group_size": min_group_size}
        judged = sample.judged(min_group_size).tolist()
        intervals = None
        if replicates:
            intervals = sample.intervals(replicates=replicates, confidence=confidence, seed=seed, **judging)
        return cls(
            attribute=attribute,
            group_names=names,
            figures=sample.figures(**choice),
            overall=sample.overall().figures(**choice),
            disparities={name: value.item() for name, value in sample.disparities(**judging).items()},
            too_small=tuple(name for name, large in zip(names, judged, strict=True) if not large),
            min_group_size=min_group_size,
            method=method,
            intervals=intervals,
            epsilon=epsilon,
        )

    @property
    def per_class(self) -> bool:
        """Whether rates have one value for each class."""
        return self.figures["tpr"].dim() == 2

    def scalars(self) -> dict[str, float]:
        """What is logged: every disparity, and the main figures of each group as ``"<figure>/<group>"``."""
        found = dict(self.disparities)
        for name in _LOGGED:
            values = self.figures[name]
            if values.dim() == 1:
                found |= {
                    f"{name}/{group.replace('/', '_')}": value
                    for group, value in zip(self.group_names, values.tolist(), strict=True)
                }
        return found

    def records(self) -> Iterator[dict[str, str | int | float]]:
        """One record for each figure of each group (and class), and for each disparity; what is undefined is empty.

        Yields:
            ``attribute``, ``group`` (empty for a disparity, ``"(all)"`` for all rows), ``figure``, ``class`` (empty
            where there is none), ``value``, ``low``, ``high`` (the ends of its interval), ``too_small`` (0 or 1).
        """
        for position, group in enumerate(self.group_names):
            small = int(group in self.too_small)
            for name in FIGURES:
                if name in self.figures:
                    ends = None if self.intervals is None else self.intervals.figures[name][:, position]
                    yield from self._values(group, name, self.figures[name][position], ends, small)
        for name, values in self.overall.items():
            yield from self._values("(all)", name, values[0], None, 0)
        for name, value in self.disparities.items():
            low, high = (math.nan, math.nan) if self.intervals is None else self.intervals.disparities[name].tolist()
            yield self._record("", name, "", (value, low, high), 0)

    def _values(
        self, group: str, name: str, values: Tensor, ends: Tensor | None, small: int
    ) -> Iterator[dict[str, str | int | float]]:
        labels: list[str | int] = [""] if values.dim() == 0 else list(range(len(values)))
        numbers = values.reshape(-1).tolist()
        blank = [math.nan] * len(numbers)
        lows, highs = (blank, blank) if ends is None else ends.reshape(2, -1).tolist()
        for label, *value in zip(labels, numbers, lows, highs, strict=True):
            yield self._record(group, name, label, (value[0], value[1], value[2]), small)

    def _record(
        self, group: str, name: str, label: str | int, values: tuple[float, float, float], small: int
    ) -> dict[str, str | int | float]:
        value, low, high = ("" if math.isnan(number) else number for number in values)
        return {
            "attribute": self.attribute,
            "group": group,
            "figure": name,
            "class": label,
            "value": value,
            "low": low,
            "high": high,
            "too_small": small,
        }
