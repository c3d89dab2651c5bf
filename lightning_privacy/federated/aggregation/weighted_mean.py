"""The mean over clients, each counted by the size of its data or all alike.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.aggregation import WeightedMean
    >>> WeightedMean().aggregate(torch.tensor([[0.0], [4.0]]), torch.tensor([1.0, 3.0]))
    tensor([3.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.aggregation._rows import checked, weighted_sum
from lightning_privacy.federated.aggregation.aggregator import Aggregator
from lightning_privacy.federated.update import ClientUpdate

__all__ = ["WeightedMean"]


@dataclass(frozen=True)
class WeightedMean(Aggregator):
    """``sum_i n_i delta_i / sum_i n_i``, n_i being the number of examples of client i.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, Algorithm 1.
    One client can move it anywhere, and its sensitivity depends on everybody's data: for client privacy take
    ``weighted=False``.

    Args:
        weighted: count a client by its number of examples; False counts all alike.

    Raises:
        ConfigurationError: it is not a bool.

    Example:
        >>> import torch
        >>> from lightning_privacy.federated.update import ClientUpdate
        >>> update = ClientUpdate(client=0, delta=torch.zeros(1), num_examples=12, num_steps=1)
        >>> WeightedMean().weight(update), WeightedMean(weighted=False).weight(update)
        (12.0, 1.0)
    """

    weighted: bool = True
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.weighted, bool):
            raise ConfigurationError(f"weighted must be True or False, got {self.weighted!r}")

    @override
    def weight(self, update: ClientUpdate) -> float:
        return float(update.num_examples) if self.weighted else 1.0

    @override
    def aggregate(self, deltas: Tensor, weights: Tensor) -> Tensor:
        deltas, weights = checked(deltas, weights)
        total = float(weights.double().sum()) if weights.device.type != "mps" else float(weights.sum())
        if total == 0.0:
            raise ConfigurationError(
                f"the weights of all {len(weights)} clients are 0, so there is no mean: clients without examples take "
                "no part in a round"
            )
        return weighted_sum(deltas, weights).div_(total)
