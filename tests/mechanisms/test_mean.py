"""The private mean: its sensitivity, its noise and what it costs."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning, private_mean
from lightning_privacy.mechanisms._exact import ExactRandomness

STEPS = 2**24


def seeded(seed=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed)


def without_noise(monkeypatch, one=0, two=0):
    rates = []

    def drawn(self, rate, count):
        rates.append(rate)
        return np.array([one, two])

    monkeypatch.setattr(ExactRandomness, "many_rounded_laplace", drawn)
    return rates


def test_one_value_moves_both_sums_by_the_width_of_the_bounds_in_all(monkeypatch):
    """Both sums are read back through the result, by adding a large known number to one and to the other."""
    large = 2**40
    values = np.random.default_rng(0).uniform(-3, 9, 50).tolist()

    def sums(values):
        without_noise(monkeypatch)
        plain = (private_mean(values, lower=-2.0, upper=6.0, epsilon=0.5) + 2) / 8
        rates = without_noise(monkeypatch, two=large)
        diluted = (private_mean(values, lower=-2.0, upper=6.0, epsilon=0.5) + 2) / 8
        assert rates == [0.5 / STEPS]
        # plain = A / T, diluted = A / (T + large)
        total = large * diluted / (plain - diluted)
        return np.array([plain * total, (1 - plain) * total])

    whole = sums(values)
    for place in range(0, 50, 7):
        moved = np.abs(whole - sums(values[:place] + values[place + 1 :])).sum()
        assert moved == pytest.approx(STEPS, rel=1e-4)


def test_noise_has_the_deviation_it_should():
    """Standard deviation of 4,000 means, at 5 standard errors of it: fails with probability 1e-6 for a fresh seed."""
    values, noise = np.full(1000, 2.0), seeded()
    drawn = [private_mean(values, lower=0.0, upper=8.0, epsilon=0.5, noise=noise) for _ in range(4000)]
    expected = 8.0 * math.sqrt(2 * (0.25**2 + 0.75**2)) / (1000 * 0.5)
    # The kurtosis of what is close to a Laplace variable is below 6, so the error of the deviation is at most this.
    assert abs(np.std(drawn) / expected - 1) < 5 * math.sqrt(5 / 4 / 4000)
    assert abs(np.mean(drawn) - 2.0) < 5 * expected / math.sqrt(4000)


def test_forms_bounds_and_charge():
    ledger = PrivacyLedger(delta=1e-6)
    assert abs(private_mean(torch.full((10_000,), 3), lower=0, upper=4, epsilon=1.0, ledger=ledger) - 3) < 0.1
    assert ledger.history == [(LaplaceRelease(1.0), 1, "mean")]
    for _ in range(50):
        assert -1.0 <= private_mean([1e300, -5.0, 0.0], lower=-1.0, upper=0.1, epsilon=0.1) <= 0.1


def test_noise_that_outweighs_all_values_gives_the_middle(monkeypatch):
    without_noise(monkeypatch, one=-(2**61), two=-(2**61))
    assert private_mean([1.0], lower=0.0, upper=4.0, epsilon=1.0) == 2.0


def test_p30_nothing_is_released_that_the_budget_does_not_cover():
    ledger = PrivacyLedger(delta=1e-5, budget=0.2)
    with pytest.raises(PrivacyBudgetExceeded):
        private_mean([0.5], lower=0, upper=1, epsilon=0.25, ledger=ledger)
    assert ledger.groups == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "values must not be empty"),
        ({"values": [math.nan]}, "values must be finite"),
        ({"lower": 2.0}, "lower must be below upper, got 2.0 and 1.0"),
        ({"lower": "0"}, "lower must be a finite number, got '0'"),
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_charged(arguments, message):
    ledger = PrivacyLedger(delta=1e-5)
    options = {"values": [0.5], "lower": 0.0, "upper": 1.0, "epsilon": 1.0, "ledger": ledger} | arguments
    with pytest.raises(ConfigurationError, match=message):
        private_mean(options.pop("values"), **options)
    assert ledger.groups == ()
