"""The sparse vector technique: its law, its cost by exact sums over its own noise, and where it stops."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_privacy.accounting import PrivacyLedger, PureRelease
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded, UnsupportedError
from lightning_privacy.mechanisms import AboveThreshold, NoiseSource, SeededNoiseWarning, above_threshold
from lightning_privacy.mechanisms._exact import ExactRandomness

ERROR = 1e-6


def seeded(seed=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed)


def rates_of(monkeypatch, **options):
    """One over the scales of the threshold's and the values' noise, for a sensitivity of 1."""
    rates = []

    def none(self, rate, count):
        rates.append(float(rate) * 2**20)
        return np.zeros(count, np.int64)

    with monkeypatch.context() as patch:
        patch.setattr(ExactRandomness, "many_rounded_laplace", none)
        AboveThreshold(threshold=0.0, sensitivity=1.0, **options).ask(0.0)
    return rates


def law(values, rates, positives):
    """Probabilities of all answers, by integration over the noise of the threshold 0."""
    threshold = np.linspace(-60, 60, 24_001)
    weight = stats.laplace(scale=1 / rates[0]).pdf(threshold)
    weight /= weight.sum()
    above = [stats.laplace(loc=value, scale=1 / rates[1]).sf(threshold) for value in values]
    result = {}
    for answers in itertools.product([False, True], repeat=len(values)):
        kept = answers[: 1 + next((i for i in range(len(values)) if sum(answers[: i + 1]) == positives), len(values))]
        chance = weight.copy()
        for answer, probability in zip(kept, above, strict=False):
            chance *= probability if answer else 1 - probability
        result[kept] = chance.sum()
    return result


@pytest.mark.parametrize(("positives", "monotonic"), [(1, False), (2, False), (1, True), (3, True)])
def test_answers_cost_no_more_than_epsilon_and_nearly_that(positives, monotonic, monkeypatch):
    """With the scales the code uses; the first pair is the worst there is."""
    epsilon = 1.2
    rates = rates_of(monkeypatch, epsilon=epsilon, max_positives=positives, monotonic=monotonic)
    times = positives if monotonic else 2 * positives
    assert rates[0] + times * rates[1] == pytest.approx(epsilon, rel=1e-5)
    assert times * rates[1] / rates[0] == pytest.approx(times ** (2 / 3), rel=1e-5)
    generator, worst = np.random.default_rng(0), 0.0
    # Many that are above and are answered not to be, and then some far below that are answered to be above.
    values = np.array([30.0] * 6 + [-30.0] * positives)
    move = np.array([1.0] * 6 + [0.0 if monotonic else -1.0] * positives)
    pairs = [(values, values + move)]
    for _ in range(20):
        values = generator.normal(size=5) * 4
        pairs.append((values, values + generator.uniform(0 if monotonic else -1, 1, 5)))
    for one, two in ([law(values, rates, positives) for values in pair] for pair in pairs):
        worst = max(worst, *(abs(math.log(one[key] / two[key])) for key in one))
    assert 0.9 * epsilon < worst <= epsilon * (1 + 1e-6)


def test_answers_have_their_law(monkeypatch):
    """Chi-squared test of 1,500 runs; fails with probability 1e-6 for a fresh seed."""
    values, options = [-3.0, 1.0, 0.5, 2.0], {"epsilon": 1.5, "max_positives": 2}
    expected = law(values, rates_of(monkeypatch, **options), 2)
    noise = seeded()
    drawn = [
        tuple(above_threshold(values, threshold=0.0, sensitivity=1.0, noise=noise, **options).tolist())
        for _ in range(1500)
    ]
    observed = [drawn.count(key) for key in expected]
    assert sum(observed) == 1500
    assert stats.chisquare(observed, np.array(list(expected.values())) * 1500).pvalue > ERROR


def test_one_by_one_and_all_at_once_stop_at_the_same_place():
    values = [-1e6, 1e6, -1e6, 1e6, 1e6, -1e6]
    options = {"threshold": 5.0, "sensitivity": 1.0, "epsilon": 1.0, "max_positives": 2}
    test = AboveThreshold(**options)
    answers = []
    while test.remaining:
        answers.append(test.ask(values[len(answers)]))
    assert answers == [False, True, False, True]
    assert above_threshold(torch.tensor(values), **options).tolist() == answers
    with pytest.raises(PrivacyBudgetExceeded, match="all answers of True were given"):
        test.ask(0.0)
    options["max_positives"] = 4
    assert above_threshold(values, **options).tolist() == [False, True, False, True, True, False]


def test_the_threshold_has_one_noise_for_all_values(monkeypatch):
    draws = []
    original = ExactRandomness.many_rounded_laplace
    monkeypatch.setattr(
        ExactRandomness,
        "many_rounded_laplace",
        lambda self, rate, count: draws.append(count) or original(self, rate, count),
    )
    test = AboveThreshold(threshold=0.0, sensitivity=1.0, epsilon=1.0, max_positives=9)
    for value in (1e9, -1e9, 1e9):
        test.ask(value)
    assert draws == [1, 1, 1, 1], "one for the threshold, not renewed, and one for each value"


@pytest.mark.parametrize(
    ("value", "threshold", "answer"),
    [(1.7e308, -1.7e308, True), (-1.7e308, 1.7e308, False), (1e300, 1.0000001e300, False), (5e-324, -1.0, True)],
)
def test_numbers_of_any_size(value, threshold, answer):
    assert AboveThreshold(threshold=threshold, sensitivity=1e-300, epsilon=5.0).ask(value) is answer


def test_p30_it_is_charged_before_and_once():
    ledger = PrivacyLedger(delta=1e-6, budget=1.0)
    test = AboveThreshold(threshold=0.0, sensitivity=1.0, epsilon=0.75, ledger=ledger)
    for _ in range(20):
        test.ask(-1e9)
    assert ledger.history == [(PureRelease(0.75), 1, "sparse vector")]
    with pytest.raises(PrivacyBudgetExceeded):
        above_threshold([0.0], threshold=0.0, sensitivity=1.0, epsilon=0.75, ledger=ledger)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "values must not be empty"),
        ({"values": [math.nan]}, "values must be finite"),
        ({"threshold": math.inf}, "threshold must be a finite number, got inf"),
        ({"sensitivity": 0.0}, "sensitivity must be a finite number > 0, got 0.0"),
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
        ({"max_positives": 0}, "max_positives must be a whole number >= 1, got 0"),
        ({"monotonic": "yes"}, "monotonic must be True or False, got 'yes'"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_charged(arguments, message):
    ledger = PrivacyLedger(delta=1e-5)
    options = {"values": [0.0], "threshold": 0.0, "sensitivity": 1.0, "epsilon": 1.0, "ledger": ledger} | arguments
    with pytest.raises(ConfigurationError, match=message):
        above_threshold(options.pop("values"), **options)
    assert ledger.groups == ()


def test_a_question_that_is_no_number_is_named():
    with pytest.raises(ConfigurationError, match="value must be a finite number, got nan"):
        AboveThreshold(threshold=0.0, sensitivity=1.0, epsilon=1.0).ask(math.nan)


def test_threads_that_ask_at_once_get_no_more_answers_of_true_than_are_paid_for(eager_threads):
    test, answers = AboveThreshold(threshold=0.0, sensitivity=1.0, epsilon=1.0, max_positives=2), []

    def ask():
        with contextlib.suppress(PrivacyBudgetExceeded):
            answers.append(test.ask(1e5))

    eager_threads(ask)
    assert answers == [True, True]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
def test_a_copy_would_give_answers_that_nobody_paid_for(duplicate):
    with pytest.raises(UnsupportedError, match="can't be copied or pickled"):
        duplicate(AboveThreshold(threshold=0.0, sensitivity=1.0, epsilon=1.0))
