"""What an aggregator is: how the deltas of a cohort become one.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.aggregation import CoordinateMedian, WeightedMean
    >>> deltas = torch.tensor([[1.0, 0.0], [2.0, 1.0], [900.0, 2.0]])
    >>> WeightedMean().aggregate(deltas, torch.tensor([1.0, 1.0, 2.0]))
    tensor([450.7500,   1.2500])
    >>> CoordinateMedian().aggregate(deltas, torch.ones(3))
    tensor([2., 1.])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.federated.update import ClientUpdate

__all__ = ["Aggregator"]


class Aggregator(ABC):
    """Turns the deltas of a round into one. Derive from it to make an own one; it holds no state.

    ``linear`` says that the aggregate is ``sum_i w_i delta_i / sum_i w_i`` with ``w_i`` from :meth:`weight`. Then every
    process sums its own clients and one all-reduce of the sums is enough. Otherwise :meth:`aggregate` gets all deltas.
    """

    linear: ClassVar[bool] = False
    #: Whether :meth:`weight` needs ``metrics["initial_loss"]``, the loss of the global model on the client's data.
    needs_initial_loss: ClassVar[bool] = False

    def check(self, cohort_size: int) -> None:
        """Refuse a cohort this aggregator can't work with. Called before training and again with what was received.

        Args:
            cohort_size: number of deltas that :meth:`aggregate` will get.

        Raises:
            ConfigurationError: there are too few.
        """
        positive_int(cohort_size=cohort_size)

    def weight(self, update: ClientUpdate) -> float:
        """Return the number that :meth:`aggregate` gets for this client: 1 where all count alike.

        Args:
            update: what the client sent.

        Returns:
            A finite number of at least 0.
        """
        return 1.0

    @abstractmethod
    def aggregate(self, deltas: Tensor, weights: Tensor) -> Tensor:
        """Return the aggregate; a pure function.

        Args:
            deltas: shape ``(K, P)``, float32 or float64, finite: one row for each client, in client order.
            weights: shape ``(K,)``, what :meth:`weight` gave for each.

        Returns:
            Shape ``(P,)``, the dtype and device of ``deltas``.

        Raises:
            ConfigurationError: the shapes don't fit, a number is not finite, or there are too few rows.
        """
