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

from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning, _exact
from lightning_privacy.mechanisms._exact import ExactRandomness, within_words

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


@pytest.mark.parametrize("rate", ["1/20", "0.7", "3", "1/64"])
def test_many_draws_are_laplace_noise_rounded(rate):
    """The law of the test above, for arrays."""
    rate = Fraction(rate)
    drawn = ExactRandomness(seeded(5)).many_rounded_laplace(rate, DRAWS)
    law = stats.laplace(scale=1 / float(rate))
    places = np.arange(-400, 401)
    check([int((drawn == place).sum()) for place in places], law.cdf(places + 0.5) - law.cdf(places - 0.5))


@pytest.mark.parametrize("bits", [20, 40, 50.9, 55])
def test_many_draws_of_small_rates_are_laplace_noise(bits):
    """Kolmogorov-Smirnov test; fails with probability 1e-6 for a fresh seed. 2**-55 is drawn one by one."""
    rate = Fraction(2.0**-bits)
    drawn = ExactRandomness(seeded(6)).many_rounded_laplace(rate, 5_000).astype(np.float64)
    assert stats.kstest(drawn, stats.laplace(scale=1 / float(rate)).cdf).pvalue > ERROR


def test_many_draws_never_have_less_noise_than_asked_for(monkeypatch):
    """The rate that is used, over a wide range of rates that are asked for."""
    used = []
    original = ExactRandomness.many_bernoulli_exp
    monkeypatch.setattr(
        ExactRandomness,
        "many_bernoulli_exp",
        lambda self, steps, rate: used.append(rate) or original(self, steps, rate),
    )
    for asked in [*np.geomspace(2.0**-50.9, 63.9, 200).tolist(), 1 / 3, 1 / 64, 63 / 4032]:
        used.clear()
        ExactRandomness(None).many_rounded_laplace(Fraction(asked), 1)
        assert 0 <= 1 - used[0] * 2 / Fraction(asked) < (1e-12 if asked > 1e-6 else 1e-3)


def test_the_parts_of_a_size_are_put_together_as_in_exact_arithmetic(monkeypatch):
    """(rest + units 2**bits) // numerator, of the largest numbers there are, without overflow."""
    monkeypatch.setattr(ExactRandomness, "many_bernoulli_exp", lambda self, steps, rate: np.ones(steps.shape, bool))
    monkeypatch.setattr(ExactRandomness, "_many_units", lambda self, count: np.full(count, 126))
    monkeypatch.setattr(
        ExactRandomness, "_many_exponential_rests", lambda self, bits, count: np.full(count, 2**bits - 1)
    )
    for rate in (2.0**-50.9, 2.0**-40, 1 / 65, 1 / 64, 0.7, 63.9):
        bits = 61 if rate < 1 / 64 else 55
        expected = 1 + (127 * 2**bits - 1) // int(Fraction(rate) * 2**bits)
        assert abs(int(ExactRandomness(None).many_rounded_laplace(Fraction(rate), 1)[0])) == expected


@pytest.mark.parametrize("units", [127, 2**40, 2**62])
def test_p29_a_draw_of_any_size_is_exact(units, monkeypatch):
    """More units than the arithmetic in 64 bits has room for."""
    monkeypatch.setattr(ExactRandomness, "many_bernoulli_exp", lambda self, steps, rate: np.ones(steps.shape, bool))
    monkeypatch.setattr(ExactRandomness, "_many_units", lambda self, count: np.array([units, 1]))
    monkeypatch.setattr(
        ExactRandomness, "_many_exponential_rests", lambda self, bits, count: np.full(count, 2**bits - 1)
    )
    for rate in (2.0**-50.9, 1 / 65, 0.7, 63.9):
        bits = 61 if rate < 1 / 64 else 55
        numerator = int(Fraction(rate) * 2**bits)
        drawn = ExactRandomness(None).many_rounded_laplace(Fraction(rate), 2).tolist()
        expected = [1 + ((number + 1) * 2**bits - 1) // numerator for number in (units, 1)]
        assert [abs(number) for number in drawn] == expected


@pytest.mark.parametrize("rate", [Fraction(1, 2**60), Fraction(1, 10**30), Fraction(1, 10**300)])
def test_p29_draws_of_small_rates_are_not_cut(rate):
    """Kolmogorov-Smirnov test; fails with probability 1e-6 for a fresh seed. A cut would pile draws up at one value."""
    drawn = ExactRandomness(seeded(9)).many_rounded_laplace(rate, 500).tolist()
    assert len(set(drawn)) == 500  # two alike have a probability below 1e-12
    assert max(map(abs, drawn)) > 2**62
    assert stats.kstest([float(number * rate) for number in drawn], stats.laplace().cdf).pvalue > ERROR


def test_sums_are_cut_to_words_and_those_that_fit_are_as_they_were():
    sums = [0, -1, 2**62, -(2**62), 2**62 + 1, 2**63, -(2**63) - 1, 10**400]
    cut = within_words(np.array(sums, dtype=object))
    assert cut.dtype == np.int64
    assert cut.tolist() == [0, -1, 2**62, -(2**62), 2**62, 2**62, -(2**62), 2**62]
    assert within_words(np.array([7, -(2**61)])).tolist() == [7, -(2**61)]


@pytest.mark.parametrize("margin", [None, 1.0], ids=["by floating point", "all by digits"])
def test_many_bernoullis_of_exponentials(margin, monkeypatch):
    """Chi-squared test; with the largest margin every decision is taken by the digits, and they are the same."""
    steps = np.tile(np.array([0, 1, 7, 2**62]), (2_000, 1))
    plain = ExactRandomness(seeded(7)).many_bernoulli_exp(steps, Fraction(1, 7))
    if margin is not None:
        monkeypatch.setattr(_exact, "_MARGIN", margin)
        assert (plain == ExactRandomness(seeded(7)).many_bernoulli_exp(steps, Fraction(1, 7))).all()
    hits = plain.sum(axis=0)
    assert hits[0] == 2_000
    assert hits[3] == 0
    for place, exponent in ((1, 1 / 7), (2, 1.0)):
        assert stats.binomtest(int(hits[place]), 2_000, math.exp(-exponent)).pvalue > ERROR


def test_a_close_decision_takes_as_many_bits_as_it_needs(monkeypatch):
    """The first bits are those of exp(-1) itself, so the decision is left to bits that are drawn."""
    digits = int("367879441171442321595523770161460867445811131031767834507836801697461495744899803357147274345919643")
    randomness = ExactRandomness(None)
    word = digits * 2**64 // 10**99
    for further, expected in ((0, True), (2**64 - 1, False)):
        monkeypatch.setattr(randomness, "below", lambda bound, further=further: further)
        assert randomness._is_below_exp(word, Fraction(1)) is expected
    assert randomness._is_below_exp(word - 2, Fraction(1))
    assert not randomness._is_below_exp(word + 2, Fraction(1))
    # Numbers whose floating-point forms are 0 or infinite.
    huge, tiny = Fraction(10) ** 400, Fraction(1, 10**400)
    assert randomness.many_bernoulli_exp(np.array([0, 1]), huge).tolist() == [True, False]
    assert randomness.many_bernoulli_exp(np.array([0, 1]), tiny).tolist() == [True, True]


def test_numbers_below_bounds_of_their_own_are_uniform():
    randomness = ExactRandomness(seeded(8))
    bounds = np.repeat([1, 3, 3 * 2**61], DRAWS)
    drawn = randomness.each_below(bounds)
    assert ((drawn >= 0) & (drawn < bounds)).all()
    check(np.bincount(drawn[DRAWS : 2 * DRAWS], minlength=3), np.full(3, 1 / 3))
    # For these a quarter of the words is of no use, and with them the first two thirds would be favoured.
    check(np.bincount(drawn[2 * DRAWS :] >> 61, minlength=3), np.full(3, 1 / 3))
