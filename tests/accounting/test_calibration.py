from __future__ import annotations

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation

from lightning_privacy.accounting import (
    LaplaceRelease,
    PrivacyLedger,
    Release,
    SampledGaussian,
    TruncatedSampledGaussian,
    calibrate_noise,
)
from lightning_privacy.errors import ConfigurationError


def _epsilon(groups, delta: float) -> float:
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    for release, count in groups:
        accountant.compose(release.event(), count)
    return accountant.get_epsilon(delta)


def _check_smallest(make, sigma: float, *, epsilon: float, delta: float, steps: int, before=()) -> None:
    """Private with this noise, and not with 0.1% less."""
    assert _epsilon([*before, (make(sigma), steps)], delta) <= epsilon
    assert _epsilon([*before, (make(sigma / 1.001), steps)], delta) > epsilon


@pytest.mark.parametrize(
    ("epsilon", "delta", "sample_rate", "steps"),
    [
        (3.0, 1e-5, 0.01, 1000),
        (8.0, 1e-5, 0.2, 100),
        (1.0, 1e-6, 1.0, 1),
        (0.01, 1e-5, 0.01, 100),
        (0.01, 1e-12, 0.001, 10),
        (0.5, 0.1, 0.2, 50),
        (50.0, 1e-12, 0.5, 100),
        (1.0, 1e-5, 0.001, 100_000),
    ],
)
def test_smallest_noise_on_the_private_side(epsilon: float, delta: float, sample_rate: float, steps: int) -> None:
    sigma = calibrate_noise(epsilon=epsilon, delta=delta, sample_rate=sample_rate, steps=steps)
    _check_smallest(lambda noise: SampledGaussian(noise, sample_rate), sigma, epsilon=epsilon, delta=delta, steps=steps)


def test_agrees_with_the_calibration_of_dp_accounting() -> None:
    reference = dp_accounting.calibrate_dp_mechanism(
        lambda: PLDAccountant(NeighboringRelation.REPLACE_SPECIAL),
        lambda noise: dp_accounting.SelfComposedDpEvent(SampledGaussian(noise, 0.1).event(), 20),
        target_epsilon=0.5,
        target_delta=1e-5,
        bracket_interval=dp_accounting.ExplicitBracketInterval(2.0, 6.0),
        tol=1e-4,
    )
    sigma = calibrate_noise(epsilon=0.5, delta=1e-5, sample_rate=0.1, steps=20)
    assert reference - 2e-4 <= sigma <= reference * 1.001


def test_what_was_spent_counts_too() -> None:
    spent = PrivacyLedger(delta=1e-5)
    spent.charge(LaplaceRelease(0.2))
    spent.charge(SampledGaussian(8.0, 0.1), 40)
    state = spent.state_dict()
    sigma = calibrate_noise(epsilon=1.0, delta=1e-5, sample_rate=0.1, steps=50, spent=spent)
    _check_smallest(
        lambda noise: SampledGaussian(noise, 0.1), sigma, epsilon=1.0, delta=1e-5, steps=50, before=spent.groups
    )
    assert sigma > calibrate_noise(epsilon=1.0, delta=1e-5, sample_rate=0.1, steps=50)
    assert spent.state_dict() == state


def test_cut_batches_need_a_little_more() -> None:
    def make(noise: float) -> Release:
        return TruncatedSampledGaussian(noise, 0.1, 500, 60)

    sigma = calibrate_noise(epsilon=1.0, delta=1e-5, sample_rate=0.1, steps=20, num_examples=500, max_batch_size=60)
    _check_smallest(make, sigma, epsilon=1.0, delta=1e-5, steps=20)
    assert sigma >= calibrate_noise(epsilon=1.0, delta=1e-5, sample_rate=0.1, steps=20)


def test_never_below_a_tenth() -> None:
    # A batch that is drawn with probability below delta is private with hardly any noise at all.
    assert calibrate_noise(epsilon=20.0, delta=0.1, sample_rate=0.01, steps=1) == pytest.approx(0.1)


def test_an_epsilon_that_is_spent_already_says_so() -> None:
    spent = PrivacyLedger(delta=1e-5)
    spent.charge(LaplaceRelease(0.5), 2)
    with pytest.raises(ConfigurationError, match=r"epsilon 0\.5 .*out of reach: 0\.99\d+ is spent.*2 x Laplace"):
        calibrate_noise(epsilon=0.5, delta=1e-5, sample_rate=0.1, steps=10, spent=spent)


@pytest.mark.parametrize("left", [1e-9, 1e-7])
def test_an_epsilon_that_leaves_too_little_says_so(left: float) -> None:
    spent = PrivacyLedger(delta=1e-5)
    spent.charge(LaplaceRelease(0.5), 2)
    with pytest.raises(ConfigurationError, match=r"is spent already.*not even a noise multiplier of 1e"):
        calibrate_noise(epsilon=spent.epsilon(exact=True) + left, delta=1e-5, sample_rate=0.1, steps=1000, spent=spent)


def test_an_epsilon_below_what_the_grid_resolves_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"nothing was spent before.*larger epsilon"):
        calibrate_noise(epsilon=1e-7, delta=1e-5, sample_rate=1.0, steps=1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon.*0.0"),
        ({"delta": 1.0}, "delta.*1.0"),
        ({"sample_rate": 1.2}, "sample_rate.*1.2"),
        ({"steps": 0}, "steps.*0"),
        ({"num_examples": 10}, "num_examples=10 and max_batch_size=None"),
    ],
)
def test_bad_values_are_named(change: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        calibrate_noise(**({"epsilon": 1.0, "delta": 1e-5, "sample_rate": 0.1, "steps": 10} | change))
