"""Scattering against sums written out by hand, and the properties the theory promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_privacy.data import Scattering2d
from lightning_privacy.data.scattering import gaussian, morlet
from lightning_privacy.errors import ConfigurationError


def _wavelets(reach: int, scale: int, orientations: int) -> list[np.ndarray]:
    """Morlet wavelets on the plane, cut at ``reach``, by the formula."""
    width, frequency, slant = 0.8 * 2**scale, 3 * np.pi / 4 / 2**scale, min(1.0, 4 / orientations)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    found = []
    for index in range(orientations):
        turn = np.pi * index / orientations
        wave = rows * np.cos(turn) + columns * np.sin(turn)
        other = -rows * np.sin(turn) + columns * np.cos(turn)
        envelope = np.exp(-(wave**2) / (2 * width**2) - (slant * other) ** 2 / (2 * width**2))
        oscillation = envelope * np.exp(1j * frequency * wave)
        zero_mean = oscillation - oscillation.sum() / envelope.sum() * envelope
        found.append(zero_mean * slant / (2 * np.pi * width**2))
    return found


def _average(reach: int, width: float, step: int = 1) -> np.ndarray:
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1] * step
    values = np.exp(-(rows**2 + columns**2) / (2 * width**2))
    return values / values.sum()


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Circular convolution, one shift of the image after the other."""
    reach = kernel.shape[0] // 2
    result = np.zeros(image.shape, dtype=complex)
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            result += kernel[row + reach, column + reach] * np.roll(image, (row, column), (0, 1))
    return result


def _directly(image: np.ndarray, scales: int, orientations: int, factor: float) -> np.ndarray:
    """All orders by convolutions in space; the grid of scale 2^j keeps every 2^j-th pixel."""
    stride = 2**scales
    padded = np.pad(image, stride, mode="reflect")

    def smooth(maps: np.ndarray, scale: int) -> np.ndarray:
        kept = stride >> scale
        averaged = _convolve(maps, _average(24 >> scale, 0.8 * stride / 2, 2**scale)).real
        return averaged[kept:-kept:kept, kept:-kept:kept]

    orders: list[list[np.ndarray]] = [[smooth(padded, 0)], [], []]
    for first in range(scales):
        for wavelet in _wavelets(24, first, orientations):
            moduli = np.abs(_convolve(padded, factor * wavelet))[:: 2**first, :: 2**first]
            orders[1].append(smooth(moduli, first))
            for second in range(first + 1, scales):
                for other in _wavelets(24, second, orientations):
                    # On the coarser grid a sum over every 2^first-th point stands for the whole one.
                    coarse = factor * other[24 % 2**first :: 2**first, 24 % 2**first :: 2**first] * 4**first
                    step = 2 ** (second - first)
                    orders[2].append(smooth(np.abs(_convolve(moduli, coarse))[::step, ::step], second))
    return np.stack([*orders[0], *orders[1], *orders[2]])


def _factor(scattering: Scattering2d) -> float:
    """The common factor of the wavelets, from one of them."""
    size = scattering.image_size + 2 * scattering.stride
    plain = torch.fft.fft2(morlet(size, scale=0, angle=0.0, slant=min(1.0, 4 / scattering.orientations)))
    peak = plain.abs().argmax()
    return float(scattering.wavelets[0, 0, ..., 0].flatten()[peak].abs() / plain.flatten()[peak].abs())


@pytest.mark.parametrize(("size", "scales", "orientations"), [(28, 2, 8), (16, 2, 3), (16, 1, 4), (24, 3, 2)])
def test_equals_convolutions_in_space(size, scales, orientations):
    scattering = Scattering2d(size, scales, orientations)
    image = np.random.default_rng(0).random((size, size))
    found = scattering(torch.from_numpy(image)[None, None])[0].double().numpy()
    expected = _directly(image, scales, orientations, _factor(scattering))
    assert found.shape == expected.shape == (scattering.out_channels, size >> scales, size >> scales)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(("scales", "orientations"), [(1, 4), (2, 8), (3, 6)])
def test_no_frequency_is_amplified_and_one_is_kept_whole(scales, orientations):
    """Littlewood-Paley: the powers of average and wavelets, at a frequency and its opposite, add up to at most 1."""
    scattering = Scattering2d(32, scales, orientations)
    size = 32 + 2 * scattering.stride
    low = torch.fft.fft(gaussian(size, width=0.8 * 2 ** (scales - 1))).abs() ** 2
    power = scattering.wavelets[..., 0].double().square().sum((0, 1))
    opposite = torch.roll(torch.flip(power, (0, 1)), (1, 1), (0, 1))
    total = low[:, None] * low[None, :] + (power + opposite) / 2
    assert float(total.max()) <= 1 + 1e-6
    assert float(total.flatten()[1:].max()) > 0.99


def test_a_shift_by_the_stride_moves_the_features_by_one():
    """Exact where neither the blob nor its mirror images at the edges come near."""
    scattering = Scattering2d(64, scales=2, orientations=4)
    image = torch.zeros(1, 1, 64, 64)
    image[0, 0, 26:38, 26:38] = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    still, moved = scattering(image), scattering(image.roll((4, -8), (2, 3)))
    torch.testing.assert_close(moved, still.roll((1, -2), (2, 3)), atol=1e-6, rtol=0)
    assert float((moved - still).abs().max()) > 1e-2


def test_a_small_shift_changes_features_less_than_pixels():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 32, 32, generator=generator)
    scattering = Scattering2d(32, scales=3, orientations=4)
    shifted = image.roll(1, 3)
    change = (scattering(shifted) - scattering(image)).norm() / scattering(image).norm()
    assert change < 0.25 * (shifted - image).norm() / image.norm()


def test_a_flat_image_has_its_average_and_no_wavelet_coefficients():
    features = Scattering2d()(torch.full((1, 1, 28, 28), 0.7))
    torch.testing.assert_close(features[0, 0], torch.full((7, 7), 0.7))
    assert float(features[0, 1:].abs().max()) < 1e-6


def test_brightness_scales_and_an_offset_moves_the_average_only():
    scattering = Scattering2d()
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    plain = scattering(images)
    torch.testing.assert_close(scattering(images * 3), plain * 3)
    offset = scattering(images + 2)
    torch.testing.assert_close(offset[:, 1:], plain[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(offset[:, 0], plain[:, 0] + 2)


def test_waves_are_found_by_the_wavelets_of_their_direction():
    position = torch.arange(32.0)
    scattering = Scattering2d(32, scales=2, orientations=8)
    for index in range(8):
        turn = math.pi * index / 8
        phase = 3 * math.pi / 4 * (position[:, None] * math.cos(turn) + position[None, :] * math.sin(turn))
        # One output in the middle: at the edges the mirrored wave has another direction.
        response = scattering(phase.cos()[None, None])[0, 1:17, 4, 4]
        assert int(response.argmax()) == index


def test_channels_of_an_image_stay_apart_and_parents_are_of_order_1():
    scattering = Scattering2d(16, scales=3, orientations=2)
    assert scattering.out_channels == 1 + 6 + 12
    assert scattering.parents == (1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    apart = [scattering(images[:, [channel]]) for channel in range(3)]
    torch.testing.assert_close(scattering(images), torch.cat(apart, 1))
    assert scattering.state_dict() == {}


def test_p03_an_image_has_its_features_in_any_company():
    images = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    scattering = Scattering2d(16)
    torch.testing.assert_close(scattering(images)[3:4], scattering(images[3:4]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scattering2d(30), r"image_size must be a multiple of 2\^scales = 4 and above it, got 30"),
        (lambda: Scattering2d(4), "above it, got 4"),
        (lambda: Scattering2d(scales=0), "scales must be a whole number >= 1, got 0"),
        (lambda: Scattering2d(orientations=0), "orientations must be a whole number >= 1, got 0"),
        (lambda: Scattering2d()(torch.zeros(1, 28, 28)), r"images must be of shape .*, got \(1, 28, 28\)"),
        (lambda: Scattering2d()(torch.zeros(1, 1, 32, 32)), r"got \(1, 1, 32, 32\)"),
        (lambda: gaussian(8, width=0.0), "width must be a finite number > 0, got 0"),
        (lambda: morlet(8, scale=0, angle=0.0, slant=0.0), "slant must be a finite number > 0, got 0"),
    ],
)
def test_a_bad_argument_is_named(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()
