"""What a client hands to the server after local training.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.update import ClientUpdate
    >>> update = ClientUpdate(client=3, delta=torch.zeros(5), num_examples=20, num_steps=2, metrics={"loss": 0.7})
    >>> update.is_finite()
    True
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["ClientUpdate"]


@dataclass
class ClientUpdate:
    """One client's contribution to a round.

    Args:
        client: number of the client, from 0.
        delta: shape ``(P,)``, float32 or float64: local weights minus global weights, trainable parameters first and
            then floating buffers.
        num_examples: size of the client's data set.
        num_steps: optimizer steps taken in local training.
        metrics: what was measured on the client, by name, such as ``loss`` (after local training) and
            ``initial_loss`` (of the global model, before it).
        extras: further flat vectors that an algorithm sums over the cohort, such as SCAFFOLD's change of the control
            variate.

    Example:
        >>> import torch
        >>> ClientUpdate(0, torch.tensor([float("nan")]), num_examples=1, num_steps=1).is_finite()
        False
    """

    client: int
    delta: Tensor
    num_examples: int
    num_steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)

    def is_finite(self) -> bool:
        """Whether every entry of the delta and of the extras is a finite number."""
        return all(bool(vector.isfinite().all()) for vector in (self.delta, *self.extras.values()))
