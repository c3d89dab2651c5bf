"""Small affine and elastic variations of images: what another hand, or the same hand another day, would have drawn.

The elastic part moves every pixel by a smooth random field (Simard, Steinkraus and Platt, "Best practices for
convolutional neural networks applied to visual document analysis", ICDAR 2003, section 2); here the field is drawn on
a coarse grid and interpolated in place of being drawn for each pixel and smoothed.

Example:
    >>> import numpy as np
    >>> images = np.zeros((2, 28, 28), np.uint8)
    >>> images[:, 10:18, 10:18] = 200
    >>> varied = vary(images, strength=1.0, generator=np.random.default_rng(0))
    >>> varied.shape, varied.dtype, bool((varied[0] != varied[1]).any())
    ((2, 28, 28), dtype('uint8'), True)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_privacy._validate import non_negative
from lightning_privacy.data.augmentation.warp import affine_maps

__all__ = ["vary"]

# At strength 1, the standard deviations: degrees, pixels, log of the factor, degrees, pixels of the elastic field.
_TURN, _SHIFT, _SCALE, _SHEAR, _FIELD = 5.0, 0.6, 0.04, 3.0, 0.5
# Points of the coarse grid along a side, of which the outermost lie beyond the image.
_KNOTS = 6
# Images at a time, which bounds the memory of the grids.
_BLOCK = 4096
# Beyond this a digit can turn into another, or leave the image.
_FURTHEST = 2.5


def vary(images: npt.NDArray[np.uint8], *, strength: float, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A variation of each image, each with amounts of its own.

    Args:
        images: Shape ``(count, height, width)``; what lies outside counts as 0.
        strength: How far they are moved; 0 leaves them as they are.
        generator: Of the amounts.

    Returns:
        Of the same shape.

    Raises:
        ConfigurationError: The strength is negative.
    """
    if non_negative(strength=strength) == 0:
        return images
    varied = np.empty_like(images)
    for start in range(0, len(images), _BLOCK):
        block = torch.from_numpy(images[start : start + _BLOCK]).unsqueeze(1).to(torch.float32)
        grid = _places(block, strength, generator)
        moved = F.grid_sample(block, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        varied[start : start + _BLOCK] = moved.round_().clamp_(0, 255).squeeze(1).to(torch.uint8).numpy()
    return varied


def _places(images: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """Where each pixel of the result is read, in the coordinates of ``grid_sample``, ``(count, height, width, 2)``."""
    count, _, height, width = images.shape

    def amounts(*shape: int) -> Tensor:
        drawn = generator.standard_normal((count, *shape), dtype=np.float32)
        return torch.from_numpy(drawn).clamp_(-_FURTHEST, _FURTHEST) * strength

    maps = affine_maps(
        angle=amounts() * _TURN,
        translate=amounts(2) * _SHIFT,
        scale=torch.exp(amounts() * _SCALE),
        shear=amounts(2) * _SHEAR,
    )
    half = torch.tensor([width / 2, height / 2])
    # From pixels about the centre to coordinates of -1 to 1 on both sides.
    maps[:, :, 2] /= half
    if height != width:
        maps[:, 0, 1] *= height / width
        maps[:, 1, 0] *= width / height
    places = F.affine_grid(maps.to(torch.float32), list(images.shape), align_corners=False)
    field = F.interpolate(amounts(2, _KNOTS, _KNOTS) * _FIELD, size=(height, width), mode="bicubic", align_corners=True)
    return places + field.permute(0, 2, 3, 1) / half
