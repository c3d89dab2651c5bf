"""Features computed before training: the right numbers, one example at a time, in the place of the pixels."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch
from torch import nn

from lightning_privacy.data import FashionMNISTDataModule, Scattering2d, ScatteringFeatures, compute_features
from lightning_privacy.errors import ConfigurationError, UnsupportedError


@pytest.fixture
def images():
    return torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_second_order_is_relative_to_its_parent_and_groups_are_standardised(images):
    plain = Scattering2d(16, 2, 2)((images + 1) / 2).double().numpy()
    # Order: the average, 2 scales of 2 orientations, 2 x 2 paths of order 2.
    for path, parent in enumerate([1, 1, 2, 2]):
        plain[:, 5 + path] /= plain[:, parent] + 0.01
    for start in range(0, 9, 3):
        group = plain[:, start : start + 3]
        axes = (1, 2, 3)
        group -= group.mean(axes, keepdims=True)
        group /= np.sqrt((group**2).mean(axes, keepdims=True) + 1e-5)
    found = ScatteringFeatures(16, 2, 2, floor=0.01, groups=3)(images)
    np.testing.assert_allclose(found.double().numpy(), plain, atol=1e-3)


def test_without_floor_and_groups_they_are_the_coefficients(images):
    found = ScatteringFeatures(16, 2, 2, floor=None, groups=0)(images)
    torch.testing.assert_close(found, Scattering2d(16, 2, 2)((images + 1) / 2))


def test_an_image_of_one_colour_has_finite_features():
    assert torch.isfinite(ScatteringFeatures(16)(torch.full((1, 1, 16, 16), -1.0))).all()


def test_p33_features_do_not_depend_on_the_other_images_or_chunks(images):
    features = compute_features(images, ScatteringFeatures(16), chunk_size=5)
    for index in range(12):
        torch.testing.assert_close(features[index], ScatteringFeatures(16)(images[index : index + 1])[0])


class _Standardise(nn.Module):
    def forward(self, images):
        return (images - images.mean(0)) / (images.std(0, correction=0) + 1)


@pytest.mark.parametrize(
    "transform",
    [_Standardise(), lambda images: images - images.mean(), lambda images: images + torch.rand(len(images), 1, 1, 1)],
    ids=["standardise", "centre", "random"],
)
def test_p33_features_that_depend_on_other_examples_or_on_chance_are_refused(images, transform):
    with pytest.raises(UnsupportedError, match="other features in a batch than alone"):
        compute_features(images, transform)


def test_a_module_is_put_in_eval(images):
    norm = nn.BatchNorm2d(1)
    features = compute_features(images, norm)
    torch.testing.assert_close(features, images, atol=1e-4, rtol=0)
    assert int(norm.num_batches_tracked) == 0
    assert not features.requires_grad


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_data_module_gives_features_in_place_of_pixels(tmp_path, part):
    generator = np.random.default_rng(0)
    for name, count in (("train", 20), ("t10k", 10)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, array in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (tmp_path / f"{name}-{kind}.gz").write_bytes(gzip.compress(header + array.tobytes()))
    transform = ScatteringFeatures()
    pixels = getattr(FashionMNISTDataModule(tmp_path, val_size=0).splits, part).tensors[0]
    found = getattr(FashionMNISTDataModule(tmp_path, val_size=0, features=transform).splits, part).tensors[0]
    assert found.shape == (len(pixels), 81, 7, 7)
    torch.testing.assert_close(found, transform(pixels))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ScatteringFeatures(floor=0.0), "floor must be a finite number > 0, got 0"),
        (lambda: ScatteringFeatures(groups=2), "groups must divide the 81 channels, got 2"),
        (lambda: ScatteringFeatures(groups=-1), "groups must be a whole number >= 1, got -1"),
        (lambda: ScatteringFeatures()(torch.zeros(1, 3, 28, 28)), r"batch, 1, height, width\), got \(1, 3, 28, 28\)"),
        (
            lambda: compute_features(torch.zeros(2, 3), lambda images: images.sum()),
            r"one row per image, got shape \(\)",
        ),
        (lambda: compute_features(torch.zeros(2, 3), nn.Identity(), chunk_size=0), "chunk_size must be .* >= 1, got 0"),
    ],
    ids=["floor", "groups", "negative groups", "colour", "no rows", "chunk_size"],
)
def test_a_bad_argument_is_named(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()
