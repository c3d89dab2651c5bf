"""FedProx: clients are drawn back to the global model while they train.

Example:
    >>> FedProx(mu=0.01).describe()
    {'algorithm': 'FedProx', 'mu': 0.01}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import override

from lightning_privacy._validate import non_negative
from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining

__all__ = ["FedProx", "add_proximal_gradient"]


@torch.no_grad()
def add_proximal_gradient(local: LocalTraining, mu: float) -> None:
    """Add the gradient of ``mu / 2 * ||w - w_global||^2`` over the shared parameters.

    Args:
        local: The client, with its gradients in place.
        mu: Strength, >= 0.
    """
    model = local.model
    offsets = torch._foreach_sub([p.detach() for p in model.parameters], model.start_parameters)
    local.add_to_gradients(list(offsets), scale=mu)


@dataclass(frozen=True)
class FedProx(Algorithm):
    """Adds ``mu / 2 * ||w - w_global||^2`` to every client's loss.

    Li et al., "Federated Optimization in Heterogeneous Networks", 2020, equation 2.

    Args:
        mu: Strength of the term, >= 0; 0 is federated averaging.

    Raises:
        ConfigurationError: It is negative.
    """

    mu: float

    def __post_init__(self) -> None:
        non_negative(mu=self.mu)

    @override
    def before_step(self, local: LocalTraining) -> None:
        add_proximal_gradient(local, self.mu)

    @override
    def describe(self) -> dict[str, Any]:
        return {"algorithm": "FedProx", "mu": self.mu}
