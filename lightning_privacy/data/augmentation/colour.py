"""Brightness, contrast, saturation, hue, sharpness and blur by amounts of their own for each image.

Colours of floats are from 0 to 1, as everywhere in torchvision, and of uint8 from 0 to 255. Grey is ITU-R 601-2 luma.

Example:
    >>> import torch
    >>> images = torch.full((2, 3, 1, 1), 0.25)
    >>> brightened(images, torch.tensor([1.0, 2.0]))[:, 0].flatten().tolist()
    [0.25, 0.5]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tvf
from typing_extensions import override

from lightning_privacy.data.augmentation.base import PerExample, check_images, rowwise
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.geometric import interval
from lightning_privacy.errors import ConfigurationError

__all__ = ["Blur", "ColorJitter", "Sharpen", "brightened", "contrasted", "hue_turned", "saturated", "sharpened"]


def top_value(images: Tensor) -> float:
    """The value of white."""
    return 1.0 if images.is_floating_point() else float(torch.iinfo(images.dtype).max)


def _finished(values: Tensor, like: Tensor) -> Tensor:
    values = values.clamp_(0, top_value(like))
    return values if values.dtype == like.dtype else values.to(like.dtype)


def _factors(factors: Tensor, images: Tensor) -> Tensor:
    return rowwise(factors, images).to(images.dtype if images.is_floating_point() else torch.float32)


def _gray(images: Tensor) -> Tensor:
    floats = images if images.is_floating_point() else images.to(torch.float32)
    if images.shape[1] != 3:
        return floats
    weights = torch.tensor([0.2989, 0.587, 0.114], dtype=floats.dtype, device=images.device).view(1, 3, 1, 1)
    gray = (floats * weights).sum(1, keepdim=True)
    return gray if images.is_floating_point() else gray.floor_()


def _blended(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    share = _factors(factors, images)
    return _finished(images * share + other * (1 - share), images)


def brightened(images: Tensor, factors: Tensor) -> Tensor:
    """Images times a factor each, ``(B,)``."""
    return _finished(images * _factors(factors, images), images)


def contrasted(images: Tensor, factors: Tensor) -> Tensor:
    """Images blended with their mean grey; a factor of 1 leaves them."""
    return _blended(images, _gray(images).mean((1, 2, 3), keepdim=True), factors)


def saturated(images: Tensor, factors: Tensor) -> Tensor:
    """Images blended with their grey version; a factor of 1 leaves them, and grey images stay."""
    return images if images.shape[1] == 1 else _blended(images, _gray(images), factors)


def hue_turned(images: Tensor, turns: Tensor) -> Tensor:
    """Images with their hue turned by a share of the colour circle each; grey images stay."""
    if images.shape[1] == 1:
        return images
    floats = tvf.to_dtype(images, torch.float32, scale=True)
    low, high = floats.amin(1), floats.amax(1)
    spread = high - low
    red, green, blue = floats.unbind(1)
    safe = torch.where(spread == 0, 1.0, spread)
    sector = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (sector / 6 + rowwise(turns, sector)).remainder(1.0) * 6
    # Each channel as a function of hue: full over a third of the circle, none over another, linear between.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    place = (hue.unsqueeze(1) + offsets).remainder(6.0)
    dip = torch.minimum(place, 4 - place).clamp_(0, 1)
    turned = high.unsqueeze(1) - spread.unsqueeze(1) * dip
    result: Tensor = tvf.to_dtype(turned.clamp_(0, 1), images.dtype, scale=True)
    return result


def sharpened(images: Tensor, factors: Tensor) -> Tensor:
    """Images blended with a smoothed version; 0 is smooth, 1 leaves them, 2 sharpens. The border stays."""
    if min(images.shape[-2:]) <= 2:
        return images
    floats = images if images.is_floating_point() else images.to(torch.float32)
    kernel = torch.full((3, 3), 1 / 13, dtype=floats.dtype, device=images.device)
    kernel[1, 1] = 5 / 13
    smooth = F.conv2d(floats, kernel.expand(images.shape[1], 1, 3, 3), groups=images.shape[1])
    if not images.is_floating_point():
        smooth = smooth.round_()
    share = _factors(factors, images)
    out = floats.clone()
    inner = out[..., 1:-1, 1:-1]
    inner.add_((smooth - inner) * (1 - share))
    return _finished(out, images)


class ColorJitter(PerExample):
    """Changes brightness, contrast, saturation and hue of each image, in an order of its own.

    Args:
        brightness: range of the factor, or its largest distance from 1.
        contrast: the same.
        saturation: the same.
        hue: range of the turn as a share of the colour circle, or the largest; at most 0.5.

    Raises:
        ConfigurationError: A range is out of bounds.

    Example:
        >>> ColorJitter(brightness=0.2, hue=0.1)(torch.rand(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        *,
        brightness: float | Sequence[float] | None = None,
        contrast: float | Sequence[float] | None = None,
        saturation: float | Sequence[float] | None = None,
        hue: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        given = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        ranges = {name: interval(name, value, around=1.0) for name, value in given.items()}
        for name, value in given.items():
            if isinstance(value, int | float):
                ranges[name] = max(0.0, ranges[name][0]), ranges[name][1]
            if ranges[name][0] < 0:
                raise ConfigurationError(f"{name} must not be below 0, got {value!r}")
        self.turn = interval("hue", hue)
        if max(map(abs, self.turn)) > 0.5:
            raise ConfigurationError(f"hue must be within -0.5 to 0.5, got {hue!r}")
        self.ranges = ranges

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_images(inputs, type(self).__name__)
        functions = {"brightness": brightened, "contrast": contrasted, "saturation": saturated}
        steps: list[tuple[Callable[[Tensor, Tensor], Tensor], Tensor]]
        steps = [(functions[name], draws.uniform(*ends)) for name, ends in self.ranges.items() if ends != (1.0, 1.0)]
        if self.turn != (0.0, 0.0):
            steps.append((hue_turned, draws.uniform(*self.turn)))
        if len(steps) < 2:
            return steps[0][0](inputs, steps[0][1]) if steps else inputs
        order = draws.permutation(len(steps))
        out = inputs.clone()
        for place in range(len(steps)):
            for number, (function, amounts) in enumerate(steps):
                rows = (order[:, place] == number).nonzero()[:, 0]
                if len(rows):
                    chosen = rows.to(inputs.device, non_blocking=True)
                    out.index_copy_(0, chosen, function(out.index_select(0, chosen), amounts[rows]))
        return out


class Sharpen(PerExample):
    """Sharpens or smoothes every image by one factor.

    Args:
        factor: 0 is smooth, 1 leaves images as they are.

    Example:
        >>> Sharpen(2.0)(torch.rand(2, 1, 5, 5)).shape
        torch.Size([2, 1, 5, 5])
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        if factor < 0:
            raise ConfigurationError(f"factor must be >= 0, got {factor!r}")
        self.factor = float(factor)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_images(inputs, type(self).__name__)
        return sharpened(inputs, torch.full((len(inputs),), self.factor))


class Blur(PerExample):
    """Blurs each image with a Gaussian of its own width.

    Args:
        kernel_size: in pixels, odd: one number, or width and height.
        sigma: range of the standard deviation, in torchvision's measure of it.

    Example:
        >>> Blur(3, sigma=(0.1, 2.0))(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, kernel_size: int | Sequence[int], *, sigma: float | Sequence[float] = (0.1, 2.0)) -> None:
        super().__init__()
        sizes = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(sizes) != 2 or any(size < 1 or size % 2 == 0 for size in sizes):
            raise ConfigurationError(f"kernel_size must be odd and above 0, got {kernel_size!r}")
        self.kernel_size = (int(sizes[0]), int(sizes[1]))
        ends = (sigma, sigma) if isinstance(sigma, int | float) else (sigma[0], sigma[-1])
        if not 0 < ends[0] <= ends[1]:
            raise ConfigurationError(f"sigma must be a range above 0, got {sigma!r}")
        self.sigma = (float(ends[0]), float(ends[1]))

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_images(inputs, type(self).__name__)
        sigma = draws.uniform(*self.sigma).to(inputs.device, non_blocking=True)
        floats = inputs if inputs.is_floating_point() else inputs.to(torch.float32)
        rows, channels = inputs.shape[:2]
        across, down = self.kernel_size
        padded = F.pad(floats, (across // 2, across // 2, down // 2, down // 2), mode="reflect")
        images = padded.reshape(1, rows * channels, *padded.shape[-2:])
        for size, shape in ((across, (1, across)), (down, (down, 1))):
            kernels = _gaussians(size, sigma).to(floats.dtype).repeat_interleave(channels, 0)
            images = F.conv2d(images, kernels.view(rows * channels, 1, *shape), groups=rows * channels)
        blurred = images.view(inputs.shape)
        return blurred if inputs.is_floating_point() else blurred.round_().to(inputs.dtype)


def _gaussians(size: int, sigma: Tensor) -> Tensor:
    reach = (size - 1) / (2 * 2**0.5)
    places = torch.linspace(-reach, reach, size, device=sigma.device)
    return torch.softmax(-((places / sigma[:, None]) ** 2), 1)
