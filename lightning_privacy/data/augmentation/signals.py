"""Augmentation of time series and audio: scaling, and masks over time and frequency.

Jitter is :class:`~lightning_privacy.data.augmentation.Noise` without bounds.

Example:
    >>> import torch
    >>> from lightning_privacy.data.augmentation.draws import Draws
    >>> masked = MaskTime(10)(torch.ones(50, 2, 40), Draws(torch.arange(50)))
    >>> lengths = (masked == 0).sum(-1)
    >>> int(lengths.max()) <= 10, bool((lengths[:, 0] == lengths[:, 1]).all())
    (True, True)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.data.augmentation.base import PerExample, rowwise
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.geometric import interval
from lightning_privacy.errors import ConfigurationError

__all__ = ["MaskFrequency", "MaskTime", "Rescale"]


class Rescale(PerExample):
    """Multiplies each example by a factor of its own.

    Args:
        factor: its range, or its largest distance from 1.
        per_channel: a factor for each entry of the second dimension.

    Example:
        >>> Rescale((2.0, 2.0))(torch.ones(1, 3)).tolist()
        [[2.0, 2.0, 2.0]]
    """

    def __init__(self, factor: float | Sequence[float] = 0.1, *, per_channel: bool = False) -> None:
        super().__init__()
        self.factor = interval("factor", factor, around=1.0)
        self.per_channel = per_channel

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        if not inputs.is_floating_point():
            raise ConfigurationError(f"Rescale needs floats, got {inputs.dtype}: convert before")
        if not self.per_channel:
            return inputs * rowwise(draws.uniform(*self.factor), inputs).to(inputs.dtype)
        if inputs.dim() < 3:
            raise ConfigurationError(f"Rescale(per_channel=True) needs (B, C, ..., T), got {tuple(inputs.shape)}")
        factors = draws.uniform(*self.factor, inputs.shape[1]).to(inputs.device, non_blocking=True).to(inputs.dtype)
        return inputs * factors.view(*factors.shape, *[1] * (inputs.dim() - 2))


class _Mask(PerExample):
    """Sets spans along one dimension to a value (Park et al., "SpecAugment", 2019, section 2)."""

    dimension = -1

    def __init__(self, max_width: int, *, masks: int = 1, value: float = 0.0) -> None:
        super().__init__()
        self.max_width = non_negative_int(max_width=max_width)
        self.masks = positive_int(masks=masks)
        self.value = float(value)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        if inputs.dim() < 1 - self.dimension:
            raise ConfigurationError(
                f"{type(self).__name__} needs (B, ..., {'F, ' if self.dimension == -2 else ''}T), got "
                f"{tuple(inputs.shape)}"
            )
        length = inputs.shape[self.dimension]
        widths = draws.integers(min(self.max_width, length) + 1, self.masks)
        starts = (draws.uniform(0.0, 1.0, self.masks) * (length - widths + 1)).long()
        places = torch.arange(length).view(1, 1, -1)
        inside = (places >= starts[:, :, None]) & (places < (starts + widths)[:, :, None])
        shape = [len(inputs)] + [1] * (inputs.dim() - 1)
        shape[self.dimension] = length
        return inputs.masked_fill(inside.any(1).view(shape).to(inputs.device, non_blocking=True), self.value)


class MaskTime(_Mask):
    """Sets spans of time to a constant, in all channels alike.

    Args:
        max_width: the longest span, in steps of time; lengths from 0 are drawn.
        masks: how many spans.
        value: the constant.

    Example:
        >>> MaskTime(0)(torch.ones(1, 4)).tolist()
        [[1.0, 1.0, 1.0, 1.0]]
    """


class MaskFrequency(_Mask):
    """Sets bands of frequency of a spectrogram ``(B, ..., F, T)`` to a constant.

    Args:
        max_width: the widest band, in rows; widths from 0 are drawn.
        masks: how many bands.
        value: the constant.

    Example:
        >>> MaskFrequency(2)(torch.ones(3, 8, 5)).shape
        torch.Size([3, 8, 5])
    """

    dimension = -2
