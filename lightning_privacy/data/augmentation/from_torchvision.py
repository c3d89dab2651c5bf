"""torchvision's transforms for single images, as transforms of batches in which each image has its own parameters.

torchvision's transforms draw their parameters once for whatever they are given: called with a batch they treat all of
its images alike. What is translated here draws from the same ranges for each image; what is not, is refused by name.

Example:
    >>> from torchvision.transforms import v2
    >>> type(from_torchvision(v2.RandomRotation(15))).__name__
    'Affine'
    >>> from_torchvision(v2.ToPILImage())
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.ConfigurationError: ToPILImage works on PIL images, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from lightning_privacy.data.augmentation.base import PerExample
from lightning_privacy.data.augmentation.colour import Blur, ColorJitter, Sharpen
from lightning_privacy.data.augmentation.combining import Alike, Chain, OneOf, Sometimes
from lightning_privacy.data.augmentation.corruption import Erase, Noise
from lightning_privacy.data.augmentation.cropping import Crop, ResizedCrop
from lightning_privacy.data.augmentation.geometric import Affine, Flip
from lightning_privacy.data.augmentation.mixing import CutMix, MixUp
from lightning_privacy.data.augmentation.policies import RandAugment, TrivialAugment
from lightning_privacy.errors import ConfigurationError

__all__ = ["from_torchvision", "is_torchvision"]

_PIL_INTERPOLATION = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_NEED_PIL = ("PILToTensor", "ToPILImage", "ToTensor", "JPEG")


def is_torchvision(transform: object) -> bool:
    """Whether it is one of torchvision's own transforms, of either version, and no sub-class of one."""
    return type(transform).__module__.startswith("torchvision.transforms")


def _interpolation(transform: Any) -> str:
    given = transform.interpolation
    name = str(_PIL_INTERPOLATION.get(given, given) if isinstance(given, int) else getattr(given, "value", given))
    name = "nearest" if name == "nearest-exact" else name
    if name not in ("nearest", "bilinear"):
        raise ConfigurationError(
            f"{type(transform).__name__}(interpolation={name!r}) has no equivalent with parameters for each image: use "
            "nearest or bilinear, or where='workers'"
        )
    return name


def _fill(transform: Any) -> float | Sequence[float] | None:
    fill = transform.fill
    if isinstance(fill, dict):
        raise ConfigurationError(
            f"{type(transform).__name__}(fill={fill!r}) depends on the type of the input: give one number or one for "
            "each channel, or use where='workers'"
        )
    return fill  # type: ignore[no-any-return]


def _affine(transform: Any) -> PerExample:
    return Affine(
        tuple(transform.degrees),
        translate=transform.translate,
        scale=transform.scale,
        shear=None if transform.shear is None else tuple(transform.shear),
        interpolation=_interpolation(transform),
        fill=_fill(transform),
        center=transform.center,
    )


def _rotation(transform: Any) -> PerExample:
    if transform.expand:
        raise ConfigurationError(
            "RandomRotation(expand=True) gives each image a size of its own, which a batch can't have: leave expand out"
        )
    # torchvision's rotations turn against the clock, its affine maps with it.
    low, high = transform.degrees
    return Affine(
        (-high, -low), interpolation=_interpolation(transform), fill=_fill(transform), center=transform.center
    )


def _crop(transform: Any) -> PerExample:
    padding = transform.padding if transform.padding is not None else 0
    if type(transform).__module__.startswith("torchvision.transforms.v2") and isinstance(padding, Sequence):
        left, right, top, bottom = padding
        padding = (left, top, right, bottom)
    fill = _fill(transform)
    if fill is not None and not isinstance(fill, int | float):
        raise ConfigurationError(f"RandomCrop(fill={fill!r}): give one number for all channels, or use where='workers'")
    if transform.padding_mode == "symmetric":
        raise ConfigurationError(
            "RandomCrop(padding_mode='symmetric') has no equivalent on the device: use reflect, or where='workers'"
        )
    return Crop(
        transform.size,
        padding,
        fill=fill or 0.0,
        padding_mode=transform.padding_mode,
        pad_if_needed=transform.pad_if_needed,
    )


def _erasing(transform: Any) -> PerExample:
    value = transform.value
    value = None if value == "random" else value
    return Erase(transform.p, scale=transform.scale, ratio=transform.ratio, value=value)


def _gated(function: Callable[[Any], Callable[[Tensor], Tensor]]) -> Callable[[Any], PerExample]:
    def translate(transform: Any) -> PerExample:
        inner = Alike(function(transform), type(transform).__name__)
        return Sometimes([inner], probability=transform.p)

    return translate


def _as_it_is(*, moves: bool = False) -> Callable[[Any], PerExample]:
    return lambda transform: Alike(transform, type(transform).__name__, moves=moves)


def _several(transform: Any) -> list[PerExample]:
    return [from_torchvision(item) for item in transform.transforms]


_TRANSLATIONS: dict[str, Callable[[Any], PerExample]] = {
    "CenterCrop": _as_it_is(moves=True),
    "ColorJitter": lambda t: ColorJitter(
        brightness=t.brightness, contrast=t.contrast, saturation=t.saturation, hue=t.hue
    ),
    "Compose": lambda t: Chain(_several(t)),
    "ConvertImageDtype": _as_it_is(),
    "CutMix": lambda t: CutMix(alpha=t.alpha, num_classes=t.num_classes),
    "GaussianBlur": lambda t: Blur(t.kernel_size, sigma=t.sigma),
    "GaussianNoise": lambda t: Noise(t.sigma, mean=t.mean, bounds=(0.0, 1.0) if t.clip else None),
    "Grayscale": _as_it_is(),
    "Identity": _as_it_is(),
    "MixUp": lambda t: MixUp(alpha=t.alpha, num_classes=t.num_classes),
    "Normalize": _as_it_is(),
    "Pad": _as_it_is(moves=True),
    "RGB": _as_it_is(),
    "RandAugment": lambda t: RandAugment(
        t.num_ops,
        magnitude=t.magnitude,
        num_magnitude_bins=t.num_magnitude_bins,
        interpolation=_interpolation(t),
        fill=_fill(t),
    ),
    "RandomAdjustSharpness": lambda t: Sometimes([Sharpen(t.sharpness_factor)], probability=t.p),
    "RandomAffine": _affine,
    "RandomApply": lambda t: Sometimes(_several(t), probability=t.p),
    "RandomAutocontrast": _gated(lambda _: tvf.autocontrast),
    "RandomChoice": lambda t: OneOf(_several(t), weights=getattr(t, "p", None)),
    "RandomCrop": _crop,
    "RandomEqualize": _gated(lambda _: tvf.equalize),
    "RandomErasing": _erasing,
    "RandomGrayscale": _gated(lambda _: _gray),
    "RandomHorizontalFlip": lambda t: Flip(t.p),
    "RandomInvert": _gated(lambda _: tvf.invert),
    "RandomPosterize": _gated(lambda t: lambda images: tvf.posterize(images, t.bits)),
    "RandomResizedCrop": lambda t: ResizedCrop(t.size, scale=t.scale, ratio=t.ratio, interpolation=_interpolation(t)),
    "RandomRotation": _rotation,
    "RandomSolarize": _gated(lambda t: lambda images: tvf.solarize(images, t.threshold)),
    "RandomVerticalFlip": lambda t: Flip(t.p, vertical=True),
    "Resize": _as_it_is(moves=True),
    "ToDtype": _as_it_is(),
    "ToImage": lambda _: Chain([]),
    "ToPureTensor": lambda _: Chain([]),
    "TrivialAugmentWide": lambda t: TrivialAugment(
        num_magnitude_bins=t.num_magnitude_bins, interpolation=_interpolation(t), fill=_fill(t)
    ),
}


def _gray(images: Tensor) -> Tensor:
    gray: Tensor = tvf.rgb_to_grayscale(images, num_output_channels=images.shape[1])
    return gray


def from_torchvision(transform: Any) -> PerExample:
    """The same augmentation for batches, with parameters for each image.

    Args:
        transform: an instance of one of torchvision's classes, of ``torchvision.transforms`` or its ``v2``.

    Raises:
        ConfigurationError: It needs PIL images, or has no equivalent here.
    """
    name = type(transform).__name__
    if name in _NEED_PIL:
        raise ConfigurationError(
            f"{name} works on PIL images, which are not on the device: convert in the data set, or use where='workers'"
        )
    translate = _TRANSLATIONS.get(name) if is_torchvision(transform) else None
    if translate is None:
        raise ConfigurationError(
            f"{name} has no equivalent with parameters for each image of a batch: use where='workers', or a module of "
            "your own that treats each row by itself and says so with per_example = True"
        )
    return translate(transform)
