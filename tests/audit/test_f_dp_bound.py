"""The bound with trade-off curves: the inequalities it rests on, an independent form of it, and its coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import binom, norm

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.audit.coins import count_correct, guess_coins
from lightning_privacy.audit.f_dp_bound import gaussian_lower_bound, refutes
from lightning_privacy.audit.trade_off import GaussianCurve, PrivacyProfile, gaussian_epsilon
from lightning_privacy.errors import ConfigurationError


def _paper(curve, correct, guesses, m, level):
    """Algorithm of the paper, with its h and r and upside down: whether the guesses are too many for the curve."""
    right, wrong = level * correct / m, level * (guesses - correct) / m
    for i in range(correct - 1, -1, -1):
        if right > 1:
            return True
        least = max(wrong, curve.least(right))
        right += i / (guesses - i) * (least - wrong)
        wrong = least
    return right + wrong > guesses / m


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("level", [0.05, 0.001])
def test_it_refutes_what_the_papers_recursion_refutes(mu, level):
    curve = GaussianCurve(mu)
    for m, guesses in ((40, 40), (400, 40), (300, 100)):
        found = [refutes(curve, v, guesses, num_canaries=m, level=level) for v in range(guesses + 1)]
        assert found == [v > 0 and _paper(curve, v, guesses, m, level) for v in range(guesses + 1)]
        assert found == sorted(found)  # more right guesses refute more


def test_it_is_the_least_that_a_linear_program_finds():
    """For a curve of straight lines the inequalities are linear: no distribution with that tail satisfies them."""
    guesses, m, level, epsilon, delta = 12, 20, 0.05, 0.8, 0.001
    curve = PrivacyProfile([epsilon], [delta])
    numbers = np.arange(guesses + 1)
    rows, limits = [], []
    for i in range(guesses):
        above, at = (numbers > i) * numbers / m, (numbers >= i) * (guesses - numbers) / m
        rows += [math.exp(-epsilon) * above - at, math.exp(epsilon) * above - at]
        limits += [math.exp(-epsilon) * delta, math.exp(epsilon) - (1 - delta)]
    rows.append(-numbers.astype(float) * 0)
    limits.append(0.0)
    for v in range(1, guesses + 1):
        tail = -(numbers >= v).astype(float)
        most = -linprog(tail, rows, limits, np.ones((1, guesses + 1)), [1.0]).fun
        assert refutes(curve, v, guesses, num_canaries=m, level=level) == (most < level - 1e-9), v


@pytest.mark.parametrize(("sigma", "m", "guesses"), [(1.0, 60, 60), (0.5, 60, 20), (2.0, 200, 40)])
def test_gaussian_mechanisms_are_rarely_above_their_mu(sigma, m, guesses):
    """Scores coin + sigma z: 4,000 audits of a true mu. More than 6.5% wrong bounds would come up with 1e-5 at 5%."""
    generator, trials = np.random.default_rng(5), 4000
    refuted = [refutes(GaussianCurve(1 / sigma), v, guesses, num_canaries=m, level=0.05) for v in range(guesses + 1)]
    wrong = 0
    for _ in range(trials):
        coins = generator.random(m) < 0.5
        scores = coins + sigma * generator.standard_normal(m)
        wrong += refuted[count_correct(guess_coins(scores, highest=guesses // 2, lowest=guesses // 2), coins)]
    assert binom.sf(wrong - 1, trials, 0.05) > 1e-5
    assert wrong < trials * 0.05


def test_canaries_that_hang_together_are_rarely_above_their_mu():
    """One noise for all coins, all guesses about one sum: right or wrong together, and still below 5%.

    The mechanism releases the mean of m coins of +-1 with noise of s, so that mu is 2 / (m s).
    """
    generator, m, s = np.random.default_rng(6), 20, 0.05
    mu = 2 / (m * s)
    refuted = [refutes(GaussianCurve(mu), v, m, num_canaries=m, level=0.05) for v in range(m + 1)]
    wrong = 0
    for _ in range(4000):
        coins = generator.random(m) < 0.5
        seen = (2 * coins - 1).mean() + s * generator.standard_normal()
        wrong += refuted[int((coins == (seen > 0)).sum())]
    assert wrong < 4000 * 0.05


def test_the_lower_bound_is_where_refuting_ends():
    mu = gaussian_lower_bound(190, 200, num_canaries=2000, confidence=0.99)
    assert refutes(GaussianCurve(mu), 190, 200, num_canaries=2000, level=0.01)
    assert not refutes(GaussianCurve(mu + 2e-4), 190, 200, num_canaries=2000, level=0.01)
    assert gaussian_lower_bound(100, 200, num_canaries=2000) == 0.0
    assert gaussian_lower_bound(10, 10, num_canaries=10, largest=0.1) == 0.1


def test_it_proves_more_of_a_gaussian_than_delta_alone():
    from lightning_privacy.audit.one_run_bound import epsilon_lower_bound

    found = gaussian_epsilon(gaussian_lower_bound(290, 300, num_canaries=10_000), 1e-5)
    assert found > 1.2 * epsilon_lower_bound(290, 300, num_canaries=10_000, delta=1e-5)


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_epsilon_of_a_gaussian_curve_is_the_ledgers(noise):
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(GaussianRelease(noise))
    assert gaussian_epsilon(1 / noise, 1e-5) == pytest.approx(ledger.epsilon(exact=True), abs=2e-3)
    assert gaussian_epsilon(0.0, 1e-5) == 0.0


def test_curves_are_convex_and_invert_the_trade_off():
    points = np.linspace(0.001, 0.999, 200)
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(GaussianRelease(1.0))
    profile = PrivacyProfile.of_ledger(ledger)
    for curve in (GaussianCurve(1.0), profile, PrivacyProfile([0.5, 1.0], [0.1, 0.01])):
        values = np.array([curve.least(point) for point in points])
        assert (np.diff(values) >= -1e-12).all()
        assert (np.diff(values, 2) >= -1e-9).all()
        assert (values <= points + 1e-12).all()
    exact = norm.cdf(norm.ppf(points) - 1.0)
    found = np.array([profile.least(point) for point in points])
    assert (found <= exact + 1e-6).all()  # no more is promised than is true
    assert (exact - found).max() < 0.03  # and little less, for a few deltas


def test_a_ledger_that_promises_nothing_has_no_curve():
    ledger = PrivacyLedger(delta=1e-5)
    ledger.mark_not_private("shown to all")
    assert PrivacyProfile.of_ledger(ledger) is None


def test_a_true_claim_of_many_sampled_steps_is_rarely_refuted():
    """20 steps at rate 0.2, white box and exact: the ledger's curve is refuted in less than 5% of 1,000 audits."""
    ledger = PrivacyLedger(delta=1e-4)
    ledger.charge(SampledGaussian(noise_multiplier=1.0, sample_rate=0.2), count=20)
    curve, m, guesses = PrivacyProfile.of_ledger(ledger), 100, 40
    refuted = [refutes(curve, v, guesses, num_canaries=m, level=0.05) for v in range(guesses + 1)]
    generator, wrong = np.random.default_rng(7), 0
    for _ in range(1000):
        coins = generator.random(m) < 0.5
        scores = generator.binomial(20, 0.2, m) * coins + math.sqrt(20) * generator.standard_normal(m)
        wrong += refuted[count_correct(guess_coins(scores, highest=20, lowest=20), coins)]
    assert wrong < 50


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match="mu must be"):
        GaussianCurve(-1.0)
    with pytest.raises(ConfigurationError, match="one delta for each epsilon"):
        PrivacyProfile([1.0], [])
    with pytest.raises(ConfigurationError, match="level"):
        refutes(GaussianCurve(1.0), 1, 2, num_canaries=3, level=0.0)
    with pytest.raises(ConfigurationError, match="at most 100"):
        gaussian_epsilon(101.0, 1e-5)
