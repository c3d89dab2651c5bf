"""The bounds together: numbers of guesses fixed before, one error probability, a verdict that follows from them."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.audit.canary_audit import Planted, canary_result
from lightning_privacy.audit.epsilon_bounds import bounds_of_scores, numbers_of_guesses
from lightning_privacy.audit.trade_off import GaussianCurve, gaussian_epsilon
from lightning_privacy.errors import ConfigurationError

PLANTED = Planted(kind="noise", unit="example", share=0.25, taken_out=0)


def _scores(m, mu, seed=0):
    generator = np.random.default_rng(seed)
    coins = generator.random(m) < 0.5
    return mu * coins + generator.standard_normal(m), coins


@pytest.mark.parametrize("count", [1, 2, 5, 10, 100, 10_000, 10**6])
def test_numbers_of_guesses_are_possible(count):
    numbers = numbers_of_guesses(count)
    assert numbers == sorted(set(numbers))
    assert numbers[0] >= 1
    assert numbers[-1] == min(count, 20_000)


def test_a_run_without_privacy_is_measured_high():
    scores, coins = _scores(1000, 8.0)
    bounds = bounds_of_scores(scores, coins, delta=1e-5)
    assert bounds.one_run > 4
    assert bounds.f_dp > bounds.one_run
    assert bounds.lower == bounds.f_dp
    assert (bounds.claimed, bounds.broken) == (None, False)
    assert bounds.num_in == coins.sum()


def test_a_broken_promise_is_called_so_and_a_kept_one_is_not():
    scores, coins = _scores(1000, 6.0)
    kept = bounds_of_scores(
        scores, coins, delta=1e-5, claimed=gaussian_epsilon(6.0, 1e-5), claimed_curve=GaussianCurve(6.0)
    )
    assert not kept.broken
    broken = bounds_of_scores(scores, coins, delta=1e-5, claimed=2.0, claimed_curve=GaussianCurve(0.5))
    assert broken.broken
    assert broken.lower > 2


def test_true_promises_are_called_broken_seldom():
    """100 white-box audits of a Gaussian promise that is tight: at most 5% may be called broken."""
    mu = 1.0
    claimed = gaussian_epsilon(mu, 1e-5)
    broken = 0
    for seed in range(100):
        scores, coins = _scores(60, mu, seed)
        broken += bounds_of_scores(
            scores, coins, delta=1e-5, claimed=claimed, claimed_curve=GaussianCurve(mu), further=[scores**2]
        ).broken
    assert broken <= 5


def test_a_curve_that_is_not_refuted_bounds_the_figure():
    # A Gaussian of the same epsilon is refuted, the claimed curve, which allows all, is not.
    scores, coins = _scores(1000, 6.0)
    bounds = bounds_of_scores(scores, coins, delta=1e-5, claimed=2.0, claimed_curve=GaussianCurve(20.0))
    assert bounds.f_dp == 2.0


def test_further_scores_find_what_the_first_do_not():
    scores, coins = _scores(1000, 0.0)
    assert bounds_of_scores(scores, coins, delta=1e-5).lower == 0
    assert bounds_of_scores(scores, coins, delta=1e-5, further=[1.0 * coins]).one_run > 2.5
    good, good_coins = _scores(1000, 8.0)
    first = bounds_of_scores(good, good_coins, delta=1e-5).f_dp
    assert bounds_of_scores(good, good_coins, delta=1e-5, further=[scores]).f_dp > 0.97 * first


def test_shares_move_the_error_from_one_bound_to_the_other():
    scores, coins = _scores(1000, 3.0)
    even = bounds_of_scores(scores, coins, delta=1e-5)
    curve = bounds_of_scores(scores, coins, delta=1e-5, curve_share=0.95)
    assert curve.f_dp > even.f_dp
    assert curve.one_run < even.one_run


def test_numbers_out_of_range_are_refused():
    scores, coins = _scores(10, 0.0)
    for options in ({"delta": 0.0}, {"delta": 1e-5, "confidence": 1.0}, {"delta": 1e-5, "curve_share": 1.0}):
        with pytest.raises(ConfigurationError):
            bounds_of_scores(scores, coins, **options)
    with pytest.raises(ConfigurationError, match="one for each canary"):
        bounds_of_scores(scores, coins[:5].repeat(3), delta=1e-5)


@pytest.mark.parametrize(
    ("mu", "claimed", "verdict", "words"),
    [
        (8.0, None, "measured", "Nothing was promised"),
        (8.0, 1.0, "broken", "NOT AS PRIVATE AS PROMISED"),
        (0.0, 1.0, "holds", "proves nothing"),
    ],
)
def test_the_result_says_what_was_found(tmp_path, mu, claimed, verdict, words):
    scores, coins = _scores(500, mu)
    bounds = bounds_of_scores(scores, coins, delta=1e-5, claimed=claimed)
    result = canary_result(bounds, scores, coins, PLANTED)
    assert result.verdict == verdict
    assert words in result.sentence
    rows = dict(result.rows)
    assert rows["Cost: share of the training set"] == "25.0%"
    assert "not private itself" in rows["This result"]
    assert rows["Promised epsilon"] == ("nothing" if claimed is None else "1.000")
    roc = result.curves[0]
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert AuditResult.read(result.write(tmp_path)) == result


def test_scores_that_are_all_alike_make_a_result_too(tmp_path):
    coins = np.arange(10) % 2 == 0
    for chosen in (coins, coins | True):
        bounds = bounds_of_scores(np.zeros(10), chosen, delta=1e-5)
        canary_result(bounds, np.zeros(10), chosen, PLANTED).write(tmp_path)
