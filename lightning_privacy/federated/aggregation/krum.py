"""The delta that is closest to its neighbours.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.aggregation import Krum
    >>> deltas = torch.tensor([[1.0], [1.1], [1.2], [0.9], [-50.0]])
    >>> Krum(byzantine=1).aggregate(deltas, torch.ones(5))
    tensor([1.])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.aggregation._rows import checked, squared_distances
from lightning_privacy.federated.aggregation.aggregator import Aggregator
from lightning_privacy.federated.aggregation.coordinate_median import middle

__all__ = ["Krum", "krum_scores"]

_TIE_BREAK = 1e-9


@dataclass(frozen=True)
class Krum(Aggregator):
    """Krum, and with ``select`` above 1 multi-Krum.

    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", 2017, section 4. Of n
    deltas, f of which may be hostile, each is scored by the sum of its squared distances to its n - f - 2 nearest
    ones. The best is taken, or the mean of the ``select`` best. Needs n >= 2 f + 3. All clients count alike.

    Where clients hold different kinds of data, Krum follows those in the majority: it can't tell rare from hostile.

    Args:
        byzantine: f, how many clients of a round may send anything they like.
        select: how many deltas to average.

    Raises:
        ConfigurationError: a number is not a whole one, or below 0 and 1.

    Example:
        >>> Krum(byzantine=3).check(cohort_size=8)
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.ConfigurationError: Krum with byzantine=3 needs at least 2 * 3 + 3 = 9 clients ...
    """

    byzantine: int
    select: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "byzantine", non_negative_int(byzantine=self.byzantine))
        object.__setattr__(self, "select", positive_int(select=self.select))

    @override
    def check(self, cohort_size: int) -> None:
        super().check(cohort_size)
        f, needed = self.byzantine, 2 * self.byzantine + 3
        if cohort_size < needed:
            raise ConfigurationError(
                f"Krum with byzantine={f} needs at least 2 * {f} + 3 = {needed} clients in a round, got {cohort_size}: "
                f"choose a larger cohort_size, or a byzantine of at most {max(0, (cohort_size - 3) // 2)}"
            )
        if self.select > cohort_size - f - 2:
            raise ConfigurationError(
                f"select={self.select} of multi-Krum must be at most clients - byzantine - 2 = {cohort_size - f - 2}, "
                "the number of neighbours it looks at; with more, a hostile delta can be among them"
            )

    @override
    def aggregate(self, deltas: Tensor, weights: Tensor) -> Tensor:
        deltas, _ = checked(deltas, weights)
        self.check(deltas.shape[0])
        scores = krum_scores(squared_distances(deltas), self.byzantine)
        best = scores.argsort(stable=True)[: self.select]
        return deltas[best].mean(dim=0)


def krum_scores(distances: Tensor, byzantine: int) -> Tensor:
    """Sum of each row's distances to its nearest ``n - byzantine - 2`` others, at least one.

    Two rows that are each other's nearest have the same score where one neighbour counts. So that the order of the
    clients does not decide, a billionth of the median distance to the others is added.

    Args:
        distances: shape ``(n, n)``, squared distances of all pairs, n at least 2.
        byzantine: number of rows that may be hostile.

    Returns:
        Shape ``(n,)``.
    """
    clients = distances.shape[0]
    others = distances + torch.diag(distances.new_full((clients,), torch.inf))
    ordered = others.sort(dim=1).values[:, : clients - 1]
    return ordered[:, : max(1, clients - byzantine - 2)].sum(dim=1) + _TIE_BREAK * middle(ordered.T)
