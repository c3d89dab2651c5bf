"""The fit of normals: the truth is in its interval as often as it says, where scores are normal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from lightning_privacy.audit.gaussian_fit import gaussian_fit
from lightning_privacy.errors import ConfigurationError


@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_the_interval_covers(mu):
    """2,000 fits at 95%: other than 95% with a probability of 1e-4."""
    generator, hits = np.random.default_rng(3), 0
    for _ in range(2000):
        coins = generator.random(300) < 0.5
        fit = gaussian_fit(7.0 * (mu * coins + generator.standard_normal(300)) - 4.0, coins)
        hits += fit.low <= mu <= fit.high
    assert binomtest(hits, 2000, 0.95).pvalue > 1e-4


def test_it_is_the_difference_over_the_spread():
    fit = gaussian_fit([1.0, 3.0, 0.0, 2.0], [True, True, False, False])
    assert fit.mu == pytest.approx(1.0 / np.sqrt(2.0))


def test_scores_the_wrong_way_round_are_nothing():
    coins = np.arange(100) % 2 == 0
    fit = gaussian_fit(-5.0 * coins + np.linspace(0, 1, 100), coins)
    assert (fit.mu, fit.low, fit.high) == (0.0, 0.0, 0.0)


def test_scores_that_tell_all_are_cut():
    coins = np.arange(10) % 2 == 0
    assert gaussian_fit(1.0 * coins, coins).mu == 100.0


@pytest.mark.parametrize(
    ("scores", "coins"),
    [([1.0, 2.0, 3.0], [True, True, True]), ([1.0, 2.0, 3.0], [True, False, True]), ([1.0] * 4, [True, False] * 2)],
    ids=["all in", "one out", "all alike"],
)
def test_too_little_gives_no_fit(scores, coins):
    assert gaussian_fit(scores, coins) is None


@pytest.mark.parametrize("scores", [[1.0], [1.0, np.inf]])
def test_other_scores_are_refused(scores):
    with pytest.raises(ConfigurationError, match="scores"):
        gaussian_fit(scores, [True, False])
