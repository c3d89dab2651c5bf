"""The median of each entry by itself.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.aggregation import CoordinateMedian
    >>> CoordinateMedian().aggregate(torch.tensor([[1.0], [2.0], [4.0], [1e9]]), torch.ones(4))
    tensor([3.])
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from lightning_privacy.federated.aggregation._rows import by_columns, checked
from lightning_privacy.federated.aggregation.aggregator import Aggregator

__all__ = ["CoordinateMedian", "middle"]


@dataclass(frozen=True)
class CoordinateMedian(Aggregator):
    """Median over the clients, entry by entry; of an even number, the mean of the two in the middle.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", 2018, Definition 1. It
    stands fewer than half the clients, and all count alike, whatever their data.

    Example:
        >>> import torch
        >>> CoordinateMedian().aggregate(torch.tensor([[1.0, 5.0], [2.0, -5.0], [3.0, 0.0]]), torch.ones(3))
        tensor([2., 0.])
    """

    @override
    def aggregate(self, deltas: Tensor, weights: Tensor) -> Tensor:
        deltas, _ = checked(deltas, weights)
        return by_columns(deltas, lambda columns: middle(columns.sort(dim=0).values))


def middle(ordered: Tensor) -> Tensor:
    """The median of each column of ``ordered``, shape ``(K, width)``, which is sorted along its rows."""
    clients = ordered.shape[0]
    # torch.median would take the lower of the two. Halves first: the sum of two large numbers may overflow.
    low, high = ordered[(clients - 1) // 2], ordered[clients // 2]
    return low if clients % 2 else low * 0.5 + high * 0.5
