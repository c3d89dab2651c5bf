"""Axes: round ticks that hold the values, and numbers as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_privacy.report._scale import number_text, scale_of, thinned


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_every_value_has_a_place_between_the_ends(values):
    scale = scale_of(values, 0.0, 100.0)
    for value in values:
        assert -1e-6 <= scale(value) <= 100 + 1e-6
    assert 1 <= len(scale.ticks) <= 20
    assert list(scale.ticks) == sorted(scale.ticks)


@given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=20))
def test_every_value_has_a_place_on_a_logarithmic_axis(values):
    scale = scale_of(values, 100.0, 0.0, log=True)
    for value in values:
        assert -1e-6 <= scale(value) <= 100 + 1e-6


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([0, 3], (0, 1, 2, 3)), ([0.1, 0.3], (0.1, 0.15, 0.2, 0.25, 0.3)), ([0, 97], (0, 20, 40, 60, 80, 100))],
)
def test_ticks_are_round(values, ticks):
    assert scale_of(values, 0, 1).ticks == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.0, "0"), (1437, "1,437"), (0.9333333, "0.9333"), (123456.7, "123,457"), (1e-7, "1e-07"),
     (math.inf, "infinite"), (math.nan, "undefined"), (2e12, "2e+12")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number_text(value).removeprefix("-") == text


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=500), st.integers(4, 50))
def test_thinning_keeps_ends_and_extremes_in_order(heights, most):
    points = list(enumerate(heights))
    kept = thinned(points, most)
    assert kept == sorted(kept)
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert {min(heights), max(heights)} <= {y for _, y in kept}
    assert len(kept) <= max(4, most) + 2
