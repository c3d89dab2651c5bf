"""Crops at places of their own for each image, of one size (after padding) or scaled to one size.

Example:
    >>> import torch
    >>> Crop(28, padding=4)(torch.rand(8, 1, 28, 28)).shape
    torch.Size([8, 1, 28, 28])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_privacy._validate import one_of
from lightning_privacy.data.augmentation.base import Geometric
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.errors import ConfigurationError

__all__ = ["Crop", "ResizedCrop", "rectangles"]

_MODES = {"constant": "constant", "edge": "replicate", "reflect": "reflect"}
_ATTEMPTS = 10


def _pair(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else (size[0], size[-1])
    if min(pair) < 1:
        raise ConfigurationError(f"{name} must be at least 1, got {size!r}")
    return int(pair[0]), int(pair[1])


@dataclass(frozen=True)
class _Places:
    top: Tensor
    left: Tensor
    padding: tuple[int, int, int, int]


class Crop(Geometric):
    """Cuts a piece of one size out of each image, padded first where asked.

    Args:
        size: height and width of the piece, or both in one number.
        padding: pixels on each side: one number, (left and right, top and bottom), or (left, top, right, bottom).
        fill: value of the padding.
        padding_mode: ``"constant"``, ``"edge"`` or ``"reflect"``.
        pad_if_needed: pad further where the image is smaller than the piece.

    Raises:
        ConfigurationError: An argument is out of range, or an image too small.

    Example:
        >>> Crop(2)(torch.rand(3, 1, 4, 4)).shape
        torch.Size([3, 1, 2, 2])
    """

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] = 0,
        *,
        fill: float = 0.0,
        padding_mode: str = "constant",
        pad_if_needed: bool = False,
    ) -> None:
        super().__init__()
        self.size = _pair("size", size)
        sides = [padding] if isinstance(padding, int) else list(padding)
        sides = sides * (4 // len(sides)) if len(sides) in (1, 2, 4) else []
        if len(sides) != 4 or min(sides) < 0:
            raise ConfigurationError(f"padding must be 1, 2 or 4 whole numbers >= 0, got {padding!r}")
        self.padding = (sides[0], sides[1], sides[2], sides[3])
        self.fill = float(fill)
        self.padding_mode = str(one_of(tuple(_MODES), padding_mode=padding_mode))
        self.pad_if_needed = pad_if_needed

    @override
    def sample(self, inputs: Tensor, draws: Draws) -> _Places:
        left, top, right, bottom = self.padding
        missing_down = self.size[0] - (inputs.shape[-2] + top + bottom)
        missing_across = self.size[1] - (inputs.shape[-1] + left + right)
        if max(missing_down, missing_across) > 0 and not self.pad_if_needed:
            raise ConfigurationError(
                f"Crop of size={self.size} is larger than the images of {tuple(inputs.shape[-2:])} with "
                f"padding={self.padding}: lower size, raise padding or set pad_if_needed=True"
            )
        down, across = max(0, missing_down), max(0, missing_across)
        left, top, right, bottom = left + across, top + down, right + across, bottom + down
        spare_down = inputs.shape[-2] + top + bottom - self.size[0]
        spare_across = inputs.shape[-1] + left + right - self.size[1]
        return _Places(draws.integers(spare_down + 1), draws.integers(spare_across + 1), (left, top, right, bottom))

    def _cut(self, images: Tensor, places: _Places, mode: str, fill: float) -> Tensor:
        on_cpu = images.device.type == "cpu"
        if mode == "constant" and on_cpu:
            return self._copied(images, places, mode, fill)
        left, top, right, bottom = places.padding
        if mode == "constant":
            images = F.pad(images, (left, right, top, bottom), value=fill)
        else:
            floats = images if images.is_floating_point() else images.to(torch.float32)
            images = F.pad(floats, (left, right, top, bottom), mode=_MODES[mode]).to(images.dtype)
        return self._copied(images, places, mode, fill) if on_cpu else self._gathered(images, places)

    def _gathered(self, padded: Tensor, places: _Places) -> Tensor:
        """Read all pieces of padded images in one go, where starting a copy for each would take longer."""
        height, width = self.size
        rows = (places.top[:, None] + torch.arange(height))[:, :, None] * padded.shape[-1]
        positions = rows + (places.left[:, None] + torch.arange(width))[:, None, :]
        positions = positions.flatten(1).to(padded.device, non_blocking=True)[:, None]
        pixels: Tensor = padded.flatten(2).gather(2, positions.expand(-1, padded.shape[1], -1))
        return pixels.view(*padded.shape[:2], height, width)

    def _copied(self, images: Tensor, places: _Places, mode: str, fill: float) -> Tensor:
        """Copy what of each image is seen; padding by a constant is never made."""
        left, top = places.padding[:2] if mode == "constant" else (0, 0)
        height, width = self.size
        out = images.new_full((*images.shape[:2], height, width), fill)
        tops, lefts = (places.top - top).tolist(), (places.left - left).tolist()
        for source, target, y, x in zip(images, out, tops, lefts, strict=True):
            y1, y2 = max(0, y), min(images.shape[-2], y + height)
            x1, x2 = max(0, x), min(images.shape[-1], x + width)
            if y1 < y2 and x1 < x2:
                target[:, y1 - y : y2 - y, x1 - x : x2 - x].copy_(source[:, y1:y2, x1:x2])
        return out

    @override
    def move_images(self, images: Tensor, parameters: _Places) -> Tensor:
        return self._cut(images, parameters, self.padding_mode, self.fill)

    @override
    def move_masks(self, masks: Tensor, parameters: _Places) -> Tensor:
        return self._cut(masks, parameters, self.padding_mode, 0.0)

    @override
    def move_points(self, points: Tensor, parameters: _Places) -> Tensor:
        left, top = parameters.padding[:2]
        offset = torch.stack([left - parameters.left, top - parameters.top], 1).to(points.dtype)
        return points + offset[:, None].to(points.device, non_blocking=True)

    @override
    def out_size(self, parameters: _Places) -> tuple[int, int]:
        return self.size


@dataclass(frozen=True)
class _Pieces:
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    size: tuple[int, int]


def rectangles(
    draws: Draws, *, size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], strict: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the heights and widths of rectangles; the first of ten attempts that fits into the image counts.

    Args:
        draws: random numbers of the rows.
        size: of the image.
        area: range of the share of the image.
        ratio: range of what is drawn on a logarithmic scale: the first side over the second.
        strict: whether a rectangle must be smaller than the image in both directions.

    Returns:
        First side (of width, ``(B,)``), second side (of height), and whether an attempt fitted.
    """
    areas = draws.uniform(*area, _ATTEMPTS) * (size[0] * size[1])
    ratios = draws.uniform(log(ratio[0]), log(ratio[1]), _ATTEMPTS).exp()
    width, height = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    limit = 1 if strict else 0
    fits = (height <= size[0] - limit) & (width <= size[1] - limit)
    if not strict:
        fits &= (height > 0) & (width > 0)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    return width.gather(1, first)[:, 0].long(), height.gather(1, first)[:, 0].long(), fits.any(1)


class ResizedCrop(Geometric):
    """Cuts a piece of random size and shape out of each image and scales it to one size.

    Pixels are interpolated without a filter against aliasing, which torchvision's crop has by default: it shows where a
    piece is made smaller.

    Args:
        size: height and width of the result, or both in one number.
        scale: range of the piece's share of the image.
        ratio: range of width over height.
        interpolation: ``"nearest"`` or ``"bilinear"``.

    Example:
        >>> ResizedCrop(8)(torch.rand(3, 1, 16, 16)).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        size: int | Sequence[int],
        *,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__()
        self.size = _pair("size", size)
        if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1]:
            raise ConfigurationError(f"scale and ratio must be ranges above 0, got {scale!r} and {ratio!r}")
        self.scale, self.ratio = (float(scale[0]), float(scale[1])), (float(ratio[0]), float(ratio[1]))
        self.interpolation = str(one_of(("nearest", "bilinear"), interpolation=interpolation))

    @override
    def sample(self, inputs: Tensor, draws: Draws) -> _Pieces:
        height, width = inputs.shape[-2:]
        widths, heights, fits = rectangles(draws, size=(height, width), area=self.scale, ratio=self.ratio, strict=False)
        # The largest piece in the middle that has an allowed shape.
        shape = min(max(width / height, self.ratio[0]), self.ratio[1])
        middle = (min(height, round(width / shape)), min(width, round(height * shape)))
        heights = torch.where(fits, heights, middle[0])
        widths = torch.where(fits, widths, middle[1])
        top = (draws.uniform() * (height - heights + 1)).long()
        left = (draws.uniform() * (width - widths + 1)).long()
        top = torch.where(fits, top, (height - heights) // 2)
        left = torch.where(fits, left, (width - widths) // 2)
        return _Pieces(top, left, heights, widths, (height, width))

    def _scaled(self, images: Tensor, pieces: _Pieces, mode: str) -> Tensor:
        floats = images if images.dtype in (torch.float32, torch.float64) else images.to(torch.float32)
        rows = _places(pieces.top, pieces.height, self.size[0], images.shape[-2])
        columns = _places(pieces.left, pieces.width, self.size[1], images.shape[-1])
        shape = (len(rows), *self.size)
        grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], -1)
        grid = grid.to(floats.dtype).to(images.device, non_blocking=True)
        moved = F.grid_sample(floats, grid, mode=mode, padding_mode="border", align_corners=False)
        return moved.to(images.dtype) if images.is_floating_point() else moved.round_().to(images.dtype)

    @override
    def move_images(self, images: Tensor, parameters: _Pieces) -> Tensor:
        return self._scaled(images, parameters, self.interpolation)

    @override
    def move_masks(self, masks: Tensor, parameters: _Pieces) -> Tensor:
        return self._scaled(masks, parameters, "nearest")

    @override
    def move_points(self, points: Tensor, parameters: _Pieces) -> Tensor:
        start = torch.stack([parameters.left, parameters.top], 1)
        extent = torch.stack([parameters.width, parameters.height], 1)
        factor = torch.tensor([self.size[1], self.size[0]]) / extent
        start, factor = start.to(points)[:, None], factor.to(points)[:, None]
        return (points - start) * factor

    @override
    def out_size(self, parameters: _Pieces) -> tuple[int, int]:
        return self.size


def _places(start: Tensor, extent: Tensor, count: int, whole: int) -> Tensor:
    """Where output pixels are read along one axis, in grid_sample's coordinates; not outside of the piece."""
    pixels = (torch.arange(count) + 0.5) / count
    places = (start[:, None] + pixels * extent[:, None]).maximum(start[:, None] + 0.5)
    places = places.minimum((start + extent)[:, None] - 0.5)
    return places * (2 / whole) - 1
