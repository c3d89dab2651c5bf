"""Rotation, translation, scale, shear and flips, with parameters of its own for each image.

Example:
    >>> import torch
    >>> from lightning_privacy.data.augmentation.draws import Draws
    >>> images = torch.rand(64, 3, 8, 8)
    >>> flipped = Flip()(images, Draws(torch.arange(64)))
    >>> is_same = (flipped == images).flatten(1).all(1)
    >>> is_mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    >>> bool((is_same ^ is_mirrored).all()), 20 < int(is_mirrored.sum()) < 44
    (True, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import one_of
from lightning_privacy.data.augmentation.base import Geometric, rowwise
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.warp import affine_maps, moved_points, warp
from lightning_privacy.errors import ConfigurationError

__all__ = ["Affine", "Flip"]


def interval(name: str, value: float | Sequence[float] | None, *, around: float = 0.0) -> tuple[float, float]:
    """The range a parameter is drawn from: given as one, or as the largest distance from ``around``."""
    if value is None:
        return around, around
    if isinstance(value, int | float):
        if value < 0:
            raise ConfigurationError(f"{name} must be >= 0 or a range (low, high), got {value!r}")
        return around - value, around + value
    ends = tuple(float(end) for end in value)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ConfigurationError(f"{name} must be a number or a range (low, high), got {value!r}")
    return ends[0], ends[1]


@dataclass(frozen=True)
class _Maps:
    maps: Tensor
    size: tuple[int, int]


class Affine(Geometric):
    """Rotates, shears, scales and translates each image by amounts of its own.

    Args:
        degrees: rotation, clockwise: a range, or the largest.
        translate: the largest shift as a share of width and height; whole pixels are drawn.
        scale: range of the factor.
        shear: degrees: in x (a range, or the largest), or four numbers for x and y.
        interpolation: ``"nearest"`` or ``"bilinear"``.
        fill: value outside the image, or one for each channel; ``None`` for zeros.
        center: fixed point as x and y in pixels from the upper left corner; the middle where not given.

    Raises:
        ConfigurationError: A range is upside down or out of bounds.

    Example:
        >>> Affine(15, translate=(0.1, 0.1))(torch.rand(4, 1, 28, 28)).shape
        torch.Size([4, 1, 28, 28])
    """

    def __init__(
        self,
        degrees: float | Sequence[float] = 0.0,
        *,
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: str = "nearest",
        fill: float | Sequence[float] | None = 0.0,
        center: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.degrees = interval("degrees", degrees)
        if translate is not None and (len(translate) != 2 or not all(0 <= share <= 1 for share in translate)):
            raise ConfigurationError(f"translate must be two numbers from 0 to 1, got {translate!r}")
        self.translate = None if translate is None else (float(translate[0]), float(translate[1]))
        self.scale = interval("scale", scale, around=1.0)
        if self.scale[0] <= 0:
            raise ConfigurationError(f"scale must be above 0, got {scale!r}")
        four = isinstance(shear, Sequence) and len(shear) == 4
        shear_x, shear_y = (shear[:2], shear[2:]) if isinstance(shear, Sequence) and four else (shear, None)
        self.shear_x, self.shear_y = interval("shear", shear_x), interval("shear", shear_y)
        self.interpolation = str(one_of(("nearest", "bilinear"), interpolation=interpolation))
        self.fill = None if fill is None else [float(fill)] if isinstance(fill, int | float) else list(map(float, fill))
        self.center = None if center is None else (float(center[0]), float(center[1]))

    @override
    def sample(self, inputs: Tensor, draws: Draws) -> _Maps:
        height, width = inputs.shape[-2:]
        still = torch.zeros(len(draws))
        angle = draws.uniform(*self.degrees) if self.degrees != (0.0, 0.0) else still
        translate = None
        if self.translate is not None:
            reach = torch.tensor([self.translate[0] * width, self.translate[1] * height])
            translate = (draws.uniform(-1.0, 1.0, 2) * reach).round()
        scale = draws.uniform(*self.scale) if self.scale != (1.0, 1.0) else None
        shear = None
        if self.shear_x != (0.0, 0.0) or self.shear_y != (0.0, 0.0):
            shear = torch.stack([draws.uniform(*self.shear_x), draws.uniform(*self.shear_y)], 1)
        center = (0.0, 0.0) if self.center is None else (self.center[0] - width / 2, self.center[1] - height / 2)
        maps = affine_maps(angle=angle, translate=translate, scale=scale, shear=shear, center=center)
        return _Maps(maps, (height, width))

    @override
    def move_images(self, images: Tensor, parameters: _Maps) -> Tensor:
        return warp(images, parameters.maps, mode=self.interpolation, fill=self.fill)

    @override
    def move_masks(self, masks: Tensor, parameters: _Maps) -> Tensor:
        return warp(masks, parameters.maps, mode="nearest", fill=None)

    @override
    def move_points(self, points: Tensor, parameters: _Maps) -> Tensor:
        return moved_points(points, parameters.maps, size=parameters.size, out_size=parameters.size)

    @override
    def out_size(self, parameters: _Maps) -> tuple[int, int]:
        return parameters.size


@dataclass(frozen=True)
class _Flipped:
    rows: Tensor
    size: tuple[int, int]


class Flip(Geometric):
    """Mirrors each image with the given probability.

    Args:
        probability: from 0 to 1.
        vertical: turn upside down, in place of left to right.

    Example:
        >>> Flip(probability=1.0)(torch.tensor([[[[1.0, 2.0]]]])).flatten().tolist()
        [2.0, 1.0]
    """

    def __init__(self, probability: float = 0.5, *, vertical: bool = False) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ConfigurationError(f"probability must be from 0 to 1, got {probability!r}")
        self.probability = float(probability)
        self.vertical = vertical

    @override
    def sample(self, inputs: Tensor, draws: Draws) -> _Flipped:
        return _Flipped(draws.chance(self.probability), (inputs.shape[-2], inputs.shape[-1]))

    @override
    def move_images(self, images: Tensor, parameters: _Flipped) -> Tensor:
        return torch.where(rowwise(parameters.rows, images), images.flip(-2 if self.vertical else -1), images)

    @override
    def move_masks(self, masks: Tensor, parameters: _Flipped) -> Tensor:
        return self.move_images(masks, parameters)

    @override
    def move_points(self, points: Tensor, parameters: _Flipped) -> Tensor:
        axis, extent = (1, parameters.size[0]) if self.vertical else (0, parameters.size[1])
        mirrored = points.clone()
        mirrored[..., axis] = extent - points[..., axis]
        return torch.where(rowwise(parameters.rows, points), mirrored, points)

    @override
    def out_size(self, parameters: _Flipped) -> tuple[int, int]:
        return parameters.size
