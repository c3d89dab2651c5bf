"""Krum again and again, then a trimmed mean around the median.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.aggregation import Bulyan
    >>> deltas = torch.tensor([[1.0], [1.1], [1.2], [0.9], [0.8], [1.0], [-50.0]])
    >>> Bulyan(byzantine=1).aggregate(deltas, torch.ones(7))
    tensor([0.9667])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import non_negative_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.aggregation._rows import by_columns, checked, squared_distances
from lightning_privacy.federated.aggregation.aggregator import Aggregator
from lightning_privacy.federated.aggregation.coordinate_median import middle
from lightning_privacy.federated.aggregation.krum import krum_scores

__all__ = ["Bulyan"]


@dataclass(frozen=True)
class Bulyan(Aggregator):
    """Selects theta = n - 2 f deltas by Krum, then averages in each entry the theta - 2 f closest to their median.

    El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in Byzantium", 2018, section 4. Krum alone
    bounds the distance to the honest deltas as a whole, which in a million dimensions leaves much room in a single
    one; the second stage closes that. Needs n >= 4 f + 3 clients, f of which may be hostile. All clients count alike.

    Krum is run on what is left, one selection at a time. The last of these rounds have fewer than the 2 f + 3 deltas
    that its theorem asks for; the score then looks at one neighbour, the least there can be.

    Args:
        byzantine: f, how many clients of a round may send anything they like.

    Raises:
        ConfigurationError: it is not a whole number of at least 0.

    Example:
        >>> Bulyan(byzantine=2).check(cohort_size=10)
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.ConfigurationError: Bulyan with byzantine=2 needs at least 4 * 2 + 3 = 11 clients ...
    """

    byzantine: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "byzantine", non_negative_int(byzantine=self.byzantine))

    @override
    def check(self, cohort_size: int) -> None:
        super().check(cohort_size)
        f, needed = self.byzantine, 4 * self.byzantine + 3
        if cohort_size < needed:
            raise ConfigurationError(
                f"Bulyan with byzantine={f} needs at least 4 * {f} + 3 = {needed} clients in a round, got "
                f"{cohort_size}: choose a larger cohort_size, or a smaller byzantine (at most "
                f"{max(0, (cohort_size - 3) // 4)} for so many clients)"
            )

    @override
    def aggregate(self, deltas: Tensor, weights: Tensor) -> Tensor:
        deltas, _ = checked(deltas, weights)
        clients = deltas.shape[0]
        self.check(clients)
        distances = squared_distances(deltas)
        left = torch.arange(clients, device=deltas.device)
        chosen: list[Tensor] = []
        for _ in range(clients - 2 * self.byzantine):
            best = 0
            if len(left) > 1:
                best = int(krum_scores(distances[left][:, left], self.byzantine).argmin())
            chosen.append(left[best])
            left = torch.cat([left[:best], left[best + 1 :]])
        kept = clients - 4 * self.byzantine
        return by_columns(deltas[torch.stack(chosen)], lambda columns: _around_median(columns, kept))


def _around_median(columns: Tensor, count: int) -> Tensor:
    """Mean of the ``count`` values of each column that are closest to its median; the lower of two equally close."""
    ordered = columns.sort(dim=0).values
    nearest = (ordered - middle(ordered)).abs().argsort(dim=0, stable=True)[:count]
    return ordered.gather(0, nearest).mean(dim=0)
