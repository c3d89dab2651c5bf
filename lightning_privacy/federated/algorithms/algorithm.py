"""What a federated algorithm may change: the clients' gradients, what they send along, and what the server keeps.

Plain federated averaging (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", 2017) is the base class as it stands. An algorithm is one small class; everything it is given belongs to one
client or to the server, so nothing can leak from one simulated client to another but through the server.

Example:
    >>> class Signs(Algorithm):
    ...     def before_step(self, local):
    ...         for gradient in local.gradients():
    ...             gradient.sign_()
    >>> Signs().describe()
    {'algorithm': 'Signs'}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.update import ClientUpdate

__all__ = ["Algorithm", "LocalTraining"]


def _cannot_train_again(algorithm: Algorithm) -> float | None:
    raise ConfigurationError(f"this local training has no loop to run {type(algorithm).__name__} with")


@dataclass
class LocalTraining:
    """One client's local training, as an algorithm sees it.

    Args:
        client: Number of the client, from 0.
        round_number: The round, from 0.
        num_examples: Size of its data set.
        model: The model, which holds the client's weights; ``model.start`` are those of the round.
        optimizer: The client's optimizer.
        memory: What the client keeps from round to round; flat tensors on the CPU, part of the checkpoint.
        num_steps: Optimizer steps taken so far.
        scratch: What an algorithm needs until the client is done.
        train_again: Runs the local loop once more, from the weights the model holds, with an optimizer as new and
            another algorithm; returns the mean loss.
    """

    client: int
    round_number: int
    num_examples: int
    model: FlatModel
    optimizer: Optimizer
    memory: dict[str, Tensor] = field(default_factory=dict)
    num_steps: int = 0
    scratch: dict[str, Any] = field(default_factory=dict)
    train_again: Callable[[Algorithm], float | None] = _cannot_train_again

    @property
    def learning_rate(self) -> float:
        """Of the client's optimizer, first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def gradients(self) -> list[Tensor]:
        """The gradients of the shared parameters; those without one are left out."""
        return [p.grad for p in self.model.parameters if p.grad is not None]

    @torch.no_grad()
    def add_to_gradients(self, vectors: list[Tensor], *, scale: float = 1.0) -> None:
        """Add tensors shaped like the parameters to their gradients; a parameter without gradient is left alone.

        Args:
            vectors: One per shared parameter.
            scale: Factor on them.
        """
        pairs = [(p.grad, v) for p, v in zip(self.model.parameters, vectors, strict=False) if p.grad is not None]
        if pairs:
            gradients, added = (list(part) for part in zip(*pairs, strict=True))
            torch._foreach_add_(gradients, added, alpha=scale)


class Algorithm:
    """Federated averaging, with places to change it."""

    #: Whether ``metrics["initial_loss"]``, the loss of the global model on a client's data, is needed: one more pass.
    needs_initial_loss: bool = False
    #: How often the local loop is run for a client in a round.
    trainings: ClassVar[int] = 1
    #: Whether the clients of a round may train at once; not where one is trained again after it was trained.
    vectorizes: ClassVar[bool] = True

    def begin(self, model: FlatModel, num_clients: int) -> None:
        """Called once before the first round of a fit, with the model on its device."""

    def extra_sizes(self, model: FlatModel) -> dict[str, int]:
        """Names and sizes of the further vectors that every client sends."""
        return {}

    def before_client(self, local: LocalTraining) -> None:
        """Called when a client has got the weights of the round."""

    def before_step(self, local: LocalTraining) -> None:
        """Called before each step of the client's optimizer, after gradients were clipped to the user's bound."""

    def after_client(self, local: LocalTraining, update: ClientUpdate) -> None:
        """Called after local training; may change ``update.delta`` and add ``update.extras``, which are summed."""

    def after_round(self, aggregate: Tensor, extras: Mapping[str, Tensor], num_received: int) -> Tensor:
        """Called on every process with equal arguments; returns what the server steps along.

        Args:
            aggregate: Shape ``(P,)``.
            extras: Sums over the clients, by name.
            num_received: Clients whose update was taken.
        """
        return aggregate

    def describe(self) -> dict[str, Any]:
        """Name and parameters as plain types; a run is not resumed with others."""
        return {"algorithm": type(self).__name__}

    def state_dict(self) -> dict[str, Any]:
        """What the server keeps; plain types and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        del state
