"""Features that follow from each image alone, computed once before training.

A fixed map of one example to its features may be computed up front and often: private training protects whatever is
in an example, features as well as pixels, and nothing is released by computing them. That holds only as long as the
map looks at one example at a time and was not itself learned from private data; :func:`compute_features` tries the
first of the two.

Example:
    >>> import torch
    >>> from lightning_privacy.data import ScatteringFeatures, compute_features
    >>> images = torch.rand(6, 1, 16, 16) * 2 - 1
    >>> compute_features(images, ScatteringFeatures(image_size=16)).shape
    torch.Size([6, 81, 4, 4])
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_privacy._validate import positive, positive_int
from lightning_privacy.data.scattering import Scattering2d
from lightning_privacy.errors import ConfigurationError, UnsupportedError

__all__ = ["ScatteringFeatures", "compute_features"]

_PROBED = 8


class ScatteringFeatures(nn.Module):
    """Scattering coefficients, the second order relative to the first, normalised within each example.

    A coefficient of order 2 is divided by ``floor`` plus the one of order 1 it comes from: what is left says how the
    modulus varies and not how large it is (normalised scattering: Andén and Mallat, "Deep Scattering Spectrum", 2014).
    Then groups of neighbouring channels are shifted and scaled to mean 0 and variance 1 over the group's channels and
    positions, as GroupNorm does without its weights: no constant comes from data, and all examples have features of
    nearly the same norm (Tramer and Boneh 2021 normalise the plain coefficients in the same way).

    Args:
        image_size: Height and width in pixels, a multiple of 2^scales.
        scales: As of :class:`Scattering2d`.
        orientations: As of :class:`Scattering2d`.
        floor: What is added to the divisor; about the size of noise in coefficients of order 1. ``None``: no division.
        groups: Groups of channels that are normalised together; must divide ``out_channels``. 0: no normalisation.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> features = ScatteringFeatures(image_size=28)(torch.rand(2, 1, 28, 28) * 2 - 1)
        >>> features.shape, bool(features.mean((1, 2, 3)).abs().max() < 1e-5)
        (torch.Size([2, 81, 7, 7]), True)
    """

    def __init__(
        self,
        image_size: int = 28,
        scales: int = 2,
        orientations: int = 8,
        floor: float | None = 0.005,
        groups: int = 27,
    ) -> None:
        super().__init__()
        self.scattering = Scattering2d(image_size, scales, orientations)
        self.out_channels = self.scattering.out_channels
        self.floor = floor if floor is None else positive(floor=floor)
        self.groups = groups
        if groups and self.out_channels % positive_int(groups=groups):
            raise ConfigurationError(f"groups must divide the {self.out_channels} channels, got {groups}")

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Features of each image.

        Args:
            images: Shape ``(batch, 1, image_size, image_size)``, from -1 to 1.

        Returns:
            float32 of shape ``(batch, out_channels, image_size / 2^scales, image_size / 2^scales)``.

        Raises:
            ConfigurationError: The images are of another shape.
        """
        if images.ndim != 4 or images.shape[1] != 1:
            raise ConfigurationError(f"images must be of shape (batch, 1, height, width), got {tuple(images.shape)}")
        features: Tensor = self.scattering((images + 1) / 2)
        if self.floor is not None:
            parents = features[:, list(self.scattering.parents)]
            first_orders = self.out_channels - parents.shape[1]
            seconds = features[:, first_orders:] / (parents + self.floor)
            features = torch.cat([features[:, :first_orders], seconds], 1)
        return nn.functional.group_norm(features, self.groups) if self.groups else features


def compute_features(images: Tensor, transform: Callable[[Tensor], Tensor], *, chunk_size: int = 100) -> Tensor:
    """The features of all images, a chunk at a time, without a graph.

    Args:
        images: Shape ``(examples, ...)``.
        transform: Maps a batch to features, each example's from that example alone. A module is put in ``eval()``.
        chunk_size: Images at once; changes speed and memory only.

    Returns:
        Shape ``(examples, ...)``.

    Raises:
        UnsupportedError: An example's features are others in other company, or at another time.
        ConfigurationError: The transform does not give one row per image.

    Example:
        >>> compute_features(torch.ones(5, 1, 2, 2), lambda images: images.flatten(1) * 2, chunk_size=2).sum()
        tensor(40.)
    """
    positive_int(chunk_size=chunk_size)
    if isinstance(transform, nn.Module):
        transform.eval()
    with torch.no_grad():
        first = transform(images[:1])
        if first.shape[:1] != images[:1].shape[:1]:
            raise ConfigurationError(
                f"transform must give one row per image, got shape {tuple(first.shape)} for 1 image: "
                "keep the first dimension"
            )
        _check_one_by_one(images[:_PROBED], transform)
        features = first.new_empty((len(images), *first.shape[1:]))
        for start in range(0, len(images), chunk_size):
            features[start : start + chunk_size] = transform(images[start : start + chunk_size])
    return features


def _check_one_by_one(images: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
    """Refuse a transform in which the examples of a batch influence each other."""
    together = transform(images)
    alone = torch.cat([transform(images[index : index + 1]) for index in range(len(images))])
    scale = together.abs().amax() if together.numel() else 0.0
    # Other batch sizes take other paths through the kernels: equal up to rounding.
    if together.shape != alone.shape or not bool(((together - alone).abs() <= 1e-4 * scale).all()):
        name = type(transform).__name__
        raise UnsupportedError(
            f"the transform {name} gives an example other features in a batch than alone: what one example "
            "contributes would no longer be bounded by clipping its own gradient. Use statistics that are constants, "
            "or computed within each example"
        )
