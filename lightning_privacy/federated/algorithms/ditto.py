"""Ditto: every client also trains a model of its own, held near the global one.

Example:
    >>> Ditto(strength=0.1).describe()
    {'algorithm': 'Ditto', 'strength': 0.1}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from lightning_privacy._validate import non_negative
from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining
from lightning_privacy.federated.algorithms.fedprox import FedProx
from lightning_privacy.federated.update import ClientUpdate

__all__ = ["Ditto"]

_MODEL = "personal_model"


@dataclass(frozen=True)
class Ditto(Algorithm):
    """Federated averaging, and beside it a personal model for each client.

    Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", 2021, algorithm 1: the personal
    model v minimises ``F_i(v) + strength / 2 * ||v - w||^2``, w being the global model of the round, over the same
    batches. It never leaves the client: it is in ``memory["personal_model"]``, shape ``(P,)``, and in checkpoints. A
    round takes each client about twice as long.

    Args:
        strength: Of the pull to the global model, lambda in the paper, >= 0.

    Raises:
        ConfigurationError: It is negative.
    """

    trainings: ClassVar[int] = 2
    vectorizes: ClassVar[bool] = False

    strength: float

    def __post_init__(self) -> None:
        non_negative(strength=self.strength)

    @override
    def after_client(self, local: LocalTraining, update: ClientUpdate) -> None:
        model = local.model
        own = local.memory.get(_MODEL)
        model.restore()
        if own is not None:
            model.put(own.to(model.start))
        loss = local.train_again(FedProx(self.strength))
        if loss is not None:
            update.metrics["personal_loss"] = loss
        with torch.no_grad():
            local.memory[_MODEL] = (model.delta() + model.start).cpu()

    @override
    def describe(self) -> dict[str, Any]:
        return {"algorithm": "Ditto", "strength": self.strength}
