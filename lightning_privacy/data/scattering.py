"""Scattering features of images: wavelet moduli, averaged. Fixed by mathematics, nothing is learned from data.

Order 0 is the local average of the image, order 1 that of the modulus of its wavelet coefficients, order 2 that of
the modulus of the wavelet coefficients of those moduli, along paths of growing scale (Bruna and Mallat, "Invariant
Scattering Convolution Networks", 2013, section 2; its Morlet wavelets):

    S0 x = x * phi,   S1 x = |x * psi_1| * phi,   S2 x = ||x * psi_1| * psi_2| * phi

The features of an example depend on that example alone, so computing them releases nothing, and private training
needs fewer and smaller weights on them than on pixels (Tramer and Boneh, "Differentially Private Learning Needs
Better Features (or Much More Data)", 2021).

Example:
    >>> import torch
    >>> from lightning_privacy.data import Scattering2d
    >>> scattering = Scattering2d(image_size=28, scales=2, orientations=8)
    >>> scattering(torch.zeros(4, 1, 28, 28)).shape
    torch.Size([4, 81, 7, 7])
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_privacy._validate import positive, positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["Scattering2d", "gaussian", "morlet"]

# The usual shape of Morlet wavelets for scattering: psi_j has its centre frequency at 3 pi / 4 / 2^j and
# the width 0.8 * 2^j of its envelope along the wave; the envelope is longer across it the more orientations there are.
_CENTRE_FREQUENCY = 3 * math.pi / 4
_WIDTH = 0.8
_SLANT_OF_ONE = 4


def _offsets(size: int, step: int) -> Tensor:
    """Distances from the origin of the points of a grid that wraps around, with the copies on either side."""
    copies = 2  # filters are narrower than the grid, and a Gaussian two grids away is nothing
    points = torch.arange(size // step, dtype=torch.float64) * step
    return points[:, None] + size * torch.arange(-copies, copies + 1)


def gaussian(size: int, *, width: float, step: int = 1) -> Tensor:
    """A Gaussian on a circle of ``size`` points, of sum 1, with its peak at position 0.

    Args:
        size: Points of the circle.
        width: Standard deviation, in points.
        step: Only every ``step``-th point is kept, before the sum is made 1; divides ``size``.

    Returns:
        float64 of shape ``(size // step,)``.

    Raises:
        ConfigurationError: An argument is not above 0.

    Example:
        >>> gaussian(8, width=1.0).argmax(), round(float(gaussian(8, width=1.0).sum()), 6)
        (tensor(0), 1.0)
    """
    positive_int(size=size)
    positive_int(step=step)
    values: Tensor = torch.exp(-((_offsets(size, step) / positive(width=width)) ** 2) / 2).sum(1)
    return values / values.sum()


def morlet(size: int, *, scale: int, angle: float, slant: float) -> Tensor:
    """A Morlet wavelet on a torus of ``size`` x ``size`` points, centred at position (0, 0).

    A plane wave under a Gaussian envelope, less the multiple of the envelope that makes the sum zero (Bruna and
    Mallat 2013, section 2).

    Args:
        size: Points of a side.
        scale: The j of the dilation by 2^j, from 0.
        angle: Direction of the wave, in radians.
        slant: Width of the envelope along the wave over that across it.

    Returns:
        complex128 of shape ``(size, size)``.

    Raises:
        ConfigurationError: The size is below 1 or the slant not above 0.

    Example:
        >>> bool(morlet(36, scale=1, angle=0.0, slant=0.5).sum().abs() < 1e-12)
        True
    """
    positive_int(size=size)
    positive(slant=slant)
    width, frequency = _WIDTH * 2.0**scale, _CENTRE_FREQUENCY / 2.0**scale
    offsets = _offsets(size, 1)
    rows, columns = offsets[:, None, :, None], offsets[None, :, None, :]
    along = rows * math.cos(angle) + columns * math.sin(angle)
    across = columns * math.cos(angle) - rows * math.sin(angle)
    envelope = torch.exp(-(along**2 + (slant * across) ** 2) / (2 * width**2))
    wave = (envelope * torch.exp(1j * frequency * along)).sum((2, 3))
    envelope = envelope.sum((2, 3))
    wavelet: Tensor = wave - wave.sum() / envelope.sum() * envelope
    # The scale at which its spectrum is about 1 at the centre frequency.
    return wavelet * slant / (2 * math.pi * width**2)


def _tiles(spectra: Tensor, step: int) -> Iterator[Tensor]:
    """Views of the frequencies that become one when every ``step``-th sample is kept: shape (..., n, n, 2)."""
    size = spectra.shape[-2] // step
    for row, column in itertools.product(range(step), repeat=2):
        yield spectra[..., row * size : (row + 1) * size, column * size : (column + 1) * size, :]


def _coarser(wavelets: Tensor, step: int) -> Tensor:
    """Spectra of the wavelets on a grid of every ``step``-th point."""
    return torch.stack([*_tiles(wavelets, step)]).sum(0)


def _moduli(spectra: Tensor, wavelets: Tensor, step: int) -> Tensor:
    """Moduli of the convolutions with the wavelets, at every ``step``-th point.

    Spectra have real and imaginary part in a last dimension. Those of the wavelets are real (a Morlet wavelet at the
    opposite point is its conjugate) and stand there twice: plain products take a third of the time of complex ones.
    """
    pairs = zip(_tiles(spectra, step), _tiles(wavelets / step**2, step), strict=True)
    signal, wavelet = next(pairs)
    kept = signal * wavelet
    for signal, wavelet in pairs:
        kept.addcmul_(signal, wavelet)
    squares = torch.view_as_real(torch.fft.ifft2(torch.view_as_complex(kept))).square_()
    # Half the time of torch's abs, which guards against overflow.
    return (squares[..., 0] + squares[..., 1]).sqrt_()


class Scattering2d(nn.Module):
    """Scattering coefficients of order 0 to 2 of square images.

    With J scales and L orientations a channel of the image becomes 1 + J L + J (J - 1) / 2 L^2 channels, ordered by
    order, first wavelet (scale, then orientation), second wavelet; for J = 2 and L = 8 that is 1 + 16 + 64. The image
    is mirrored at its edges. All wavelets are scaled by one factor, so that no frequency is amplified: their
    Littlewood-Paley sum with the average (Bruna and Mallat 2013, section 2) is at most 1. What was filtered at the
    scale 2^j is kept at every 2^j-th pixel only.

    Args:
        image_size: Height and width in pixels, a multiple of 2^scales and above it.
        scales: J: averages are over about 2^J pixels, and one is kept of every 2^J in each direction.
        orientations: L: directions of the wavelets, evenly spread over half a turn.

    Attributes:
        out_channels: Channels that one channel of an image becomes.
        parents: For each channel of order 2, which channel of order 1 has the same first wavelet.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> Scattering2d(image_size=28).out_channels
        81
    """

    def __init__(self, image_size: int = 28, scales: int = 2, orientations: int = 8) -> None:
        super().__init__()
        self.scales = positive_int(scales=scales)
        self.orientations = positive_int(orientations=orientations)
        self.stride = 2**scales
        if positive_int(image_size=image_size) % self.stride or image_size == self.stride:
            raise ConfigurationError(
                f"image_size must be a multiple of 2^scales = {self.stride} and above it, got {image_size}: "
                "pad or crop the images, or use fewer scales"
            )
        self.image_size = image_size
        self.out_channels = 1 + scales * orientations + scales * (scales - 1) // 2 * orientations**2
        self.parents = tuple(
            1 + first * orientations + orientation
            for first in range(scales)
            for orientation in range(orientations)
            for _ in range((scales - 1 - first) * orientations)
        )
        size = image_size + 2 * self.stride
        angles = [math.pi * index / orientations for index in range(orientations)]
        # The more orientations, the narrower the beam of each must be, and so the longer its envelope.
        slant = min(1.0, _SLANT_OF_ONE / orientations)
        wavelets = [
            [morlet(size, scale=scale, angle=angle, slant=slant) for angle in angles] for scale in range(scales)
        ]
        spectra = torch.fft.fft2(torch.stack([torch.stack(row) for row in wavelets]))
        average = gaussian(size, width=_WIDTH * 2 ** (scales - 1))
        spectra = spectra * _common_factor(spectra, average)
        # Not in the state: they follow from the arguments, and a checkpoint need not carry them.
        doubled = spectra.real.to(torch.float32).unsqueeze(-1).repeat(1, 1, 1, 1, 2)
        self.register_buffer("wavelets", doubled, persistent=False)
        for scale in range(scales):
            self.register_buffer(f"average_{scale}", self._average(size, scale).to(torch.float32), persistent=False)

    def _average(self, size: int, scale: int) -> Tensor:
        """A matrix that averages along one side of maps kept at every 2^scale-th pixel: shape (outputs, inputs)."""
        kernel = gaussian(size, width=_WIDTH * self.stride / 2, step=2**scale)
        # Margins of one output on either side are left out.
        centres = range(1, 1 + self.image_size // self.stride)
        return torch.stack([kernel.roll(centre * (self.stride >> scale)) for centre in centres])

    def _smooth(self, maps: Tensor, scale: int) -> Tensor:
        average = self.get_buffer(f"average_{scale}")
        return average @ maps @ average.T

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Scattering coefficients; each image's depend on that image alone.

        Args:
            images: Shape ``(batch, channels, image_size, image_size)``.

        Returns:
            float32 of shape ``(batch, channels * out_channels, image_size / 2^scales, image_size / 2^scales)``.

        Raises:
            ConfigurationError: The images are of another shape.
        """
        if images.ndim != 4 or images.shape[-2:] != (self.image_size, self.image_size):
            raise ConfigurationError(
                f"images must be of shape (batch, channels, {self.image_size}, {self.image_size}), "
                f"got {tuple(images.shape)}"
            )
        padded = nn.functional.pad(images.to(torch.float32), (self.stride,) * 4, mode="reflect")
        wavelets = self.get_buffer("wavelets")
        spectra = torch.view_as_real(torch.fft.fft2(padded)).unsqueeze(2)
        orders: tuple[list[Tensor], ...] = ([self._smooth(padded, 0).unsqueeze(2)], [], [])
        for first in range(self.scales):
            moduli = _moduli(spectra, wavelets[first], 2**first)
            orders[1].append(self._smooth(moduli, first))
            second_spectra = torch.view_as_real(torch.fft.fft2(moduli)).unsqueeze(3)
            # (batch, channels, first orientation, second scale, second orientation, ...)
            seconds = [
                self._smooth(
                    _moduli(second_spectra, _coarser(wavelets[second], 2**first), 2 ** (second - first)), second
                )
                for second in range(first + 1, self.scales)
            ]
            if seconds:
                orders[2].append(torch.stack(seconds, 3).flatten(2, 4))
        return torch.cat([*orders[0], *orders[1], *orders[2]], 2).flatten(1, 2)


def _common_factor(spectra: Tensor, average: Tensor) -> float:
    """The largest factor for the wavelets with which no frequency is amplified."""
    low = torch.fft.fft(average).abs() ** 2
    power = spectra.abs().square().sum((0, 1))
    # Real images have equal power at opposite frequencies, of which a wavelet passes one.
    opposite = power.flip((0, 1)).roll((1, 1), (0, 1))
    room = 1 - low[:, None] * low[None, :]
    # At frequency 0 the wavelets are zero and the average is 1: rounding over rounding.
    return float((2 * room / (power + opposite)).flatten()[1:].min().sqrt())
