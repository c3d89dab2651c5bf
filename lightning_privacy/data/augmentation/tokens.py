"""Augmentation of texts as token numbers: tokens that are dropped or masked.

Example:
    >>> import torch
    >>> from lightning_privacy.data.augmentation.draws import Draws
    >>> tokens = torch.tensor([[5, 6, 7, 8, 0, 0]])
    >>> DropTokens(1.0, pad_id=0, keep=[5])(tokens, Draws(torch.tensor([1]))).tolist()
    [[5, 0, 0, 0, 0, 0]]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy.data.augmentation.base import PerExample
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.tables import share
from lightning_privacy.errors import ConfigurationError

__all__ = ["DropTokens", "MaskTokens"]


def _chosen(tokens: Tensor, probability: float, kept: Sequence[int], draws: Draws, name: str) -> Tensor:
    """Which tokens are concerned, bool on the device, ``(B, T)``."""
    if tokens.dim() != 2 or tokens.is_floating_point():
        raise ConfigurationError(f"{name} needs token numbers (B, T), got {tuple(tokens.shape)} of {tokens.dtype}")
    chosen = draws.chance(probability, tokens.shape[1]).to(tokens.device)
    special = torch.tensor(list(kept), dtype=tokens.dtype, device=tokens.device)
    return chosen & ~torch.isin(tokens, special)


class DropTokens(PerExample):
    """Drops tokens, each with some probability; the rest closes up and is padded at the end.

    Where a batch has an attention mask, pad tokens at the end are new ones: compute the mask from the tokens, in the
    module or in ``on_after_batch_transfer``.

    Args:
        probability: from 0 to 1.
        pad_id: fills up at the end, and is never dropped for itself.
        keep: tokens that are not dropped, such as those for start and end.

    Example:
        >>> DropTokens(0.0, pad_id=0)(torch.tensor([[1, 2]])).tolist()
        [[1, 2]]
    """

    def __init__(self, probability: float = 0.1, *, pad_id: int, keep: Sequence[int] = ()) -> None:
        super().__init__()
        self.probability = share("probability", probability)
        self.pad_id = int(pad_id)
        self.keep = [*keep, self.pad_id]

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        dropped = _chosen(inputs, self.probability, self.keep, draws, type(self).__name__)
        order = dropped.to(torch.uint8).argsort(dim=1, stable=True)
        return inputs.masked_fill(dropped, self.pad_id).gather(1, order)


class MaskTokens(PerExample):
    """Replaces tokens by the mask token, each with some probability.

    Args:
        probability: from 0 to 1.
        mask_id: what they are replaced by.
        keep: tokens that stay, such as padding and those for start and end.

    Example:
        >>> MaskTokens(1.0, mask_id=9, keep=[0])(torch.tensor([[1, 2, 0]])).tolist()
        [[9, 9, 0]]
    """

    def __init__(self, probability: float = 0.15, *, mask_id: int, keep: Sequence[int] = ()) -> None:
        super().__init__()
        self.probability = share("probability", probability)
        self.mask_id = int(mask_id)
        self.keep = list(keep)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        chosen = _chosen(inputs, self.probability, self.keep, draws, type(self).__name__)
        return inputs.masked_fill(chosen, self.mask_id)
