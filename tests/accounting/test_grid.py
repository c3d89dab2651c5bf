from __future__ import annotations

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

from lightning_privacy.accounting.grid import GridLoss, GridMass
from lightning_privacy.accounting.pld import ADJACENCY, composed, repeated, single
from lightning_privacy.accounting.releases import (
    GaussianRelease,
    LaplaceRelease,
    RandomizedResponseRelease,
    SampledGaussian,
)

INTERVAL = 1e-3
KINDS = [
    SampledGaussian(2.0, 0.1),
    LaplaceRelease(0.1),
    RandomizedResponseRelease(0.3, 10),
    RandomizedResponseRelease(0.3, 2),
]


@pytest.mark.parametrize("release", KINDS, ids=lambda release: release.label)
@pytest.mark.parametrize("count", [1, 2, 3, 30, 255, 256, 257, 1000])
@pytest.mark.parametrize("delta", [1e-8, 1e-5, 0.05])
def test_repeat_agrees_with_dp_accounting(release, count: int, delta: float) -> None:
    expected = repeated(release, count, INTERVAL, ADJACENCY).get_epsilon_for_delta(delta)
    one = GridLoss.of(single(release, INTERVAL, ADJACENCY), interval=INTERVAL)
    assert one.repeat(count).epsilon(delta) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_distribution_is_repeated_as_often_as_asked_whatever_was_asked_before() -> None:
    """Transforms are kept for the next count; counts go through two ways of taking a power, and several lengths."""
    one = GridLoss.of(single(KINDS[0], INTERVAL, ADJACENCY), interval=INTERVAL)
    for count in (5, 6, 300, 7, 256, 257, 2):
        fresh = GridLoss.of(single(KINDS[0], INTERVAL, ADJACENCY), interval=INTERVAL).repeat(count)
        kept = one.repeat(count)
        np.testing.assert_array_equal(kept.remove.mass, fresh.remove.mass)
        sums = one.repeat(count - 1).compose(one)
        assert kept.epsilon(1e-6) == pytest.approx(sums.epsilon(1e-6), rel=1e-9)


def test_compose_agrees_with_dp_accounting() -> None:
    groups = [(release, 20) for release in KINDS] + [(GaussianRelease(5.0), 3)]
    total = None
    for release, count in groups:
        part = GridLoss.of(repeated(release, count, INTERVAL, ADJACENCY), interval=INTERVAL)
        total = part if total is None else total.compose(part)
    expected = composed(groups, interval=INTERVAL).get_epsilon_for_delta(1e-5)
    assert total.epsilon(1e-5) == pytest.approx(expected, rel=1e-7)


def test_infinite_losses_add_up() -> None:
    one = GridMass(0, np.array([0.9, 0.0, 0.0]), 0.1)
    assert one.repeat(3).infinite == pytest.approx(1 - 0.9**3)
    assert one.add(one).infinite == pytest.approx(1 - 0.9**2)
    assert one.epsilon(0.05, 1.0) == np.inf


def test_large_losses_do_not_overflow() -> None:
    loss = GridLoss.of(repeated(GaussianRelease(0.02), 1, 1.0, ADJACENCY), interval=1.0)
    expected = repeated(GaussianRelease(0.02), 1, 1.0, ADJACENCY).get_epsilon_for_delta(1e-5)
    assert loss.epsilon(1e-5) == pytest.approx(expected, rel=1e-3)


def test_nothing_beyond_delta_is_epsilon_zero() -> None:
    loss = GridLoss.of(single(SampledGaussian(50.0, 0.01), INTERVAL, ADJACENCY), interval=INTERVAL)
    assert loss.epsilon(0.1) == 0.0


def test_the_private_attributes_of_dp_accounting_are_where_they_were() -> None:
    loss = privacy_loss_distribution.from_laplace_mechanism(1.0, value_discretization_interval=INTERVAL)
    assert {"_pmf_remove", "_pmf_add", "_symmetric"} <= set(vars(loss))
    assert {"_lower_loss", "_probs", "_infinity_mass"} <= set(vars(loss._pmf_remove.to_dense_pmf()))
