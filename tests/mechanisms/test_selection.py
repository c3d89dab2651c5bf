"""Private choices: their exact law, what it costs against every neighbour, and what is charged.

Statistical checks run on fixed seeds, so their outcome is fixed; ``ERROR`` is the probability with which one of them
would fail for a fresh seed.
"""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_privacy.accounting import PrivacyLedger, SelectionRelease
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.mechanisms import (
    NoiseSource,
    SeededNoiseWarning,
    exponential,
    noisy_max,
    private_mode,
    private_quantile,
)
from lightning_privacy.mechanisms import mode as mode_module
from lightning_privacy.mechanisms import quantile as quantile_module
from lightning_privacy.mechanisms import selection as selection_module

ERROR = 1e-6


def seeded(seed=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed)


def permute_and_flip_law(gaps, rate):
    """The law from its definition: in a random order, the first whose coin of exp(-rate * gap) shows heads."""
    chances = np.exp(-float(rate) * np.asarray(gaps, float))
    law = np.zeros(len(gaps))
    orders = list(itertools.permutations(range(len(gaps))))
    for order in orders:
        remaining = 1.0
        for place in order:
            law[place] += remaining * chances[place]
            remaining *= 1 - chances[place]
    return law / len(orders)


def exponential_law(gaps, rate):
    weights = np.exp(-float(rate) * np.asarray(gaps, float))
    return weights / weights.sum()


LAWS = {noisy_max: permute_and_flip_law, exponential: exponential_law}


class Recorder:
    """Stands for the choice, and keeps what was to be chosen from."""

    def __init__(self, law=permute_and_flip_law):
        self._law = law

    def __call__(self, gaps, rate, randomness):
        self.law = self._law(gaps[0], rate)
        return np.zeros(len(gaps), np.int64)


def worst_loss(release, records, monkeypatch, module):
    """Largest absolute log-ratio of the laws with all records and without any one of them."""
    recorder = Recorder()
    monkeypatch.setattr(module, "permute_and_flip", recorder)
    release(records)
    whole, worst = recorder.law, 0.0
    for place in range(len(records)):
        release(records[:place] + records[place + 1 :])
        worst = max(worst, np.abs(np.log(whole / recorder.law)).max())
    return worst


@pytest.mark.parametrize("q", [0.5, 0.1, 0.75])
def test_quantile_costs_no_more_than_its_epsilon_and_nearly_that(q, monkeypatch):
    """By exact laws on a grid of 6 points, over random data sets of up to 9 records."""

    def release(records):
        private_quantile(records, q, lower=0, upper=5, epsilon=0.8, cells=5)

    generator = np.random.default_rng(0)
    worst = 0.0
    for _ in range(40):
        records = generator.integers(0, 6, generator.integers(2, 10)).tolist()
        worst = max(worst, worst_loss(release, records, monkeypatch, quantile_module))
    assert 0.5 * 0.8 < worst <= 0.8 + 1e-9


def test_mode_costs_its_epsilon(monkeypatch):
    def release(records):
        private_mode(records, num_classes=4, epsilon=0.8)

    assert worst_loss(release, [0, 0, 0, 1, 1, 2], monkeypatch, mode_module) == pytest.approx(0.8)
    generator = np.random.default_rng(0)
    for _ in range(20):
        records = generator.integers(0, 4, generator.integers(2, 10)).tolist()
        assert worst_loss(release, records, monkeypatch, mode_module) <= 0.8 + 1e-9


def test_quantile_has_the_law_of_permute_and_flip():
    """Chi-squared test of 3,000 medians; fails with probability 1e-6 for a fresh seed."""
    noise, values = seeded(), [0, 1, 1, 2, 4]
    drawn = [private_quantile(values, 0.5, lower=0, upper=4, epsilon=1.5, cells=4, noise=noise) for _ in range(3000)]
    # Below each point and up to it: 0 1, 1 3, 3 4, 4 4, 4 5; wanted 2.5.
    law = permute_and_flip_law([1.5, 0, 0.5, 1.5, 1.5], 1.5)
    assert stats.chisquare(np.bincount(np.array(drawn, int), minlength=5), law * 3000).pvalue > ERROR


def test_quantiles_of_many_records_are_near_the_true_ones():
    values = np.random.default_rng(0).normal(50, 10, 20_000)
    for q in (0.05, 0.5, 0.99):
        got = private_quantile(torch.tensor(values), q, lower=0, upper=100, epsilon=1.0)
        # The rank is beyond 60 of epsilon 1 with probability 65,537 exp(-30).
        assert np.quantile(values, q - 60 / 20_000) - 0.01 <= got <= np.quantile(values, min(1, q + 60 / 20_000)) + 0.01


def test_a_value_that_all_share_is_the_quantile():
    """Where a candidate's score came from one rank instead of the interval of its ties, any number could come out."""
    for q in (0.1, 0.5, 0.9):
        assert private_quantile([7] * 500, q, lower=0, upper=100, epsilon=1.0, cells=100) == 7.0


def test_values_beyond_the_bounds_count_as_the_bounds():
    assert private_quantile([1e300] * 500, 0.5, lower=-1e-3, upper=0.1, epsilon=1.0) == pytest.approx(0.1)
    assert private_quantile([-1e300] * 500, 0.5, lower=-0.1, upper=0.7, epsilon=1.0) == pytest.approx(-0.1)


def test_mode_is_the_largest_class_and_is_charged_before():
    ledger = PrivacyLedger(delta=1e-6)
    assert private_mode(torch.tensor([3] * 300 + [1] * 200), num_classes=5, epsilon=0.5, ledger=ledger) == 3
    private_quantile([1.0, 2.0], 0.25, lower=0, upper=3, epsilon=0.25, ledger=ledger)
    assert ledger.history == [(SelectionRelease(0.5), 1, "mode"), (SelectionRelease(0.25), 1, "quantile 0.25")]


def test_mode_has_the_law_of_permute_and_flip():
    """Chi-squared test of 3,000 modes; fails with probability 1e-6 for a fresh seed."""
    noise = seeded(2)
    drawn = [private_mode([0, 0, 0, 2, 2], num_classes=3, epsilon=0.4, noise=noise) for _ in range(3000)]
    law = permute_and_flip_law([0, 3, 1], 0.4)
    assert stats.chisquare(np.bincount(drawn, minlength=3), law * 3000).pvalue > ERROR


def test_p30_nothing_is_chosen_that_the_budget_does_not_cover():
    ledger = PrivacyLedger(delta=1e-5, budget=0.2)
    with pytest.raises(PrivacyBudgetExceeded):
        private_mode([0], num_classes=2, epsilon=0.25, ledger=ledger)
    with pytest.raises(PrivacyBudgetExceeded):
        private_quantile([0.0], 0.5, lower=0, upper=1, epsilon=0.25, ledger=ledger)
    assert ledger.groups == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "values must not be empty"),
        ({"values": [[1.0]]}, r"values must be one-dimensional.*got shape \(1, 1\)"),
        ({"values": ["a"]}, "values must be numbers, got <U1"),
        ({"values": [1.0, math.nan]}, "values must be finite: drop or fill"),
        ({"q": 0.0}, r"q must be a number in \(0, 1\), got 0.0"),
        ({"q": 1.0}, r"q must be a number in \(0, 1\), got 1.0"),
        ({"lower": 1.0}, "lower must be below upper, got 1.0 and 1.0"),
        ({"upper": math.inf}, "upper must be a finite number, got inf"),
        ({"lower": -1.7e308, "upper": 1.7e308}, "lower must be below upper"),
        ({"epsilon": 0}, "epsilon must be a finite number > 0, got 0"),
        ({"cells": 0}, "cells must be a whole number >= 1, got 0"),
        ({"cells": 2**25}, r"cells must be at most 2\*\*24, got 33554432"),
    ],
)
def test_bad_arguments_of_a_quantile_are_named_and_nothing_is_charged(arguments, message):
    ledger = PrivacyLedger(delta=1e-5)
    options = {"values": [0.5], "q": 0.5, "lower": 0.0, "upper": 1.0, "epsilon": 1.0, "ledger": ledger} | arguments
    with pytest.raises(ConfigurationError, match=message):
        private_quantile(options.pop("values"), options.pop("q"), **options)
    assert ledger.groups == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "labels must not be empty"),
        ({"labels": [2]}, r"labels must be whole numbers in \[0, 2\)"),
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
        ({"num_classes": 0}, "num_classes must be a whole number >= 1, got 0"),
    ],
)
def test_bad_arguments_of_a_mode_are_named_and_nothing_is_charged(arguments, message):
    ledger = PrivacyLedger(delta=1e-5)
    options = {"labels": [0, 1], "num_classes": 2, "epsilon": 1.0, "ledger": ledger} | arguments
    with pytest.raises(ConfigurationError, match=message):
        private_mode(options.pop("labels"), **options)
    assert ledger.groups == ()


def exact_laws(mechanism, pairs, monkeypatch, **options):
    """Laws of a mechanism at pairs of scores, by its own gaps and rate."""
    recorder = Recorder(LAWS[mechanism])
    monkeypatch.setattr(selection_module, "permute_and_flip", recorder)
    monkeypatch.setattr(selection_module, "draw_exponential", recorder)
    for one, two in pairs:
        mechanism(one, **options)
        first = recorder.law
        mechanism(two, **options)
        yield first, recorder.law


def neighbours(monotonic, count=60):
    """Random scores and those of a neighbour, by at most 3 away; the extremes among them."""
    generator = np.random.default_rng(0)
    yield np.array([12.0, 0.0]), np.array([9.0, 0.0 if monotonic else 3.0])
    for _ in range(count):
        scores = generator.normal(size=generator.integers(2, 6)) * 10
        size = generator.choice([3.0, 1.5, 0.0], len(scores))
        yield scores, scores + size * (1 if monotonic else generator.choice([-1, 1], len(scores)))


@pytest.mark.parametrize("mechanism", [noisy_max, exponential])
@pytest.mark.parametrize("monotonic", [False, True])
def test_choices_cost_no_more_than_their_epsilon_and_that(mechanism, monotonic, monkeypatch):
    laws = exact_laws(mechanism, neighbours(monotonic), monkeypatch, sensitivity=3.0, epsilon=0.7, monotonic=monotonic)
    worst = max(np.abs(np.log(one / two)).max() for one, two in laws)
    # The exponential mechanism reaches epsilon only with many candidates.
    assert (0.999 if mechanism is noisy_max else 0.6) * 0.7 < worst <= 0.7


@pytest.mark.parametrize("mechanism", [noisy_max, exponential])
@pytest.mark.parametrize("monotonic", [False, True])
@pytest.mark.parametrize("epsilon", [0.3, 3.0])
def test_choices_cost_no_more_than_laplace_noise_at_any_delta(mechanism, monotonic, epsilon, monkeypatch):
    """What SelectionRelease is charged as, by hockey-stick divergences over a grid of epsilons, both ways."""
    points = np.linspace(-epsilon, epsilon, 41)
    laplace = 1 - np.exp((points - epsilon) / 2)
    laws = exact_laws(
        mechanism, neighbours(monotonic), monkeypatch, sensitivity=3.0, epsilon=epsilon, monotonic=monotonic
    )
    for one, two in laws:
        for p, q in ((one, two), (two, one)):
            divergence = np.maximum(0, p - np.exp(points)[:, None] * q).sum(axis=1)
            assert (divergence <= laplace + 1e-12).all()


@pytest.mark.parametrize("mechanism", [noisy_max, exponential])
@pytest.mark.parametrize("scores", [[3.0, 1.0, 2.5, 0.0], [0.0] * 3], ids=["four", "equal"])
def test_choices_have_their_law(mechanism, scores):
    """Chi-squared test of 100,000 choices; fails with probability 1e-6 for a fresh seed."""
    drawn = mechanism(np.tile(scores, (100_000, 1)), sensitivity=2.0, epsilon=3.0, noise=seeded())
    law = LAWS[mechanism](max(scores) - np.array(scores), 3.0 / (2 * 2.0))
    assert stats.chisquare(np.bincount(drawn, minlength=len(scores)), law * 100_000).pvalue > ERROR


def test_the_exponential_mechanism_over_many_candidates():
    """10,000 candidates, of which 100 have nearly all of the weight; fails with probability 1e-6 for a fresh seed."""
    scores, noise = np.zeros(10_000), seeded()
    scores[::100] = 20.0
    drawn = [exponential(scores, sensitivity=1.0, epsilon=1.0, noise=noise) for _ in range(400)]
    inside = sum(choice % 100 == 0 for choice in drawn)
    chance = 100 * math.exp(10) / (100 * math.exp(10) + 9900)
    assert stats.binomtest(inside, 400, chance).pvalue > ERROR
    assert len(set(drawn)) > 90


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1e308, -1e308], 0),
        ([-1.7e308, -1.6e308, 1.7e308], 2),
        ([1e300, 1e300 + 1e285], 1),
        ([0.0, 5e-324], 1),
        ([2**53 - 2, 2**53], 1),
        ([2.0**60, 2.0**60 + 2**8], 1),
    ],
)
def test_scores_of_any_size(scores, best):
    assert noisy_max(scores, sensitivity=1e-300, epsilon=50.0) in (best, *((0,) if scores == [0.0, 5e-324] else ()))
    assert exponential(np.array(scores, float), sensitivity=1e-300, epsilon=50.0) in (0, best)


def test_rows_are_releases_of_their_own():
    ledger = PrivacyLedger(delta=1e-6)
    rows = [[0, 1000], [1000, 0], [0, 1000]]
    assert noisy_max(rows, sensitivity=1, epsilon=0.5, ledger=ledger).tolist() == [1, 0, 1]
    assert exponential(torch.tensor(rows).half(), sensitivity=1, epsilon=0.25, ledger=ledger).tolist() == [1, 0, 1]
    assert type(noisy_max(rows[0], sensitivity=1, epsilon=0.5, ledger=ledger)) is int
    assert ledger.history == [
        (SelectionRelease(0.5), 4, "noisy maximum"),
        (SelectionRelease(0.25), 3, "exponential mechanism"),
    ]


@pytest.mark.parametrize("mechanism", [noisy_max, exponential])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": []}, r"scores must be of shape .* and not empty, got shape \(0,\)"),
        ({"scores": np.zeros((2, 0))}, r"not empty, got shape \(2, 0\)"),
        ({"scores": 3.0}, r"got shape \(\)"),
        ({"scores": ["a"]}, "scores must be numbers, got <U1"),
        ({"scores": [1.0, -math.inf]}, "scores must be finite: leave out"),
        ({"sensitivity": 0.0}, "sensitivity must be a finite number > 0, got 0.0"),
        ({"sensitivity": -1.0}, "sensitivity must be a finite number > 0, got -1.0"),
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
        ({"monotonic": 1}, "monotonic must be True or False, got 1"),
        ({"noise": 3}, "noise must be a NoiseSource or None, got 3"),
    ],
)
def test_bad_arguments_of_a_choice_are_named_and_nothing_is_charged(mechanism, arguments, message):
    ledger = PrivacyLedger(delta=1e-5)
    options = {"scores": [0.0, 1.0], "sensitivity": 1.0, "epsilon": 1.0, "ledger": ledger} | arguments
    with pytest.raises(ConfigurationError, match=message):
        mechanism(options.pop("scores"), **options)
    assert ledger.groups == ()
