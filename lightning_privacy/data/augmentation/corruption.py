"""Rectangles that are erased and noise that is added, drawn for each image.

Example:
    >>> import torch
    >>> from lightning_privacy.data.augmentation.draws import Draws
    >>> erased = Erase(1.0)(torch.ones(8, 1, 16, 16), Draws(torch.arange(8)))
    >>> bool((erased == 0).flatten(1).any(1).all())
    True
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import non_negative
from lightning_privacy.data.augmentation.base import PerExample, check_images, rowwise
from lightning_privacy.data.augmentation.cropping import rectangles
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.errors import ConfigurationError

__all__ = ["Erase", "Noise"]


class Erase(PerExample):
    """Erases a rectangle of each image with some probability (Zhong et al., "Random Erasing", 2017).

    Args:
        probability: from 0 to 1.
        scale: range of the rectangle's share of the image.
        ratio: range of its height over its width.
        value: what it is filled with, one number or one for each channel; ``None`` for standard normal noise.

    Example:
        >>> Erase(0.0)(torch.ones(2, 1, 4, 4)).min().item()
        1.0
    """

    def __init__(
        self,
        probability: float = 0.5,
        *,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] | None = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ConfigurationError(f"probability must be from 0 to 1, got {probability!r}")
        if not 0 <= scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ConfigurationError(f"scale must be a range within 0 to 1 and ratio one above 0, got {scale}, {ratio}")
        self.probability = float(probability)
        self.scale, self.ratio = (float(scale[0]), float(scale[1])), (float(ratio[0]), float(ratio[1]))
        self.value = None if value is None else [float(value)] if isinstance(value, int | float) else list(value)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_images(inputs, type(self).__name__)
        size = (inputs.shape[-2], inputs.shape[-1])
        chosen = draws.chance(self.probability)
        heights, widths, fits = _sides(draws, size, self.scale, self.ratio)
        top = (draws.uniform() * (size[0] - heights + 1)).long()
        left = (draws.uniform() * (size[1] - widths + 1)).long()
        bottom = torch.where(chosen & fits, top + heights, top)
        ends = [rowwise(end, inputs) for end in (top, bottom, left, left + widths)]
        rows = torch.arange(size[0], device=inputs.device).view(1, 1, -1, 1)
        columns = torch.arange(size[1], device=inputs.device).view(1, 1, 1, -1)
        inside = ((rows >= ends[0]) & (rows < ends[1])) & ((columns >= ends[2]) & (columns < ends[3]))
        if self.value is None:
            noise = draws.field(tuple(inputs.shape[1:]), inputs.device, normal=True)
            return torch.where(inside, noise.to(inputs.dtype), inputs)
        fill = torch.tensor(self.value, device=inputs.device).to(inputs.dtype).view(1, -1, 1, 1)
        return torch.where(inside, fill, inputs)


def _sides(
    draws: Draws, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    # Here the ratio is that of height to width, so both change places.
    heights, widths, fits = rectangles(draws, size=(size[1], size[0]), area=scale, ratio=ratio, strict=True)
    return torch.where(fits, heights, 0), torch.where(fits, widths, 0), fits


class Noise(PerExample):
    """Adds Gaussian noise to every value.

    Args:
        sigma: its standard deviation; a range is drawn from for each example.
        mean: its mean.
        bounds: values are cut off at these; ``None`` for no bounds. For uint8 all is scaled to 0 to 255.

    Example:
        >>> Noise(0.1, bounds=None)(torch.zeros(4, 10)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        sigma: float | Sequence[float] = 0.1,
        *,
        mean: float = 0.0,
        bounds: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        ends = (sigma, sigma) if isinstance(sigma, int | float) else (sigma[0], sigma[-1])
        self.sigma = (non_negative(sigma=ends[0]), non_negative(sigma=ends[1]))
        self.mean = float(mean)
        self.bounds = None if bounds is None else (float(bounds[0]), float(bounds[1]))

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        if not inputs.is_floating_point() and inputs.dtype != torch.uint8:
            raise ConfigurationError(f"Noise needs floats or uint8, got {inputs.dtype}: convert before")
        sigma = rowwise(draws.uniform(*self.sigma), inputs) if self.sigma[0] != self.sigma[1] else self.sigma[0]
        noise = draws.field(tuple(inputs.shape[1:]), inputs.device, normal=True).mul_(sigma)
        if self.mean:
            noise.add_(self.mean)
        if inputs.dtype == torch.uint8:
            noisy = inputs + noise.mul_(255).to(torch.int16)
            if self.bounds is None:
                return noisy.clamp_(0, 255).to(torch.uint8)
            return noisy.clamp_(round(255 * self.bounds[0]), round(255 * self.bounds[1])).to(torch.uint8)
        noisy = noise.to(inputs.dtype).add_(inputs)
        return noisy if self.bounds is None else noisy.clamp_(*self.bounds)
