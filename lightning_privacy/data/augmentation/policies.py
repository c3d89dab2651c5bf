"""RandAugment and TrivialAugment, with operations and strengths of their own for each image.

The lists of operations and the ranges of their strengths are torchvision's. Images of one operation go through it
together, each with its own strength.

Example:
    >>> import torch
    >>> RandAugment()(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)).dtype
    torch.uint8
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf
from typing_extensions import override

from lightning_privacy._validate import non_negative_int, one_of, positive_int
from lightning_privacy.data.augmentation.base import PerExample, check_images, rowwise
from lightning_privacy.data.augmentation.colour import brightened, contrasted, saturated, sharpened, top_value
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.sample import Sample
from lightning_privacy.data.augmentation.warp import affine_maps, warp
from lightning_privacy.errors import ConfigurationError

__all__ = ["RandAugment", "TrivialAugment"]


@dataclass(frozen=True)
class _Strengths:
    """The largest strength of each operation; translations in pixels."""

    shear: float
    translate_x: float
    translate_y: float
    rotate: float
    colour: float
    posterize: float


@dataclass(frozen=True)
class _Operation:
    apply: Callable[[Tensor, Tensor], Tensor]
    strengths: Tensor | None = None
    signed: bool = False


class _Policy(PerExample):
    def __init__(self, *, num_magnitude_bins: int, interpolation: str, fill: float | Sequence[float] | None) -> None:
        super().__init__()
        self.num_magnitude_bins = positive_int(num_magnitude_bins=num_magnitude_bins)
        if num_magnitude_bins < 2:
            raise ConfigurationError(f"num_magnitude_bins must be at least 2, got {num_magnitude_bins}")
        self.interpolation = str(one_of(("nearest", "bilinear"), interpolation=interpolation))
        self.fill = None if fill is None else [float(fill)] if isinstance(fill, int | float) else list(map(float, fill))

    @abstractmethod
    def _largest(self, height: int, width: int) -> _Strengths:
        """The ends of the ranges."""

    def _warped(self, images: Tensor, maps: Tensor) -> Tensor:
        return warp(images, maps, mode=self.interpolation, fill=self.fill)

    def _operations(self, images: Tensor) -> list[_Operation]:
        height, width = images.shape[-2:]
        ends = self._largest(height, width)
        bins = self.num_magnitude_bins

        def up_to(end: float) -> Tensor:
            return torch.linspace(0.0, end, bins)

        def shear(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
            def apply(images: Tensor, amounts: Tensor) -> Tensor:
                angles = torch.zeros(len(amounts), 2)
                angles[:, axis] = torch.rad2deg(torch.atan(amounts))
                # Sheared from the upper left corner.
                corner = (-width / 2, -height / 2)
                return self._warped(images, affine_maps(angle=torch.zeros(len(amounts)), shear=angles, center=corner))

            return apply

        def translate(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
            def apply(images: Tensor, amounts: Tensor) -> Tensor:
                shifts = torch.zeros(len(amounts), 2)
                shifts[:, axis] = amounts.trunc()
                return self._warped(images, affine_maps(angle=torch.zeros(len(amounts)), translate=shifts))

            return apply

        def factor(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda images, amounts: function(images, 1 + amounts)

        bits = (8 - torch.arange(bins) / ((bins - 1) / ends.posterize)).round()
        return [
            _Operation(lambda images, _: images),
            _Operation(shear(0), up_to(ends.shear), signed=True),
            _Operation(shear(1), up_to(ends.shear), signed=True),
            _Operation(translate(0), up_to(ends.translate_x), signed=True),
            _Operation(translate(1), up_to(ends.translate_y), signed=True),
            _Operation(
                lambda images, amounts: self._warped(images, affine_maps(angle=-amounts)),
                up_to(ends.rotate),
                signed=True,
            ),
            _Operation(factor(brightened), up_to(ends.colour), signed=True),
            _Operation(factor(saturated), up_to(ends.colour), signed=True),
            _Operation(factor(contrasted), up_to(ends.colour), signed=True),
            _Operation(factor(sharpened), up_to(ends.colour), signed=True),
            _Operation(_posterized, bits),
            _Operation(_solarized, torch.linspace(1.0, 0.0, bins)),
            _Operation(lambda images, _: tvf.autocontrast(images)),
            _Operation(lambda images, _: tvf.equalize(images)),
        ]

    def _applied(self, images: Tensor, choices: Tensor, bins: Tensor, positive: Tensor) -> Tensor:
        """One operation for each image.

        Args:
            images: ``(B, C, H, W)``.
            choices: number of the operation, ``(B,)``.
            bins: number of the strength, ``(B,)``.
            positive: which sign it has where it has one, bool, ``(B,)``.
        """
        out = images.clone()
        for number, operation in enumerate(self._operations(images)):
            rows = (choices == number).nonzero()[:, 0]
            if len(rows) == 0 or number == 0:
                continue
            amounts = torch.zeros(len(rows))
            if operation.strengths is not None:
                amounts = operation.strengths[bins[rows]]
                amounts = torch.where(positive[rows], amounts, -amounts) if operation.signed else amounts
            chosen = rows.to(images.device, non_blocking=True)
            out.index_copy_(0, chosen, operation.apply(images.index_select(0, chosen), amounts))
        return out

    @override
    def run(self, sample: Sample, draws: Draws) -> Sample:
        if sample.followers:
            raise ConfigurationError(
                f"{type(self).__name__} moves pixels, and masks, boxes or points don't follow it: use single "
                "transforms such as Affine and Flip"
            )
        return super().run(sample, draws)


class RandAugment(_Policy):
    """Some operations of equal strength, one after the other (Cubuk et al., "RandAugment", 2020).

    Args:
        num_ops: how many.
        magnitude: number of the strength, below ``num_magnitude_bins``.
        num_magnitude_bins: into how many strengths the ranges are divided.
        interpolation: ``"nearest"`` or ``"bilinear"``.
        fill: value outside of the image; ``None`` for zeros.

    Example:
        >>> RandAugment(num_ops=0)(torch.ones(1, 1, 4, 4)).min().item()
        1.0
    """

    def __init__(
        self,
        num_ops: int = 2,
        *,
        magnitude: int = 9,
        num_magnitude_bins: int = 31,
        interpolation: str = "nearest",
        fill: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_magnitude_bins=num_magnitude_bins, interpolation=interpolation, fill=fill)
        self.num_ops = non_negative_int(num_ops=num_ops)
        self.magnitude = non_negative_int(magnitude=magnitude)
        if magnitude >= num_magnitude_bins:
            raise ConfigurationError(
                f"magnitude must be below num_magnitude_bins={num_magnitude_bins}, got {magnitude}"
            )

    @override
    def _largest(self, height: int, width: int) -> _Strengths:
        return _Strengths(0.3, 150 / 331 * width, 150 / 331 * height, 30.0, 0.9, 4.0)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_images(inputs, type(self).__name__)
        bins = torch.full((len(inputs),), self.magnitude)
        for _ in range(self.num_ops):
            inputs = self._applied(inputs, draws.integers(_COUNT), bins, draws.chance(0.5))
        return inputs


class TrivialAugment(_Policy):
    """One operation of any strength (Mueller and Hutter, "TrivialAugment", 2021; its wide ranges).

    Args:
        num_magnitude_bins: into how many strengths the ranges are divided.
        interpolation: ``"nearest"`` or ``"bilinear"``.
        fill: value outside of the image; ``None`` for zeros.

    Example:
        >>> TrivialAugment()(torch.rand(4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        num_magnitude_bins: int = 31,
        interpolation: str = "nearest",
        fill: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_magnitude_bins=num_magnitude_bins, interpolation=interpolation, fill=fill)

    @override
    def _largest(self, height: int, width: int) -> _Strengths:
        return _Strengths(0.99, 32.0, 32.0, 135.0, 0.99, 6.0)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_images(inputs, type(self).__name__)
        bins = draws.integers(self.num_magnitude_bins)
        return self._applied(inputs, draws.integers(_COUNT), bins, draws.chance(0.5))


_COUNT = 14


def _posterized(images: Tensor, bits: Tensor) -> Tensor:
    if images.is_floating_point():
        levels = rowwise(2.0**bits, images).to(images.dtype)
        return torch.minimum((images * levels).floor_(), levels - 1).clamp_(min=0) / levels
    whole = torch.iinfo(images.dtype).bits
    masks = ((2 ** bits.long()) - 1) * 2 ** (whole - bits.long())
    return images & rowwise(masks, images).to(images.dtype)


def _solarized(images: Tensor, thresholds: Tensor) -> Tensor:
    limits = rowwise(thresholds * top_value(images), images)
    return torch.where(images >= limits, tvf.invert(images), images)
