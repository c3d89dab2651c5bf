"""Deltas at a quarter of the size, rounded at random so that the mean stays right.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.contexts import ClientContext
    >>> from lightning_privacy.federated.transforms import Int8
    >>> context = ClientContext(seed=0, round_number=0, client=0, num_examples=1)
    >>> sent = Int8().on_client(torch.tensor([127.0, 0.5, -3.0]), context)
    >>> sent[[0, 2]], context.log["bytes"]
    (tensor([127.0000,  -3.0000]), 7.0)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.federated.contexts import ClientContext
from lightning_privacy.federated.keyed import generator
from lightning_privacy.federated.transforms.transform import DeltaTransform, log_bytes

__all__ = ["Int8"]

_LEVELS = 127


@dataclass(frozen=True)
class Int8(DeltaTransform):
    """Sends whole numbers in [-127, 127] and, for each block of entries, what 1 stands for.

    Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", 2017, section 3.1, with
    the largest absolute value of a block for scale. ``x`` goes up with the probability of its distance to the number
    below, so that what arrives is right on average, over clients and rounds. The randomness is keyed by seed, round
    and client.

    Args:
        block_size: entries that share a scale, which takes four bytes.

    Raises:
        ConfigurationError: it is not a whole number of at least 1.

    Example:
        >>> context = ClientContext(seed=0, round_number=0, client=0, num_examples=1)
        >>> _ = Int8().on_client(torch.randn(10_000), context)
        >>> context.log
        {'bytes': 10040.0, 'dense_bytes': 40000.0}
    """

    block_size: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_size", positive_int(block_size=self.block_size))

    @override
    def on_client(self, delta: Tensor, context: ClientContext) -> Tensor:
        entries = delta.numel()
        blocks = -(-entries // self.block_size)
        log_bytes(context, delta, sent=entries + 4 * blocks)
        padded = F.pad(delta, (0, blocks * self.block_size - entries)).view(blocks, self.block_size)
        # The scale travels in float32, rounded up, so that no entry is above 127 of it.
        scale = (padded.abs().amax(dim=1, keepdim=True) / _LEVELS).float()
        scale = torch.nextafter(scale, torch.full_like(scale, torch.inf)).to(delta.dtype)
        key = (context.seed, "int8", context.round_number, context.client)
        # Drawn on the CPU: the same on every kind of device.
        chance = torch.rand(padded.shape, generator=generator(*key), dtype=torch.float32).to(delta)
        numbers = (padded / scale + chance).floor().clamp_(-_LEVELS, _LEVELS)
        return (numbers * scale).view(-1)[:entries]
