"""Differences on a grid, against fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_privacy.mechanisms._grid import Grid

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1e6, 1e6)
SENSITIVITIES = st.floats(1e-320, 1e308) | st.floats(0.5, 2.0)


# Rounded to whole cells the largest numbers are beyond what a floating-point number holds.
@example(one=1.7976931348623143e308, two=1.7976931348623143e308, sensitivity=3.3484643974570854e299)
@example(one=0.0, two=1.7976931348623143e308, sensitivity=3.3484643974570854e299)
@given(one=NUMBERS, two=NUMBERS, sensitivity=SENSITIVITIES)
def test_differences_are_those_of_exact_arithmetic_up_to_the_cut(one, two, sensitivity):
    cell = Fraction(2) ** (int(np.frexp(sensitivity)[1]) - 1 - 20)
    exact = round(Fraction(one) / cell) - round(Fraction(two) / cell)
    found = Grid(sensitivity).differences(np.array([one]), np.array([two])).tolist()
    assert found == [max(-(2**50), min(2**50, exact))]


@given(one=NUMBERS, other=NUMBERS, step=st.floats(-1, 1), sensitivity=SENSITIVITIES)
def test_p29_a_number_that_moves_by_the_sensitivity_moves_by_no_more_than_that_in_cells(one, other, step, sensitivity):
    moved = one + step * sensitivity
    if abs(Fraction(moved) - Fraction(one)) > Fraction(sensitivity) if np.isfinite(moved) else True:
        return
    grid = Grid(sensitivity)
    differences = grid.differences(np.array([one, moved]), np.array([other])).tolist()
    assert abs(differences[0] - differences[1]) <= grid.sensitivity


@pytest.mark.parametrize("sensitivity", [1.0, 1.999, 3e-5])
def test_the_grid_costs_a_millionth(sensitivity):
    cell = Fraction(2) ** (int(np.frexp(sensitivity)[1]) - 1 - 20)
    assert 1 < Grid(sensitivity).sensitivity * cell / Fraction(sensitivity) < 1 + 1e-6


def test_p29_rounding_adds_to_the_sensitivity_and_is_counted():
    """Numbers that move by the whole sensitivity: some by more cells than it has, none by more than is counted."""
    one = np.random.default_rng(0).uniform(0, 1e-3, 1000)
    grid = Grid(1.1)
    moved = (grid.differences(one + 1.1, np.zeros(1)) - grid.differences(one, np.zeros(1))).max()
    assert 1.1 * 2**20 < moved <= grid.sensitivity
