"""Coloured images: how often the colour fits, what a group is, and that only the colour changes."""

from __future__ import annotations

import pytest
import torch

from lightning_privacy.data.coloured import coloured
from lightning_privacy.errors import ConfigurationError


def test_the_colour_fits_as_often_as_asked_and_else_is_any_other():
    labels = torch.arange(30_000) % 3
    images, colours, groups = coloured(torch.ones(30_000, 1, 1), labels, num_labels=3, correlation=0.9, seed=1)
    fits = (colours == labels).double()
    # Standard error 0.0017; each of the two others 0.0013: six of these fail with probability 1e-8.
    assert abs(float(fits.mean()) - 0.9) < 0.0104
    for offset in (1, 2):
        assert abs(float((colours == (labels + offset) % 3).double().mean()) - 0.05) < 0.0078
    assert torch.equal(groups, labels * 3 + colours)
    # Red, green and blue for three colours.
    assert torch.equal(images[:, :, 0, 0], torch.nn.functional.one_hot(colours, 3).float())


def test_the_grey_values_are_kept_and_a_seed_gives_the_same_colours():
    grey = torch.rand(50, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 2
    first, again = (coloured(grey, labels, num_labels=2, correlation=0.5, seed=3) for _ in range(2))
    assert torch.equal(first[0].amax(1), grey)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], coloured(grey, labels, num_labels=2, correlation=0.5, seed=4)[1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"correlation": 1.5}, "correlation must be from 0 to 1, got 1.5"),
        ({"images": torch.zeros(3, 4)}, r"images must have shape \(N, H, W\)"),
        ({"labels": torch.tensor([0, 1])}, r"labels \(N,\), got \(3, 2, 2\) and \(2,\)"),
        ({"labels": torch.tensor([0, 1, 2])}, "labels must be from 0 to 1"),
        ({"num_labels": 0}, "num_labels must be a whole number >= 1, got 0"),
    ],
    ids=["correlation", "images", "lengths", "label", "none"],
)
def test_bad_input_is_named(changed, message):
    arguments = {"images": torch.zeros(3, 2, 2), "labels": torch.tensor([0, 1, 0]), "num_labels": 2, "correlation": 0.9}
    arguments |= changed
    with pytest.raises(ConfigurationError, match=message):
        coloured(arguments.pop("images"), arguments.pop("labels"), seed=0, **arguments)
