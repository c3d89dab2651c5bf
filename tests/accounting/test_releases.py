from __future__ import annotations

import dataclasses
import math

import dp_accounting
import pytest

from lightning_privacy.accounting.releases import (
    AdaptiveClippingRelease,
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    PureRelease,
    RandomizedResponseRelease,
    Release,
    SampledGaussian,
    SelectionRelease,
    TruncatedSampledGaussian,
    release_from_dict,
)
from lightning_privacy.errors import ConfigurationError

EACH = [
    SampledGaussian(1.5, 0.25),
    AdaptiveClippingRelease(1.5, 0.25, 2.0),
    TruncatedSampledGaussian(1.5, 0.25, 1000, 300),
    GaussianRelease(2.0),
    LaplaceRelease(0.5),
    SelectionRelease(0.5),
    PureRelease(0.5),
    RandomizedResponseRelease(1.0, 4),
    NonPrivate("raw labels were logged"),
]


@pytest.mark.parametrize("release", EACH, ids=lambda release: release.kind)
def test_round_trip_through_plain_values(release: Release) -> None:
    values = release.to_dict()
    assert all(type(value) in (str, int, float) for value in values.values())
    assert release_from_dict(values) == release
    assert hash(release_from_dict(values)) == hash(release)


@pytest.mark.parametrize("release", EACH, ids=lambda release: release.kind)
def test_frozen_and_labelled(release: Release) -> None:
    field = dataclasses.fields(release)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(release, field, 3.0)
    assert release.label
    assert isinstance(release.event(), dp_accounting.DpEvent)


def test_events_are_those_of_dp_accounting() -> None:
    event = dp_accounting.dp_event
    assert SampledGaussian(1.5, 0.25).event() == event.PoissonSampledDpEvent(0.25, event.GaussianDpEvent(1.5))
    assert AdaptiveClippingRelease(1.5, 0.25, 2.0).event() == SampledGaussian(1.5, 0.25).event()
    assert TruncatedSampledGaussian(1.5, 0.25, 1000, 300).event() == event.TruncatedSubsampledGaussianDpEvent(
        1000, 0.25, 300, 1.5
    )
    assert GaussianRelease(2.0).event() == event.GaussianDpEvent(2.0)
    assert LaplaceRelease(0.5).event() == event.LaplaceDpEvent(2.0)
    assert SelectionRelease(0.5).event() == event.LaplaceDpEvent(2.0)
    assert PureRelease(0.5).event() == event.DiscreteLaplaceDpEvent(0.5, 1)
    assert NonPrivate("x").event() == event.NonPrivateDpEvent()


@pytest.mark.parametrize(("epsilon", "classes"), [(0.1, 2), (1.0, 10), (5.0, 3)])
def test_randomised_response_is_of_its_epsilon(epsilon: float, classes: int) -> None:
    # From the definition of the event: keep with 1 - p, else uniform over all classes.
    noise = RandomizedResponseRelease(epsilon, classes).event().noise_parameter
    right, wrong = 1 - noise + noise / classes, noise / classes
    assert math.log(right / wrong) == pytest.approx(epsilon, rel=1e-12)
    assert RandomizedResponseRelease(epsilon, classes).truth_gain == pytest.approx(right - wrong, rel=1e-12)


def test_randomised_response_of_a_huge_epsilon_does_not_overflow() -> None:
    assert 0 < RandomizedResponseRelease(700.0, 2).noise_parameter < 1e-300
    assert not RandomizedResponseRelease(1e4, 2).private
    assert RandomizedResponseRelease(1e-12, 4).truth_gain == pytest.approx(1e-12 / 4, rel=1e-11)


def test_equal_numbers_of_other_types_are_one_release() -> None:
    assert SampledGaussian(1, 1) == SampledGaussian(1.0, 1.0)
    assert type(SampledGaussian(1, 1).to_dict()["noise_multiplier"]) is float


def test_p13_both_shares_of_adaptive_clipping_are_told_and_add_up() -> None:
    release = AdaptiveClippingRelease(noise_multiplier=1.0, sample_rate=0.01, count_noise_std=1.25)
    gradient = release.gradient_noise_multiplier
    assert 1 / gradient**2 + 1 / 2.5**2 == pytest.approx(1.0, rel=1e-12)
    assert f"sigma 1: gradient {gradient:.6g}, count 1.25; rate 0.01" in release.label
    assert release != SampledGaussian(1.0, 0.01)
    # As little noise on the count as there can be leaves the digits intact.
    close = math.nextafter(0.5, 1.0)
    assert AdaptiveClippingRelease(1.0, 0.01, close).gradient_noise_multiplier == pytest.approx(2.0**25.5, rel=1e-9)


@pytest.mark.parametrize("release", [SampledGaussian(0, 0.1), AdaptiveClippingRelease(0, 0.1, 1), GaussianRelease(0)])
def test_no_noise_is_allowed_and_not_private(release: Release) -> None:
    assert not release.private


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SampledGaussian(-1.0, 0.1), "noise_multiplier.*-1.0"),
        (lambda: SampledGaussian(math.nan, 0.1), "noise_multiplier.*nan"),
        (lambda: SampledGaussian(1.0, 0.0), "sample_rate.*0.0"),
        (lambda: SampledGaussian(1.0, 1.5), "sample_rate.*1.5"),
        (lambda: SampledGaussian("1", 0.1), "noise_multiplier.*'1'"),
        (lambda: AdaptiveClippingRelease(-1.0, 0.1, 1.0), "noise_multiplier.*-1.0"),
        (lambda: AdaptiveClippingRelease(1.0, 0.1, 0.0), "count_noise_std.*0.0"),
        (lambda: AdaptiveClippingRelease(3.0, 0.1, 1.5), "count_noise_std must be above 1.5, half of .* 3.0, got 1.5"),
        (lambda: TruncatedSampledGaussian(1.0, 0.1, 0, 5), "num_examples.*0"),
        (lambda: TruncatedSampledGaussian(1.0, 0.1, 10, 2.5), "max_batch_size.*2.5"),
        (lambda: GaussianRelease(math.inf), "noise_multiplier.*inf"),
        (lambda: LaplaceRelease(0.0), "epsilon.*0.0"),
        (lambda: SelectionRelease(0.0), "epsilon.*0.0"),
        (lambda: PureRelease(math.inf), "epsilon.*inf"),
        (lambda: RandomizedResponseRelease(1.0, 1), "num_classes.*1"),
        (lambda: RandomizedResponseRelease(-1.0, 3), "epsilon.*-1.0"),
        (lambda: NonPrivate(" "), "reason.*' '"),
        (lambda: release_from_dict({"kind": "magic"}), "'magic'; known are"),
        (lambda: release_from_dict({"kind": "laplace"}), "'laplace' needs epsilon, got nothing"),
        (lambda: release_from_dict({"kind": "laplace", "epsilon": 1.0, "extra": 2}), "extra"),
        (lambda: release_from_dict([1]), r"mapping.*\[1\]"),
    ],
)
def test_bad_values_are_named(make, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()
