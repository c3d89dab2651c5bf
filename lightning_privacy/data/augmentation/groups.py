"""More, or other, augmentation for some groups of examples.

Example:
    >>> groups = ExampleGroups([0, 0, 1, 0], {1: "strong"})
    >>> groups.choices, groups.of(torch.tensor([2, 0]), None).tolist()
    (['strong'], [0, -1])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_privacy.data.augmentation.fields import FieldKey, get_field
from lightning_privacy.errors import ConfigurationError

__all__ = ["ExampleGroups"]


class ExampleGroups:
    """Which examples get transforms of their own.

    Args:
        groups: the group of each example of the data set, or the field of the batch that has it.
        by_group: the transforms of groups, by their value.

    Raises:
        ConfigurationError: A group that no example has, or a mapping without ``groups``.
    """

    def __init__(self, groups: Any, by_group: Mapping[Any, Any] | None) -> None:
        self.values = list(by_group or {})
        self.choices = list((by_group or {}).values())
        self.key: FieldKey | None = groups if isinstance(groups, str | int) else None
        self.of_example: Tensor | None = None
        if self.values and groups is None:
            raise ConfigurationError(
                f"by_group has transforms for {self.values}, and nothing says which examples these are: give groups=, "
                "the group of each example or the field of the batch that has it"
            )
        if groups is not None and self.key is None:
            self.of_example = self._numbered(np.asarray(groups))

    def _numbered(self, groups: np.ndarray) -> Tensor:
        names, inverse = np.unique(groups, return_inverse=True)
        known = [name.item() if isinstance(name, np.generic) else name for name in names]
        missing = [value for value in self.values if value not in known]
        if missing:
            raise ConfigurationError(
                f"by_group has transforms for {missing}, and no example is of these groups; there are {known}"
            )
        numbers = torch.tensor([self.values.index(name) if name in self.values else -1 for name in known])
        return numbers[torch.from_numpy(inverse.reshape(-1))]

    def __bool__(self) -> bool:
        return bool(self.values)

    def check_size(self, examples: int) -> None:
        """Refuse groups of another number of examples than the data set has.

        Raises:
            ConfigurationError: The lengths differ.
        """
        if self.of_example is not None and len(self.of_example) != examples:
            raise ConfigurationError(
                f"groups has {len(self.of_example)} entries, and the train data set has {examples} examples"
            )

    def of(self, index: Tensor, batch: Any) -> Tensor:
        """Which choice each row gets, int64 on the CPU, ``(B,)``; -1 for the transforms of everybody.

        Args:
            index: numbers of the rows' examples.
            batch: the batch, where the groups are one of its fields.
        """
        if self.of_example is not None:
            return self.of_example[index]
        values = get_field(batch, self.key)
        found = values.tolist() if isinstance(values, Tensor) else list(values)
        if len(found) != len(index):
            raise ConfigurationError(
                f"groups={self.key!r} names a field with {len(found)} entries in a batch of {len(index)}"
            )
        return torch.tensor([self.values.index(value) if value in self.values else -1 for value in found])

    def of_one(self, index: int, example: Any) -> int:
        """Which choice one example gets."""
        if self.of_example is not None:
            return int(self.of_example[index])
        value = get_field(example, self.key)
        value = value.item() if isinstance(value, Tensor | np.generic) else value
        return self.values.index(value) if value in self.values else -1
