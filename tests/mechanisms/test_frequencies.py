"""Frequencies from randomised labels: unbiased, and as wrong as they say."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning, estimate_frequencies, randomized_response


def seeded(seed=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed)


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 0.2), (2, 2.0), (5, 1.0)])
def test_estimates_are_unbiased_and_have_the_error_they_state(classes, epsilon):
    """1,000 repetitions with one set of labels, at 5 standard errors: fails with probability 1e-5 for a fresh seed."""
    labels = np.repeat(np.arange(classes), np.arange(1, classes + 1) ** 2 * 20)
    truth, noise = np.bincount(labels) / len(labels), seeded()
    estimates = [
        estimate_frequencies(
            randomized_response(labels, num_classes=classes, epsilon=epsilon, noise=noise),
            num_classes=classes,
            epsilon=epsilon,
        )
        for _ in range(1000)
    ]
    frequencies = np.array([estimate.frequencies for estimate in estimates])
    deviation = frequencies.std(axis=0)
    assert (np.abs(frequencies.mean(axis=0) - truth) < 5 * deviation / np.sqrt(1000)).all()
    stated = np.sqrt(np.mean([estimate.standard_errors**2 for estimate in estimates], axis=0))
    # 5 standard errors of a deviation of 1,000 are 0.11 of it; clipping of the estimates in the formula adds a little.
    np.testing.assert_allclose(stated, deviation, rtol=0.12)
    np.testing.assert_allclose(frequencies.sum(axis=1), 1.0)


def test_labels_that_hardly_changed_are_counted():
    estimate = estimate_frequencies(torch.tensor([True, False, True, True]), num_classes=2, epsilon=40.0)
    np.testing.assert_allclose(estimate.frequencies, [0.25, 0.75])
    assert (estimate.standard_errors < 1e-8).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "labels must not be empty"),
        ({"labels": [2]}, r"labels must be whole numbers in \[0, 2\)"),
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
        ({"num_classes": 1}, "num_classes must be a whole number >= 2, got 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    options = {"labels": [0, 1], "num_classes": 2, "epsilon": 1.0} | arguments
    with pytest.raises(ConfigurationError, match=message):
        estimate_frequencies(options.pop("labels"), **options)
