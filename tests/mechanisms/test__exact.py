"""Exact discrete noise against the probabilities it is said to have.

Statistical checks run on fixed seeds, so their outcome is fixed; ``ERROR`` is the probability with which one of them
would fail for a fresh seed.
"""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning
from lightning_privacy.mechanisms._exact import ExactRandomness

ERROR = 1e-6
DRAWS = 20_000


def seeded(seed=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed)


def check(observed, probabilities):
    """Chi-squared test of counts, cells with at least 5 expected; what remains is one cell."""
    expected = np.asarray(probabilities) * sum(observed)
    keep = expected >= 5
    observed, expected = np.asarray(observed)[keep], expected[keep]
    rest = DRAWS - expected.sum()
    if rest > 5:
        observed, expected = np.append(observed, DRAWS - observed.sum()), np.append(expected, rest)
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, len(expected) - 1) > ERROR


@pytest.mark.parametrize("exponent", ["0", "1/3", "1", "5/2"])
def test_bernoulli_of_an_exponential(exponent):
    exponent = Fraction(exponent)
    randomness = ExactRandomness(seeded())
    hits = sum(randomness.bernoulli_exp(exponent) for _ in range(DRAWS))
    assert stats.binomtest(hits, DRAWS, math.exp(-exponent)).pvalue > ERROR


@pytest.mark.parametrize("rate", ["1/20", "0.7", "3"])
def test_rounded_laplace_is_laplace_noise_rounded(rate):
    """Its law is that of round(L) by the distribution function of SciPy's Laplace."""
    rate = Fraction(rate)
    randomness = ExactRandomness(seeded(2))
    drawn = np.array([randomness.rounded_laplace(rate) for _ in range(DRAWS)])
    reach = 400
    law = stats.laplace(scale=1 / float(rate))
    places = np.arange(-reach, reach + 1)
    observed = [int((drawn == place).sum()) for place in places]
    assert sum(observed) == DRAWS
    check(observed, law.cdf(places + 0.5) - law.cdf(places - 0.5))


def test_numbers_below_a_bound_are_uniform():
    randomness = ExactRandomness(seeded(3))
    check(np.bincount(randomness.many_below(7, DRAWS), minlength=7), np.full(7, 1 / 7))
    # A bound for which a third of the words is of no use.
    large = randomness.many_below(3 * 2**61, DRAWS) // 2**61
    check(np.bincount(large, minlength=3), np.full(3, 1 / 3))
    assert len(randomness.many_below(1, 0)) == 0


def test_draws_of_one_source_differ_and_a_seed_repeats_them():
    first, second = seeded(4), seeded(4)
    one, two = (ExactRandomness(first).words(4).tolist() for _ in range(2))
    assert one != two
    assert [ExactRandomness(second).words(4).tolist() for _ in range(2)] == [one, two]
    assert ExactRandomness(None).words(4).tolist() != ExactRandomness(None).words(4).tolist()
