"""Coins are fair, kept as they fell, and guesses are made by the scores alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from lightning_privacy.audit.coins import count_correct, draw_coins, guess_coins, read_coins, write_coins
from lightning_privacy.errors import ConfigurationError


def test_coins_are_fair_and_fresh():
    # Wrong with a probability of 1e-6 each.
    first, second = draw_coins(20_000), draw_coins(20_000)
    for heads in (first.sum(), second.sum(), (first ^ second).sum(), (first[1:] ^ first[:-1])[::2].sum()):
        count = 10_000 if heads < 7_000 else 20_000
        assert binomtest(int(heads), count, 0.5).pvalue > 1e-6


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_what_is_read_is_what_was_written(count):
    coins = draw_coins(count)
    assert coins.shape == (count,)
    assert (read_coins(write_coins(coins), count=count) == coins).all()


@pytest.mark.parametrize("text", ["", "zz", "ffff", 3, None])
def test_other_texts_are_refused(text):
    with pytest.raises(ConfigurationError, match="text must"):
        read_coins(text, count=8)


def test_zero_coins_are_refused():
    with pytest.raises(ConfigurationError, match="count must be a whole number >= 1"):
        draw_coins(0)


def test_the_highest_are_in_and_the_lowest_out():
    scores = np.array([0.1, 5.0, -3.0, 2.0, 2.0, -1.0])
    guesses = guess_coins(scores, highest=2, lowest=2)
    assert guesses.tolist() == [0, 1, -1, 0, 1, -1]
    assert count_correct(guesses, [1, 1, 0, 0, 0, 1]) == 2
    assert guess_coins(scores, highest=0, lowest=0).tolist() == [0] * 6


def test_wrong_scores_are_refused():
    with pytest.raises(ConfigurationError, match="finite"):
        guess_coins([0.0, np.nan], highest=1, lowest=0)
    with pytest.raises(ConfigurationError, match="at most the number of canaries, 2"):
        guess_coins([0.0, 1.0], highest=2, lowest=1)
    with pytest.raises(ConfigurationError, match="one for each canary"):
        count_correct([1, 0], [True])
