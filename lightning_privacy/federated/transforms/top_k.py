"""The largest entries only; what is not sent is kept for the next time.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.contexts import ClientContext
    >>> from lightning_privacy.federated.transforms import TopK
    >>> context = ClientContext(seed=0, round_number=0, client=0, num_examples=1)
    >>> TopK(fraction=0.5).on_client(torch.tensor([3.0, 1.0, -4.0, 2.0]), context)
    tensor([ 3.,  0., -4.,  0.])
    >>> TopK(fraction=0.5).on_client(torch.tensor([0.0, 1.5, 0.0, 0.5]), context)  # what was left out comes along
    tensor([0.0000, 2.5000, 0.0000, 2.5000])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import probability
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.federated.contexts import ClientContext
from lightning_privacy.federated.transforms.transform import DeltaTransform, log_bytes

__all__ = ["TopK"]

_ERROR = "top_k_error"
_INDEX_BYTES = 4


@dataclass(frozen=True)
class TopK(DeltaTransform):
    """Sends the entries with the largest absolute values, with their positions, and remembers the rest.

    Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", 2018, Algorithm 1. With ``error_feedback`` the client
    adds what it did not send to its next delta. That is state: a client that takes part once in a run never sends it.

    Args:
        fraction: share of the entries to send, in (0, 1]; at least one is sent.
        error_feedback: remember what is not sent.

    Raises:
        ConfigurationError: the fraction is out of range, or ``error_feedback`` not a bool.

    Example:
        >>> context = ClientContext(seed=0, round_number=0, client=0, num_examples=1)
        >>> _ = TopK(fraction=0.01).on_client(torch.randn(10_000), context)
        >>> context.log
        {'bytes': 800.0, 'dense_bytes': 40000.0}
    """

    fraction: float
    error_feedback: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", probability(fraction=self.fraction))
        if not isinstance(self.error_feedback, bool):
            raise ConfigurationError(f"error_feedback must be True or False, got {self.error_feedback!r}")

    @override
    def on_client(self, delta: Tensor, context: ClientContext) -> Tensor:
        count = max(1, math.ceil(self.fraction * delta.numel() - 1e-9))
        log_bytes(context, delta, sent=count * (delta.element_size() + _INDEX_BYTES))
        if not bool(delta.isfinite().all()):
            # The round throws it out; the memory must not keep a NaN for all rounds to come.
            return delta
        whole = delta
        if self.error_feedback:
            error = context.memory.get(_ERROR)
            if error is not None and error.shape != delta.shape:
                raise CheckpointError(
                    f"client {context.client} remembers {error.numel()} entries that top-k did not send, and its delta "
                    f"has {delta.numel()}: the memory is of another model"
                )
            if error is not None:
                whole = delta + error.to(delta)
        kept = whole.abs().topk(count).indices
        sent = torch.zeros_like(whole)
        sent[kept] = whole[kept]
        if self.error_feedback:
            context.memory[_ERROR] = whole - sent
        return sent
