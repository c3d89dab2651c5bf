"""Laplace and Gaussian releases: their noise, what they charge, and that nothing happens before it is paid for."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy import stats

from lightning_privacy.accounting import GaussianRelease, LaplaceRelease, PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning, gaussian, laplace
from lightning_privacy.mechanisms._exact import ExactRandomness

ERROR = 1e-6


def seeded(seed=1, *, secure=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed, secure=secure)


def test_laplace_noise_has_the_scale_it_should():
    """Kolmogorov-Smirnov test; it would fail with probability 1e-6 for a fresh seed."""
    noisy = laplace(np.full(5000, 7.25), sensitivity=3.0, epsilon=0.5, noise=seeded())
    assert stats.kstest(noisy - 7.25, stats.laplace(scale=6.0).cdf).pvalue > ERROR


@pytest.mark.parametrize(
    ("value", "sensitivity"),
    [(1e300, 1.0), (-1e300, 1e-300), (1e-320, 1e-310), (0.1, 1e305), (3.0, 1e17)],
    ids=["large value", "far apart", "subnormal", "large sensitivity", "coarse"],
)
def test_laplace_of_extreme_numbers_is_that_of_exact_arithmetic(value, sensitivity, monkeypatch):
    """Against whole numbers of Python and fractions, with noise of 5 cells."""
    monkeypatch.setattr(ExactRandomness, "many_rounded_laplace", lambda self, rate, count: np.full(count, 5))
    cell = Fraction(2) ** (math.frexp(sensitivity)[1] - 1 - 20)
    expected = float((round(Fraction(value) / cell) + 5) * cell)
    assert laplace(value, sensitivity=sensitivity, epsilon=1.0) == expected


def test_gaussian_noise_has_the_scale_it_should():
    """Kolmogorov-Smirnov test; it would fail with probability 1e-6 for a fresh seed."""
    noisy = gaussian(torch.full((5000,), 7.25), sensitivity=3.0, noise_multiplier=2.0, noise=seeded(secure=True))
    assert stats.kstest(noisy.double().numpy() - 7.25, stats.norm(scale=6.0).cdf).pvalue > ERROR


@pytest.mark.parametrize("count", [1, 5])
def test_p29_laplace_values_lie_on_a_grid_that_the_value_has_no_part_in(count):
    """Neighbouring values reach the same outputs, whatever their low bits: the leak of textbook noise."""
    cell = 2.0 ** (1 - 20 - (count - 1).bit_length())  # sensitivity 3 is in [2, 4)
    for value in (0.0, 0.1, 1 / 3, 1e-30, -7e5 / 9):
        noisy = laplace(np.full(count, value), sensitivity=3.0, epsilon=1.0)
        assert (noisy % cell == 0).all()


def test_p29_the_rounded_values_differ_by_no_more_than_the_noise_covers(monkeypatch):
    """The scale of the noise, in cells, is at least the sensitivity of the rounded values over epsilon."""
    rates = []

    def none(self, rate, count):
        rates.append(rate)
        return np.zeros(count, np.int64)

    monkeypatch.setattr(ExactRandomness, "many_rounded_laplace", none)
    generator = np.random.default_rng(0)
    for _ in range(200):
        sensitivity, epsilon = float(generator.uniform(1e-3, 1e3)), float(generator.uniform(0.01, 10))
        value = generator.normal(size=4) * 10 * sensitivity
        change = generator.dirichlet(np.ones(4)) * sensitivity * generator.choice([-1, 1], 4)
        one = laplace(value, sensitivity=sensitivity, epsilon=epsilon)
        two = laplace(value + change, sensitivity=sensitivity, epsilon=epsilon)
        cell = Fraction(2) ** (math.frexp(sensitivity)[1] - 1 - 20 - 2)
        moved = sum(abs(Fraction(a) - Fraction(b)) for a, b in zip(one.tolist(), two.tolist(), strict=True)) / cell
        assert moved <= Fraction(epsilon) / rates[-1]
        assert float(Fraction(epsilon) / rates[-1] * cell) == pytest.approx(sensitivity, rel=2e-6)


@pytest.mark.parametrize("parts", [(0.5, 0.5), (0.9, 0.1), (0.25, 0.25, 0.5)])
@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_several_values_cost_no_more_than_one_with_their_sensitivity(parts, epsilon):
    """delta of the product of Laplace mechanisms against that of one, over all epsilons; grid 1e-4."""
    one = pld.from_laplace_mechanism(1 / epsilon, value_discretization_interval=1e-4)
    several = pld.identity(value_discretization_interval=1e-4)
    for part in parts:
        several = several.compose(pld.from_laplace_mechanism(1 / (epsilon * part), value_discretization_interval=1e-4))
    points = np.linspace(0, epsilon, 20)
    # The grid rounds the losses of each part up by half a cell or so.
    assert (
        several.get_delta_for_epsilon(points) <= one.get_delta_for_epsilon(points - 1e-4 * len(parts)) + 1e-12
    ).all()


def test_both_charge_before_they_draw():
    ledger = PrivacyLedger(delta=1e-5)
    laplace(1.0, sensitivity=1.0, epsilon=0.25, ledger=ledger)
    gaussian(1.0, sensitivity=5.0, noise_multiplier=3.0, ledger=ledger)
    assert [release for release, _ in ledger.groups] == [LaplaceRelease(0.25), GaussianRelease(3.0)]
    assert ledger.caveats == ()


def test_p30_nothing_is_released_that_the_budget_does_not_cover(monkeypatch):
    ledger = PrivacyLedger(delta=1e-5, budget=0.2)
    monkeypatch.setattr(ExactRandomness, "many_rounded_laplace", lambda *args: pytest.fail("drawn"))
    monkeypatch.setattr(NoiseSource, "add_", lambda *args, **kwargs: pytest.fail("drawn"))
    with pytest.raises(PrivacyBudgetExceeded):
        laplace(1.0, sensitivity=1.0, epsilon=0.25, ledger=ledger)
    with pytest.raises(PrivacyBudgetExceeded):
        gaussian(1.0, sensitivity=1.0, noise_multiplier=1.0, ledger=ledger)
    assert ledger.groups == ()


def test_p25_a_seed_is_told():
    ledger = PrivacyLedger(delta=1e-5)
    source = seeded()
    one = [laplace(1.0, sensitivity=1.0, epsilon=1.0, ledger=ledger, noise=source) for _ in range(2)]
    assert one[0] != one[1]
    assert "NOT PRIVATE" in ledger.caveats[0]
    source = seeded()
    assert one == [laplace(1.0, sensitivity=1.0, epsilon=1.0, noise=source) for _ in range(2)]


def test_gaussian_by_epsilon_and_delta_fits_a_budget_of_that_epsilon():
    for epsilon in (0.1, 1.0, 8.0):
        ledger = PrivacyLedger(delta=1e-5, budget=epsilon)
        gaussian(1.0, sensitivity=3.0, epsilon=epsilon, delta=1e-5, ledger=ledger)
        assert ledger.epsilon(exact=True) == pytest.approx(epsilon, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"noise_multiplier": 1.0, "epsilon": 1.0}, {"noise_multiplier": 1.0, "delta": 0.1}],
    ids=["none", "both", "a delta too many"],
)
def test_gaussian_noise_is_given_in_one_way(options):
    with pytest.raises(ConfigurationError, match="give noise_multiplier, or epsilon and delta, and not both"):
        gaussian(1.0, sensitivity=1.0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 1.0}, r"delta must be a number in \(0, 1\), got None"),
        ({"delta": 0.1}, "epsilon must be a finite number > 0, got None"),
        ({"epsilon": 0.0, "delta": 0.1}, "epsilon must be a finite number > 0, got 0.0"),
        ({"epsilon": 1.0, "delta": 0.0}, r"delta must be a number in \(0, 1\), got 0.0"),
    ],
)
def test_bad_epsilon_and_delta_of_gaussian_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        gaussian(1.0, sensitivity=1.0, **options)


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
@pytest.mark.parametrize(
    "value",
    [
        2,
        2.5,
        np.float32(2.5),
        np.ones((2, 3)),
        np.ones(2, np.float32),
        torch.ones(2, 2),
        torch.ones((), dtype=torch.bfloat16),
    ],
    ids=["int", "float", "scalar", "array", "array32", "tensor", "bf16"],
)
def test_type_and_shape_stay(mechanism, value):
    if mechanism == "laplace":
        noisy = laplace(value, sensitivity=1.0, epsilon=1.0)
    else:
        noisy = gaussian(value, sensitivity=1.0, noise_multiplier=1.0)
    assert isinstance(noisy, float if np.isscalar(value) else type(value))
    if not np.isscalar(value):
        assert noisy.shape == value.shape
        assert noisy.dtype == value.dtype
        assert noisy is not value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": math.nan}, "value must be finite"),
        ({"value": torch.tensor([1.0, math.inf])}, "value must be finite"),
        ({"value": torch.tensor([1, 2])}, r"floating-point.*got Tensor; for whole numbers"),
        ({"value": "3"}, "value must be a number .* got str"),
        ({"value": True}, "got bool"),
        ({"sensitivity": 0.0}, "sensitivity must be a finite number > 0, got 0.0"),
        ({"amount": -1.0}, "(epsilon|noise_multiplier) must be a finite number .*, got -1.0"),
        ({"noise": 3}, "noise must be a NoiseSource or None, got 3"),
        ({"ledger": 3}, "ledger must be a PrivacyLedger or None, got 3"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_charged(arguments, message):
    ledger = PrivacyLedger(delta=1e-5)
    options = {"value": 1.0, "sensitivity": 1.0, "ledger": ledger} | arguments
    amount = options.pop("amount", 1.0)
    with pytest.raises(ConfigurationError, match=message):
        laplace(epsilon=amount, **options)
    with pytest.raises(ConfigurationError, match=message):
        gaussian(noise_multiplier=amount, **options)
    assert ledger.groups == ()
