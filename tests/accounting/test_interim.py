from __future__ import annotations

import math
from functools import cache

import pytest

from lightning_privacy.accounting import interim as module
from lightning_privacy.accounting.interim import InterimEpsilon
from lightning_privacy.accounting.pld import exact_epsilon
from lightning_privacy.accounting.releases import (
    GaussianRelease,
    LaplaceRelease,
    PureRelease,
    RandomizedResponseRelease,
    SampledGaussian,
    TruncatedSampledGaussian,
)


def _check_bounds(groups_at, counts, delta: float, probe) -> None:
    """Asks for every count in turn, as training does, and compares those in ``probe`` with the exact figure."""
    interim = InterimEpsilon(delta=delta)
    before = 0.0
    for count in counts:
        groups = groups_at(count)
        value = interim(groups)
        assert value >= before
        before = value
        if count in probe:
            exact = exact_epsilon(groups, delta=delta)
            assert exact <= value <= 1.01 * exact, f"at {count}: {value / exact if exact else value}"


EARLY_AND_LATE = {1, 2, 3, 9, 33, 90, 151, 271, 400}

STEADY = {
    "usual": (SampledGaussian(2.0, 0.05), 1e-5),
    "tiny epsilon": (SampledGaussian(60.0, 0.02), 1e-6),
    "all examples": (SampledGaussian(10.0, 1.0), 1e-5),
    "large delta": (SampledGaussian(4.0, 0.1), 0.05),
    "small delta": (SampledGaussian(3.0, 0.05), 1e-9),
    "cut batches": (TruncatedSampledGaussian(8.0, 0.1, 200, 25), 1e-5),
    "gaussian": (GaussianRelease(60.0), 1e-5),
    "laplace": (LaplaceRelease(0.02), 1e-5),
    "pure": (PureRelease(0.02), 1e-5),
    "randomised response": (RandomizedResponseRelease(0.02, 4), 1e-5),
}


@pytest.mark.parametrize("name", STEADY)
def test_steps_of_one_kind_stay_within_one_percent(name: str) -> None:
    release, delta = STEADY[name]
    _check_bounds(lambda count: [(release, count)], range(1, 401), delta, EARLY_AND_LATE)


@pytest.mark.parametrize("delta", [1e-5, 1e-8])
def test_mixed_ledgers_stay_within_one_percent(delta: float) -> None:
    steps, other = SampledGaussian(3.0, 0.05), SampledGaussian(12.0, 0.05)

    def at(count: int):
        return [(LaplaceRelease(0.2), 1), (steps, count), (other, count // 2 + 1), (GaussianRelease(40.0), 3)]

    _check_bounds(at, range(1, 301), delta, EARLY_AND_LATE)


def test_a_new_kind_and_large_jumps_are_right_at_once() -> None:
    interim = InterimEpsilon(delta=1e-5)
    steps = SampledGaussian(4.0, 0.1)
    for groups in (
        [(steps, 1)],
        [(steps, 500)],
        [(steps, 501)],
        [(steps, 501), (LaplaceRelease(0.3), 1)],
        [(steps, 2000), (LaplaceRelease(0.3), 1)],
        [(steps, 7)],  # a ledger that was restored from an older state
        [(steps, 8)],
    ):
        exact = exact_epsilon(groups, delta=1e-5)
        assert exact <= interim(groups) <= 1.01 * exact


@pytest.mark.parametrize(("delta", "last"), [(1e-12, 1001), (1e-10, 1003)])
def test_floating_point_noise_at_a_tiny_delta_is_not_taken_for_room(
    delta: float, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At delta 1e-12 the exact figure itself jumps by up to 0.4% from step to step.
    release = TruncatedSampledGaussian(1.0, 0.02, 1000, 40)
    # A second each: once for the figure and for what it is compared with.
    known = cache(lambda groups: exact_epsilon(groups, delta=delta))
    monkeypatch.setattr(module, "exact_epsilon", lambda groups, *, delta: known(tuple(groups)))
    interim = InterimEpsilon(delta=delta)
    for count in range(1000, last + 1):
        exact = known(((release, count),))
        assert exact <= interim([(release, count)]) <= 1.01 * exact


def test_the_grid_is_measured_again_when_counts_have_grown() -> None:
    release = SampledGaussian(2.0, 0.01)
    interim = InterimEpsilon(delta=1e-5)
    for count in (2, 3, 60, 61):
        interim([(release, count)])
    assert interim._certificate.limits[0] >= 61


def test_what_floating_point_loses_over_many_compositions_is_left_room_for() -> None:
    # The grid was measured at few of them, where it is exact; its error grows with their number.
    release, delta = SampledGaussian(1.2, 1e-4), 1e-6
    interim = InterimEpsilon(delta=delta)
    for count in (1, 1000, 10_000, 100_000):
        exact = exact_epsilon([(release, count)], delta=delta)
        assert exact <= interim([(release, count)]) <= 1.01 * exact


def test_few_evaluations_over_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # What makes a step cheap, without a clock: most steps are answered from the bracket, almost none exactly.
    exact_calls = []
    monkeypatch.setattr(module, "exact_epsilon", lambda *a, **k: exact_calls.append(1) or exact_epsilon(*a, **k))
    interim = InterimEpsilon(delta=1e-5)
    grid_calls = []
    original = interim._grid_epsilon
    monkeypatch.setattr(interim, "_grid_epsilon", lambda *a: grid_calls.append(1) or original(*a))
    for count in range(1, 1001):
        interim([(SampledGaussian(3.0, 0.02), count)])
    assert len(exact_calls) <= 20
    assert len(grid_calls) <= 600


def test_nothing_costs_nothing() -> None:
    assert InterimEpsilon(delta=1e-5)([]) == 0.0


def test_losses_beyond_floating_point_are_infinite() -> None:
    groups = [(SampledGaussian(noise_multiplier=1e-6, sample_rate=0.1), 1)]
    interim = InterimEpsilon(delta=1e-5)
    assert interim(groups) == math.inf
    assert interim([(groups[0][0], 2)]) == math.inf
    assert exact_epsilon(groups, delta=1e-5) == math.inf
