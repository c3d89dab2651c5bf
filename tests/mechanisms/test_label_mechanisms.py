"""Noisy labels and noisy counts of labels: their laws, and what they cost."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger, RandomizedResponseRelease
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning, private_histogram, randomized_response
from lightning_privacy.mechanisms._exact import ExactRandomness

ERROR = 1e-6


def seeded(seed=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed)


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 1.0), (10, 2.0), (3, 0.01)])
def test_answers_have_the_law_of_randomised_response(classes, epsilon):
    """Chi-squared test of 200,000 answers for one label; it fails with probability 1e-6 for a fresh seed."""
    answers = randomized_response(np.ones(200_000, int), num_classes=classes, epsilon=epsilon, noise=seeded())
    truth = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    law = np.full(classes, (1 - truth) / (classes - 1))
    law[1] = truth
    assert stats.chisquare(np.bincount(answers, minlength=classes), law * len(answers)).pvalue > ERROR


def test_answers_are_independent_of_each_other():
    """Whether neighbours were both changed, chi-squared; it fails with probability 1e-6 for a fresh seed."""
    changed = randomized_response(np.zeros(100_000, int), num_classes=2, epsilon=1.0, noise=seeded(2)) != 0
    table = np.histogram2d(changed[0::2], changed[1::2], bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > ERROR


def test_p16_the_histogram_has_laplace_noise_and_is_charged_before():
    """Kolmogorov-Smirnov test of 5,000 counts; it fails with probability 1e-6 for a fresh seed."""
    ledger = PrivacyLedger(delta=1e-6)
    labels = torch.repeat_interleave(torch.arange(5000), 3)
    counts = private_histogram(labels, num_classes=5000, epsilon=0.05, ledger=ledger, noise=seeded())
    assert stats.kstest(counts - 3, stats.laplace(scale=20.0).cdf).pvalue > ERROR
    assert ledger.history == [(LaplaceRelease(0.05), 1, "class counts")]
    assert (counts < 0).any(), "negative counts must stay, or the mean would be off"


def test_p16_one_record_changes_one_count_by_one(monkeypatch):
    """The sensitivity the noise is for, under zero-out: a null record is in no class."""
    monkeypatch.setattr(ExactRandomness, "many_rounded_laplace", lambda self, rate, count: np.zeros(count, int))
    labels = [0, 2, 2, 1, 2]
    whole = private_histogram(labels, num_classes=4, epsilon=1.0)
    for place in range(5):
        without = private_histogram(labels[:place] + labels[place + 1 :], num_classes=4, epsilon=1.0)
        assert np.abs(whole - without).sum() == 1


def test_p30_nothing_is_released_that_the_budget_does_not_cover():
    ledger = PrivacyLedger(delta=1e-5, budget=0.2)
    with pytest.raises(PrivacyBudgetExceeded):
        private_histogram([0, 1], num_classes=2, epsilon=0.25, ledger=ledger)
    with pytest.raises(PrivacyBudgetExceeded):
        randomized_response([0, 1], num_classes=2, epsilon=1.0, ledger=ledger)
    assert ledger.groups == ()


def test_labels_are_charged_once_for_all():
    ledger = PrivacyLedger(delta=1e-5)
    randomized_response([0, 1, 1], num_classes=2, epsilon=1.5, ledger=ledger)
    assert ledger.history == [(RandomizedResponseRelease(1.5, 2), 1, "labels")]


def test_forms_of_labels():
    tensor = torch.tensor([0, 2, 1], dtype=torch.int32)
    noisy = randomized_response(tensor, num_classes=3, epsilon=1.0)
    assert isinstance(noisy, torch.Tensor)
    assert noisy.dtype == torch.int32
    assert tensor.tolist() == [0, 2, 1]
    assert randomized_response([0, 1], num_classes=2, epsilon=50.0).tolist() == [0, 1]
    assert type(randomized_response(np.int32(1), num_classes=2, epsilon=50.0)) is int
    assert randomized_response(True, num_classes=2, epsilon=50.0) is True
    assert randomized_response([True, False], num_classes=2, epsilon=50.0).tolist() == [True, False]
    assert randomized_response(tensor > 1, num_classes=2, epsilon=50.0).tolist() == [False, True, False]
    assert randomized_response([], num_classes=2, epsilon=1.0).tolist() == []
    assert len(private_histogram([], num_classes=3, epsilon=1.0)) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], r"labels must be whole numbers in \[0, 3\), and some are not"),
        ([0, -1], r"labels must be whole numbers in \[0, 3\)"),
        ([0.5, 1.0], "labels must be whole numbers, got float64"),
        ([[0], [1]], r"one-dimensional.*got shape \(2, 1\)"),
        (["a"], "labels must be whole numbers"),
    ],
)
def test_bad_labels_are_named_and_not_shown(labels, message):
    ledger = PrivacyLedger(delta=1e-5)
    for mechanism in (private_histogram, randomized_response):
        with pytest.raises(ConfigurationError, match=message):
            mechanism(labels, num_classes=3, epsilon=1.0, ledger=ledger)
    assert ledger.groups == ()


@pytest.mark.parametrize("options", [{"epsilon": 0.0}, {"num_classes": 0}, {"num_classes": 2.5}])
def test_bad_numbers_are_named(options):
    (name,) = options
    for mechanism in (private_histogram, randomized_response):
        with pytest.raises(ConfigurationError, match=name):
            mechanism([0, 1], **({"num_classes": 2, "epsilon": 1.0} | options))
