"""The least Gaussian noise, against dp_accounting and against the definition of privacy by integration."""

from __future__ import annotations

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss
from scipy import integrate, stats

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms import gaussian_delta, gaussian_noise_multiplier


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 8.0, 60.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.3])
def test_the_noise_is_enough_and_hardly_more(epsilon, delta):
    """By dp_accounting's own solver, and by its delta for the noise found."""
    sigma = gaussian_noise_multiplier(epsilon=epsilon, delta=delta)
    parameters = dp_accounting.pld.common.DifferentialPrivacyParameters(epsilon, delta)
    reference = GaussianPrivacyLoss.from_privacy_guarantee(parameters).standard_deviation
    assert sigma == pytest.approx(reference, rel=2e-6)
    assert GaussianPrivacyLoss(sigma).get_delta_for_epsilon(epsilon) <= delta


@pytest.mark.parametrize(("epsilon", "delta"), [(0.01, 1e-10), (1.0, 1e-5), (6.0, 0.3)])
def test_the_noise_fits_a_ledger_with_that_budget(epsilon, delta):
    sigma = gaussian_noise_multiplier(epsilon=epsilon, delta=delta)
    PrivacyLedger(delta=delta, budget=epsilon).charge(GaussianRelease(sigma))


@pytest.mark.parametrize(("epsilon", "sigma"), [(0.5, 1.0), (1.0, 3.0), (3.0, 0.4)])
def test_delta_is_what_the_definition_says(epsilon, sigma):
    def excess(x):
        return max(0.0, stats.norm.pdf(x, 1, sigma) - math.exp(epsilon) * stats.norm.pdf(x, 0, sigma))

    start = epsilon * sigma**2 + 0.5  # where the excess begins
    expected, _ = integrate.quad(excess, start, 1 + 12 * sigma, epsabs=1e-13)
    assert gaussian_delta(epsilon=epsilon, noise_multiplier=sigma) == pytest.approx(expected, rel=1e-8)


def test_delta_falls_with_noise_down_to_the_smallest_numbers():
    deltas = [gaussian_delta(epsilon=2.0, noise_multiplier=sigma) for sigma in np.geomspace(0.2, 18, 60)]
    assert all(one > two for one, two in itertools.pairwise(deltas))
    assert 0 < deltas[-1] < 1e-200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
        ({"epsilon": math.inf}, "epsilon must be a finite number > 0, got inf"),
        ({"delta": 0.0}, r"delta must be a number in \(0, 1\), got 0.0"),
        ({"delta": 1.0}, r"delta must be a number in \(0, 1\), got 1.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        gaussian_noise_multiplier(**({"epsilon": 1.0, "delta": 1e-5} | arguments))
