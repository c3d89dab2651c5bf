"""A mean that counts the clients with the larger loss more.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.aggregation import QFFL
    >>> QFFL(q=1.0, learning_rate=1.0).aggregate(torch.tensor([[1.0], [-1.0]]), torch.tensor([3.0, 1.0]))
    tensor([0.3333])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import non_negative, positive
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.aggregation._rows import checked, weighted_sum, wide
from lightning_privacy.federated.aggregation.aggregator import Aggregator
from lightning_privacy.federated.update import ClientUpdate

__all__ = ["QFFL"]

# Keeps 0^(q - 1) finite for a client that has nothing left to learn.
_LEAST_LOSS = 1e-10


@dataclass(frozen=True)
class QFFL(Aggregator):
    """q-FedAvg: Li et al., "Fair Resource Allocation in Federated Learning", 2020, Algorithm 2.

    With F_k the loss of the global model on client k, before it trains, and L = 1 / ``learning_rate``, the model moves
    by ``sum_k L F_k^q delta_k / sum_k h_k`` where ``h_k = q F_k^(q-1) ||L delta_k||^2 + L F_k^q``. With q = 0 that is
    the plain mean; the larger q, the more the worst-off clients count. To be used with a server optimizer that adds
    what it is given (FedAvg with lr 1), as h_k is the step size.

    Args:
        q: at least 0.
        learning_rate: of the clients' optimizer; its inverse stands for the Lipschitz constant of the gradient.

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> from lightning_privacy.federated.update import ClientUpdate
        >>> update = ClientUpdate(0, torch.zeros(2), num_examples=9, num_steps=1, metrics={"initial_loss": 0.5})
        >>> QFFL(q=1.0, learning_rate=0.1).weight(update)
        0.5
    """

    q: float
    learning_rate: float
    needs_initial_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "q", non_negative(q=self.q))
        object.__setattr__(self, "learning_rate", positive(learning_rate=self.learning_rate))

    @override
    def weight(self, update: ClientUpdate) -> float:
        """Return the client's loss at the global model.

        Raises:
            ConfigurationError: the update has no ``initial_loss``, or it is negative or not finite.
        """
        loss = update.metrics.get("initial_loss")
        if loss is None:
            raise ConfigurationError(
                f"q-FFL needs the loss of the global model on each client, and the update of client {update.client} "
                "has no metric 'initial_loss'; measure it before local training"
            )
        if not math.isfinite(loss) or loss < 0:
            raise ConfigurationError(
                f"initial_loss of client {update.client} must be finite and at least 0 for q-FFL, got {loss!r}: its "
                "powers weigh the clients"
            )
        return float(loss)

    @override
    def aggregate(self, deltas: Tensor, weights: Tensor) -> Tensor:
        """Return the step of q-FedAvg.

        Args:
            deltas: shape ``(K, P)``.
            weights: shape ``(K,)``, the losses at the global model.

        Returns:
            Shape ``(P,)``.
        """
        deltas, losses = checked(deltas, weights)
        dtype, lipschitz = wide(deltas).dtype, 1.0 / self.learning_rate
        losses = losses.to(dtype).clamp_min(_LEAST_LOSS)
        squares = torch.linalg.vector_norm(deltas, dim=1, dtype=dtype).square() * lipschitz**2
        powers = losses**self.q
        step = self.q * losses ** (self.q - 1.0) * squares + lipschitz * powers
        # Divided before the sum, so that large powers of large losses don't overflow in the type of the deltas.
        return weighted_sum(deltas, lipschitz * powers / step.sum())
