"""The mean of each entry without its largest and smallest values.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.aggregation import TrimmedMean
    >>> TrimmedMean(1).aggregate(torch.tensor([[-1e9], [2.0], [4.0], [1e9]]), torch.ones(4))
    tensor([3.])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import non_negative_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.aggregation._rows import by_columns, checked
from lightning_privacy.federated.aggregation.aggregator import Aggregator

__all__ = ["TrimmedMean"]


@dataclass(frozen=True)
class TrimmedMean(Aggregator):
    """Mean over the clients, entry by entry, without the ``trim`` largest and the ``trim`` smallest values.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", 2018, Definition 2. It
    stands as many hostile clients as are trimmed at one end, and all count alike, whatever their data.

    Args:
        trim: how many to leave out at each end: a number of clients, or, as a float in [0, 0.5), a fraction of those
            that are there, rounded up.

    Raises:
        ConfigurationError: it is neither.

    Example:
        >>> TrimmedMean(0.2).count(10), TrimmedMean(2).count(10)
        (2, 2)
    """

    trim: int | float

    def __post_init__(self) -> None:
        if isinstance(self.trim, float):
            if not 0.0 <= self.trim < 0.5:
                raise ConfigurationError(
                    f"trim as a fraction must be in [0, 0.5), got {self.trim!r}: it is left out at each end"
                )
        else:
            object.__setattr__(self, "trim", non_negative_int(trim=self.trim))

    def count(self, cohort_size: int) -> int:
        """How many of so many clients are left out at each end."""
        if isinstance(self.trim, float):
            # 0.2 of 10 is 2, also where the product is a rounding error above it.
            return math.ceil(self.trim * cohort_size - 1e-9)
        return self.trim

    @override
    def check(self, cohort_size: int) -> None:
        super().check(cohort_size)
        count = self.count(cohort_size)
        if 2 * count >= cohort_size:
            raise ConfigurationError(
                f"trim={self.trim!r} leaves out {count} at each end, and of {cohort_size} clients nobody would be "
                f"left: choose a trim of at most {(cohort_size - 1) // 2}, or a larger cohort_size"
            )

    @override
    def aggregate(self, deltas: Tensor, weights: Tensor) -> Tensor:
        deltas, _ = checked(deltas, weights)
        clients = deltas.shape[0]
        self.check(clients)
        kept = slice(self.count(clients), clients - self.count(clients))
        return by_columns(deltas, lambda columns: columns.sort(dim=0).values[kept].mean(dim=0))
