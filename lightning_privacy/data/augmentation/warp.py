"""Affine maps of images, one for each row of a batch; the conventions, and the pixels, are torchvision's.

A map takes an output pixel to the place in the input it is read from. Coordinates are in pixels from the image's
centre.

Example:
    >>> import torch
    >>> images = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> quarter = affine_maps(angle=torch.tensor([90.0]))
    >>> warp(images, quarter, mode="nearest", fill=None)[0, 0]
    tensor([[6., 3., 0.],
            [7., 4., 1.],
            [8., 5., 2.]])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["affine_maps", "moved_points", "warp"]


def affine_maps(
    *,
    angle: Tensor,
    translate: Tensor | None = None,
    scale: Tensor | None = None,
    shear: Tensor | None = None,
    center: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """The maps of rotation, then shear, scale and translation.

    Args:
        angle: degrees, clockwise, ``(B,)``.
        translate: pixels to the right and down, ``(B, 2)``.
        scale: factor, ``(B,)``.
        shear: degrees in x and in y, ``(B, 2)``.
        center: the fixed point of rotation, shear and scale, from the image's centre.

    Returns:
        From output to input, float64 on the CPU, ``(B, 2, 3)``.
    """
    rows = len(angle)
    turn = torch.deg2rad(angle.double())
    shears = torch.zeros(rows, 2, dtype=torch.float64) if shear is None else torch.deg2rad(shear.double())
    shear_x, shear_y = shears.unbind(1)
    factor = torch.ones(rows, dtype=torch.float64) if scale is None else scale.double()
    shift = torch.zeros(rows, 2, dtype=torch.float64) if translate is None else translate.double()
    # The forward matrix is R(angle) SHy SHx without the scale; its determinant is 1.
    a = torch.cos(turn - shear_y) / torch.cos(shear_y)
    b = -(a * torch.tan(shear_x) + torch.sin(turn))
    c = torch.sin(turn - shear_y) / torch.cos(shear_y)
    d = torch.cos(turn) - c * torch.tan(shear_x)
    inverse = torch.stack([d, -b, -c, a], 1).view(rows, 2, 2) / factor.view(-1, 1, 1)
    fixed = torch.tensor(center, dtype=torch.float64)
    offset = fixed - torch.einsum("bij,bj->bi", inverse, fixed + shift)
    return torch.cat([inverse, offset.unsqueeze(2)], 2)


def warp(
    images: Tensor, maps: Tensor, *, mode: str, fill: Sequence[float] | None, size: tuple[int, int] | None = None
) -> Tensor:
    """Images read at the places the maps say.

    Args:
        images: ``(B, C, H, W)``; whole numbers are computed with as float32 and rounded.
        maps: ``(B, 2, 3)``, see :func:`affine_maps`.
        mode: ``"nearest"`` or ``"bilinear"``.
        fill: value (of each channel) outside the image; ``None`` for zeros.
        size: height and width of the result; those of the images where not given.
    """
    height, width = images.shape[-2:] if size is None else size
    floats = images if images.dtype in (torch.float32, torch.float64) else images.to(torch.float32)
    halves = torch.tensor([images.shape[-1] / 2, images.shape[-2] / 2], dtype=torch.float64)
    relative = (maps.transpose(1, 2) / halves).to(floats.dtype).to(images.device, non_blocking=True)
    columns = torch.linspace((1 - width) / 2, (width - 1) / 2, width, dtype=floats.dtype, device=images.device)
    rows = torch.linspace((1 - height) / 2, (height - 1) / 2, height, dtype=floats.dtype, device=images.device)
    # x a + y b + c by broadcasting: a product with the full grid of coordinates reads and writes three times as much.
    across = columns[None, :, None] * relative[:, None, 0] + relative[:, None, 2]
    down = rows[None, :, None] * relative[:, None, 1]
    grid = down[:, :, None] + across[:, None]
    moved = F.grid_sample(floats, grid, mode=mode, padding_mode="zeros", align_corners=False)
    if fill is not None and (mode == "bilinear" or any(fill)):
        inside = _inside(grid, (images.shape[-2], images.shape[-1]), mode)
        values = torch.tensor(fill, dtype=moved.dtype, device=moved.device).view(1, -1, 1, 1)
        if mode == "nearest":
            moved = torch.where(inside < 0.5, values, moved)
        elif any(fill):
            moved = moved.sub_(values).mul_(inside).add_(values)
        else:
            moved = moved.mul_(inside)
    if moved.dtype == images.dtype:
        return moved
    return moved.to(images.dtype) if images.is_floating_point() else moved.round_().to(images.dtype)


def _inside(grid: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """How much of what is read at each place is within the image, from 0 to 1, ``(B, 1, H, W)``."""
    shares = []
    for axis, extent in ((0, size[1]), (1, size[0])):
        places = (grid[..., axis] + 1).mul_(extent / 2).sub_(0.5)
        if mode == "nearest":
            places.round_()
        # 1 within, 0 from one pixel outside on.
        shares.append(places.sub_((extent - 1) / 2).abs_().neg_().add_((extent + 1) / 2).clamp_(0, 1))
    return shares[0].mul_(shares[1]).unsqueeze(1)


def moved_points(points: Tensor, maps: Tensor, *, size: tuple[int, int], out_size: tuple[int, int]) -> Tensor:
    """Where points of the input are in the output.

    Args:
        points: x and y from the upper left corner, ``(B, N, 2)``.
        maps: from output to input.
        size: height and width of the input.
        out_size: of the output.
    """
    maps = maps.to(points.dtype).to(points.device)
    before = torch.tensor([size[1] / 2, size[0] / 2], dtype=points.dtype, device=points.device)
    after = torch.tensor([out_size[1] / 2, out_size[0] / 2], dtype=points.dtype, device=points.device)
    relative = points - before - maps[:, None, :, 2]
    moved: Tensor = torch.linalg.solve(maps[:, :, :2], relative.transpose(1, 2))
    return moved.transpose(1, 2) + after
