"""Deltas at half the size, with 8 bits of precision.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.contexts import ClientContext
    >>> from lightning_privacy.federated.transforms import BFloat16
    >>> context = ClientContext(seed=0, round_number=0, client=0, num_examples=1)
    >>> BFloat16().on_client(torch.tensor([1.001, -3.0]), context), context.log
    (tensor([ 1., -3.]), {'bytes': 4.0, 'dense_bytes': 8.0})
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy.federated.contexts import ClientContext
from lightning_privacy.federated.transforms.transform import DeltaTransform, log_bytes

__all__ = ["BFloat16"]


@dataclass(frozen=True)
class BFloat16(DeltaTransform):
    """Sends the delta in bfloat16, rounded to the nearest: the range of float32, two bytes an entry.

    Example:
        >>> context = ClientContext(seed=0, round_number=0, client=0, num_examples=1)
        >>> BFloat16().on_client(torch.tensor([1e38]), context).dtype
        torch.float32
    """

    @override
    def on_client(self, delta: Tensor, context: ClientContext) -> Tensor:
        log_bytes(context, delta, sent=2 * delta.numel())
        return delta.to(torch.bfloat16).to(delta.dtype)
