"""Upright, centred images of writing: each is moved and sheared by its own moments.

Handwriting leans, by another angle for every writer. A shear that makes the main axis of the ink vertical takes the
lean away (LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998,
section III-A, "deslanted" images). The moments are of one image, so this releases nothing; examples of a class become
more alike, which is worth more the fewer directions private training can afford to learn.

Example:
    >>> import torch
    >>> from lightning_privacy.data import Deskew
    >>> slanted = -torch.ones(1, 1, 9, 9)
    >>> for row in range(2, 7):
    ...     slanted[0, 0, row, row] = 1
    >>> (Deskew()(slanted)[0, 0, 2:7, 4] > 0.9).all()
    tensor(True)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_privacy._validate import positive
from lightning_privacy.errors import ConfigurationError

__all__ = ["Deskew"]


class Deskew(nn.Module):
    """Moves each image's centre of mass to the middle, and shears its rows until its ink is upright.

    With ink I at row y and column x, both from the centre of mass, row y of the result is row y of the image moved by
    y * sum(I x y) / sum(I y^2), after which the two are uncorrelated. Between pixels values are interpolated linearly;
    outside is background. An image without ink stays as it is.

    Args:
        background: Value of a pixel without ink; ink is what a pixel is above it.
        max_shear: Most columns a row is moved per row of distance from the centre.

    Raises:
        ConfigurationError: ``max_shear`` is not above 0.

    Example:
        >>> upright = torch.full((1, 1, 5, 5), -1.0)
        >>> upright[0, 0, :, 2] = 1.0
        >>> bool(torch.allclose(Deskew()(upright), upright, atol=1e-5))
        True
    """

    def __init__(self, background: float = -1.0, max_shear: float = 2.0) -> None:
        super().__init__()
        self.background = background
        self.max_shear = positive(max_shear=max_shear)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """The images, upright; each follows from that image alone.

        Args:
            images: Shape ``(batch, 1, height, width)``, no value below the background.

        Returns:
            The same shape.

        Raises:
            ConfigurationError: The images are of another shape.
        """
        if images.ndim != 4 or images.shape[1] != 1:
            raise ConfigurationError(f"images must be of shape (batch, 1, height, width), got {tuple(images.shape)}")
        ink = images - self.background
        height, width = images.shape[-2:]
        rows = torch.arange(height, dtype=ink.dtype, device=ink.device) - (height - 1) / 2
        columns = torch.arange(width, dtype=ink.dtype, device=ink.device) - (width - 1) / 2
        tiny = torch.finfo(ink.dtype).tiny
        mass = ink.sum((1, 2, 3)).clamp_min(tiny)
        row_centre = (ink.sum((1, 3)) @ rows) / mass
        column_centre = (ink.sum((1, 2)) @ columns) / mass
        from_row = rows[None, :, None] - row_centre[:, None, None]
        from_column = columns[None, None, :] - column_centre[:, None, None]
        spread = (ink[:, 0] * from_row**2).sum((1, 2))
        covariance = (ink[:, 0] * from_row * from_column).sum((1, 2))
        shear = (covariance / spread.clamp_min(tiny)).clamp(-self.max_shear, self.max_shear)
        # affine_grid counts from -1 to 1 over each side.
        maps = ink.new_zeros(len(ink), 2, 3)
        maps[:, 0, 0] = 1
        maps[:, 0, 1] = shear * height / width
        maps[:, 0, 2] = column_centre * 2 / width
        maps[:, 1, 1] = 1
        maps[:, 1, 2] = row_centre * 2 / height
        grid = nn.functional.affine_grid(maps, list(ink.shape), align_corners=False)
        upright: Tensor = nn.functional.grid_sample(ink, grid, align_corners=False)
        return upright + self.background
