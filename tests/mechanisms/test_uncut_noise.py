"""No output tells what it was computed from, however large the noise: it is added uncut, and only sums are cut.

Statistical checks run on fixed seeds, so their outcome is fixed; ``ERROR`` is the probability with which one of them
would fail for a fresh seed.
"""

from __future__ import annotations

import math
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from lightning_privacy.mechanisms import (
    AboveThreshold,
    NoiseSource,
    SeededNoiseWarning,
    above_threshold,
    laplace,
    private_histogram,
    private_mean,
)
from lightning_privacy.mechanisms._exact import ExactRandomness

ERROR = 1e-6
# Noise at the limits of a word, and far beyond them.
EDGES = [sign * (size + more) for sign in (1, -1) for size in (2**61, 2**62, 2**63, 2**200) for more in (-1, 0, 1)]


def seeded(seed=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed)


def noise_is(monkeypatch, *draws):
    """Let the next draws one by one, as at small rates, be these."""
    left = list(draws)
    monkeypatch.setattr(ExactRandomness, "rounded_laplace", lambda self, rate: left.pop(0))


@pytest.mark.parametrize("epsilon", [1e-12, 1e-14, 1e-300])
def test_p29_no_output_of_a_small_epsilon_comes_twice(epsilon):
    """The noise has 1e18 cells and more, so that two alike have probability 1e-10; cut noise piles up at its ends."""
    source = seeded(2)
    for value in (0.0, 1.0):
        noisy = [laplace(value, sensitivity=1.0, epsilon=epsilon, noise=source) for _ in range(400)]
        assert len(set(noisy)) == 400


def test_p29_the_outermost_of_many_values_are_not_read_off():
    """Cells shrink with the number of values. Below 2**62 cells or beyond, half of the values are 0 and half 0.625.

    Whoever takes a number there that is not whole for one of the latter is right as often as a coin: binomial test.
    """
    count = 2**12
    values = np.zeros(count)
    values[::2] = 0.625
    # As many cells as a million values with an epsilon of 1e-6 have.
    noisy = laplace(values, sensitivity=1.0, epsilon=1e-6 * 2**-16, noise=seeded(3))
    edge = np.abs(noisy) >= 2.0 ** (62 - 20 - 12) - 1
    told = np.abs(noisy[edge]) % 1 != 0
    right = int((told == (values[edge] == 0.625)).sum())
    assert edge.sum() > 30
    assert stats.binomtest(right, int(edge.sum()), 0.5).pvalue > ERROR


@pytest.mark.parametrize("draw", EDGES)
def test_p29_a_laplace_release_is_the_number_nearest_to_the_exact_sum(draw, monkeypatch):
    cell = Fraction(1, 2**20)
    for value in (0.0, 1.0, 0.3, 1e300):
        noise_is(monkeypatch, draw)
        expected = float((round(Fraction(value) / cell) + draw) * cell)
        assert laplace(value, sensitivity=1.0, epsilon=1e-12) == expected


def test_p29_one_value_far_out_does_not_change_how_others_are_added(monkeypatch):
    noise_is(monkeypatch, 2**70, 3, -(2**61))
    cell = Fraction(1, 2**22)
    noisy = laplace(np.array([1.0, 1e300, 0.3]), sensitivity=1.0, epsilon=1e-12)
    exact = ((2**22 + 2**70) * cell, Fraction(1e300) + 3 * cell, (round(Fraction(0.3) / cell) - 2**61) * cell)
    assert noisy.tolist() == [float(number) for number in exact]


@pytest.mark.parametrize("sign", [1, -1])
def test_p29_a_sum_beyond_floating_point_is_cut_to_its_end(sign, monkeypatch):
    """Whether it comes from arrays or one by one, so that the end tells nothing but the sum's size."""
    for sensitivity, draw in ((1.0, 2**1100), (1.7e308, 2**50)):
        for value in (0.0, 1.0):
            monkeypatch.setattr(
                ExactRandomness, "many_rounded_laplace", lambda self, rate, count, k=draw: np.array([sign * k])
            )
            assert laplace(value, sensitivity=sensitivity, epsilon=1.0) == sign * sys.float_info.max


@pytest.mark.parametrize("draw", EDGES)
def test_p29_a_histogram_cuts_the_sums(draw, monkeypatch):
    """Counts next to each other meet at the bound, wherever the noise is beyond it."""
    for count in (0, 1, 2):
        noise_is(monkeypatch, draw, 0)
        noisy = private_histogram([0] * count, num_classes=2, epsilon=1e-20)
        assert noisy.dtype == np.int64
        assert noisy.tolist() == [max(-(2**62), min(2**62, count + draw)), 0]


@pytest.mark.parametrize("one", [0, *EDGES])
def test_p29_a_mean_is_that_of_the_exact_sums(one, monkeypatch):
    steps = 2**24
    for two in (0, 10**400, *EDGES):
        noise_is(monkeypatch, one, two)
        total = 4 * steps + one + two
        exact = Fraction(steps + one, total) if total > 0 else Fraction(1, 2)
        mean = private_mean([0.0, 0.0, 0.0, 1.0], lower=0, upper=1, epsilon=1e-12)
        assert mean == float(max(Fraction(0), min(Fraction(1), exact)))


@pytest.mark.parametrize("draw", EDGES)
def test_p29_sparse_vector_compares_exact_sums(draw, monkeypatch):
    """Cut, noise and threshold would meet at the bound, and the answer be that of the values alone."""
    for offset in (draw - 2**20, draw, draw + 1, -draw):
        for value in (0.0, 1.0, -1.0):
            noise_is(monkeypatch, offset, draw)
            test = AboveThreshold(threshold=0.0, sensitivity=1.0, epsilon=1e-14)
            assert test.ask(value) is (int(value) * 2**20 + draw >= offset)


def test_outputs_of_ordinary_settings_are_what_they_were():
    """The same seeds give the same numbers as before noise was left uncut."""
    three = laplace(np.array([0.0, 1.5, -7.25]), sensitivity=3.0, epsilon=0.5, noise=seeded())
    assert three.tolist() == [6.260014057159424, 4.076833724975586, -13.828528881072998]
    assert laplace(12.5, sensitivity=1.0, epsilon=1e-8, noise=seeded()) == 67547804.86790085
    assert laplace(1e9, sensitivity=1.0, epsilon=100.0, noise=seeded()) == 1000000000.0067549
    assert private_histogram([0, 0, 1], num_classes=3, epsilon=0.01, noise=seeded()).tolist() == [107, 44, -110]
    assert private_histogram([0, 0, 1], num_classes=3, epsilon=80.0, noise=seeded()).tolist() == [2, 1, 0]
    mean = private_mean([20.0, 40.0] * 50, lower=0, upper=100, epsilon=1.0, noise=seeded())
    assert math.isclose(mean, 27.445333137242713, rel_tol=1e-15)
    answers = above_threshold(
        [0.0, 3.0, -2.0, 5.0] * 5, threshold=1.0, sensitivity=1.0, epsilon=1.0, max_positives=9, noise=seeded()
    )
    assert "".join("01"[answer] for answer in answers.astype(int)) == "11100000000101010101"
