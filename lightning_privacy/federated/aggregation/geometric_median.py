"""The point with the least sum of distances to the deltas.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.aggregation import GeometricMedian
    >>> corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0], [1e6, 1e6]])
    >>> bool(GeometricMedian().aggregate(corners, torch.ones(5)).norm() < 3)
    True
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import positive, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.aggregation._rows import checked, inner_products, weighted_sum
from lightning_privacy.federated.aggregation.aggregator import Aggregator
from lightning_privacy.federated.update import ClientUpdate

__all__ = ["GeometricMedian"]


@dataclass(frozen=True)
class GeometricMedian(Aggregator):
    """Minimises ``sum_i w_i ||v - delta_i||`` by the smoothed Weiszfeld algorithm.

    Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning", 2022, Algorithm 2: from the mean,
    repeat ``v = sum_i b_i delta_i / sum_i b_i`` with ``b_i = w_i / max(smoothing, ||v - delta_i||)``. It stands hostile
    clients with less than half the weight. As ``v`` is always a mean of the deltas, the iterations need their inner
    products only: the cost is that of one pass over the deltas, however many iterations there are.

    Args:
        weighted: count a client by its number of examples; False, the default, counts all alike, as a hostile client
            can lie about its number.
        smoothing: distances below it count as it; relative to the median length of the deltas.
        tolerance: stop when ``v`` moves by less than this, relative to the same length.
        max_iterations: stop at the latest after so many.

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> import torch
        >>> GeometricMedian().aggregate(torch.tensor([[1.0], [2.0], [50.0]]), torch.ones(3))
        tensor([2.])
    """

    weighted: bool = False
    smoothing: float = 1e-6
    tolerance: float = 1e-6
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        if not isinstance(self.weighted, bool):
            raise ConfigurationError(f"weighted must be True or False, got {self.weighted!r}")
        positive(smoothing=self.smoothing)
        positive(tolerance=self.tolerance)
        positive_int(max_iterations=self.max_iterations)

    @override
    def weight(self, update: ClientUpdate) -> float:
        return float(update.num_examples) if self.weighted else 1.0

    @override
    def aggregate(self, deltas: Tensor, weights: Tensor) -> Tensor:
        deltas, weights = checked(deltas, weights)
        if not bool((weights > 0).any()):
            raise ConfigurationError(f"the weights of all {len(weights)} clients are 0, so there is no median")
        inner = inner_products(deltas)
        # What is so far away that its square overflows is left out.
        near = inner.diagonal().isfinite()
        inner = torch.where(near[:, None] & near[None, :], inner, 0.0)
        return weighted_sum(deltas, self._shares(inner, torch.where(near, weights.to(inner.dtype), 0.0)))

    def _shares(self, inner: Tensor, weights: Tensor) -> Tensor:
        """Shape ``(K,)``, sum 1: how much of each delta there is in the median."""
        squares = inner.diagonal()
        unit = float(squares.sqrt().median())
        floor = self.smoothing * (unit or 1.0)
        shares = weights / weights.sum()
        for _ in range(self.max_iterations):
            products = inner @ shares
            distances = (torch.dot(shares, products) - 2.0 * products + squares).clamp_min(0.0).sqrt()
            pulls = weights / distances.clamp_min(floor)
            moved = pulls / pulls.sum()
            change = moved - shares
            shares = moved
            if float(torch.dot(change, inner @ change).clamp_min(0.0)) <= (self.tolerance * unit) ** 2:
                break
        return shares
