"""Upright images: moments afterwards, a shear undone, and one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from lightning_privacy.data import Deskew
from lightning_privacy.errors import ConfigurationError


def _blob(shear, row=0.0, column=0.0, height=32, width=32):
    """An upright ellipse of ink, sheared and moved by a formula; -1 is the background."""
    y, x = np.mgrid[:height, :width].astype(float)
    y, x = y - (height - 1) / 2 - row, x - (width - 1) / 2 - column
    ink = np.exp(-(y**2) / 2 / 4.0**2 - (x - shear * y) ** 2 / 2 / 1.5**2)
    return torch.from_numpy(ink * 2 - 1).float()[None, None]


def _moments(image):
    """How far the centre of the ink is from the middle, in rows and columns, and the shear of the ink."""
    ink = (image[0, 0] + 1).double().numpy()
    height, width = ink.shape
    y, x = np.mgrid[:height, :width]
    mass, y, x = ink.sum(), y - (height - 1) / 2, x - (width - 1) / 2
    row, column = (ink * y).sum() / mass, (ink * x).sum() / mass
    return (row, column), (ink * (x - column) * (y - row)).sum() / (ink * (y - row) ** 2).sum()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 32), (32, 40)])
@pytest.mark.parametrize("shear", [-0.5, 0.0, 0.7])
def test_ink_is_upright_and_in_the_middle(shear, height, width):
    upright = Deskew()(_blob(shear, row=1.3, column=-2.1, height=height, width=width))
    centre, left = _moments(upright)
    np.testing.assert_allclose(centre, [0, 0], atol=0.02)
    assert abs(left) < 0.01


def test_the_shear_of_a_blob_is_undone():
    torch.testing.assert_close(Deskew()(_blob(0.6, row=2.0, column=1.0)), _blob(0.0), atol=0.1, rtol=0)


def test_equals_scipys_interpolation_along_the_axis_of_the_moments():
    image = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (row, column), shear = _moments(image)
    y, x = np.mgrid[:12, :12] - 5.5
    ink = np.pad((image[0, 0] + 1).double().numpy(), 6)  # beyond an edge the ink falls to nothing within one pixel
    expected = map_coordinates(ink, [y + row + 11.5, x + shear * y + column + 11.5], order=1) - 1
    np.testing.assert_allclose(Deskew()(image)[0, 0].double().numpy(), expected, atol=1e-5)


def test_p33_an_image_is_the_same_in_any_company():
    images = torch.cat([_blob(0.3), _blob(-0.4, row=3.0), torch.full((1, 1, 32, 32), -1.0)])
    torch.testing.assert_close(Deskew()(images)[1:2], Deskew()(images[1:2]))


def test_an_image_without_ink_stays_as_it_is():
    blank = torch.full((1, 1, 28, 28), -1.0)
    assert torch.equal(Deskew()(blank), blank)


def test_the_shear_is_bounded():
    flat = torch.full((1, 1, 31, 31), -1.0)
    flat[0, 0, 14, :15] = 1.0
    flat[0, 0, 16, 16:] = 1.0
    bounded = Deskew(max_shear=0.5)(flat)
    # Its moments ask for a shear of about 8: rows next to the middle then stand alone. Half a pixel moves no more.
    assert float((bounded + 1).sum()) == pytest.approx(float((flat + 1).sum()), rel=0.05)
    assert float((Deskew(max_shear=100.0)(flat) - bounded).abs().max()) > 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Deskew(max_shear=0.0), "max_shear must be a finite number > 0, got 0"),
        (lambda: Deskew()(torch.zeros(1, 3, 28, 28)), r"\(batch, 1, height, width\), got \(1, 3, 28, 28\)"),
    ],
    ids=["max_shear", "colour"],
)
def test_a_bad_argument_is_named(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()
