"""Automatic clipping: normalised gradients."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.clipping import AutomaticClipping

SETTINGS = settings(deadline=None, derandomize=True, max_examples=300, database=None)


@SETTINGS
@given(st.floats(0, 1e6), st.floats(1e-3, 1e3), st.floats(1e-3, 10.0))
def test_an_example_adds_its_normalised_gradient(length: float, bound: float, gamma: float) -> None:
    factor = float(AutomaticClipping(bound, gamma=gamma).factors(torch.tensor([[length**2]], dtype=torch.float64)))
    assert factor == pytest.approx(bound / (length + gamma), rel=1e-9)
    assert factor * length < bound


def test_the_bound_scales_the_sum_and_nothing_else() -> None:
    squared = torch.logspace(-8, 8, 40, dtype=torch.float64)[:, None]
    assert torch.allclose(
        AutomaticClipping(3.0).factors(squared), 3.0 * AutomaticClipping(1.0).factors(squared), rtol=1e-14
    )


@pytest.mark.parametrize("gamma", [1e-6, 1e-21], ids=str)
def test_gradients_too_small_to_measure_stay_within_the_bound_or_gamma_is_refused(gamma: float) -> None:
    gradient = torch.full((10**6,), 1e-23)  # squares vanish in float32
    squared = gradient.square().sum().view(1, 1)
    assert squared.item() == 0
    with suppress(ConfigurationError):
        factor = AutomaticClipping(1.0, gamma=gamma).factors(squared)
        assert float((factor[0, 0].double() * gradient.double()).norm()) < 1.0


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan, math.inf, 1e-9, True], ids=str)
def test_gamma_out_of_range_is_named(gamma: float) -> None:
    with pytest.raises(ConfigurationError, match=f"gamma must be .*got {gamma}"):
        AutomaticClipping(gamma=gamma)


def test_p10_a_factor_beyond_the_numbers_is_none() -> None:
    factors = AutomaticClipping(1e38, gamma=1e-6).factors(torch.tensor([[0.0], [1e-10]]))
    assert factors.tolist() == [[0.0], [0.0]]
