"""The mechanism of a round, against its formulas."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from lightning_privacy.accounting import AdaptiveClippingRelease, SampledGaussian, TruncatedSampledGaussian
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.federated.aggregation import CoordinateMedian, WeightedMean
from lightning_privacy.federated.client_accounting import CohortAccounting
from lightning_privacy.federated.client_clipping import AdaptiveNorm
from lightning_privacy.federated.client_target import ClientTarget
from lightning_privacy.federated.cohorts import PoissonCohorts, UniformCohorts
from lightning_privacy.federated.round_mechanism import RoundMechanism, refuse_aggregator
from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning

ADAPTIVE = AdaptiveNorm(target_quantile=0.6, learning_rate=0.3, count_noise_std=1.25)


def seeded(seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed)


def mechanism(noise_multiplier=1.5, norm=0.5, adaptive=None, cohort=None):
    target = ClientTarget(1e-5, None, noise_multiplier, norm, adaptive)
    return RoundMechanism(target, noise_multiplier, CohortAccounting.of(cohort or PoissonCohorts(20), 100))


def noised(made, noise, number, total, votes=0.0):
    vector = made.joined(number, total, votes)
    made.add_noise(noise, number, vector)
    return vector


@pytest.mark.parametrize("adaptive", [None, ADAPTIVE], ids=["fixed", "adaptive"])
def test_p36_the_noise_is_that_of_the_norm_and_the_divisor_a_constant(adaptive):
    entries = 100_000
    made = mechanism(adaptive=adaptive)
    # 1 / z^2 = 1 / z_delta^2 + 1 / (2 count_std)^2
    share = 1.5 if adaptive is None else (1 / 1.5**2 - 1 / (2 * 1.25) ** 2) ** -0.5
    assert made.delta_noise_multiplier == pytest.approx(share)
    total = torch.linspace(-3, 3, entries)
    given = total.clone()
    mean = made.settle(noised(made, NoiseSource(), 0, total, votes=4.0))
    assert torch.equal(total, given)
    noise = mean.double() * 20 - given.double()
    std = share * 0.5
    # Mean and variance of 100,000 draws: error probability 1e-9 each.
    assert abs(float(noise.mean())) < 6.2 * std / math.sqrt(entries)
    assert float(noise.var()) / std**2 == pytest.approx(1.0, abs=6.2 * math.sqrt(2 / entries))


def test_p38_the_norm_follows_the_noisy_count_by_the_papers_rule():
    """C exp(-rate (fraction within - quantile)); a vote is 1/2 or -1/2, so the fraction is half above votes over m."""
    made = mechanism(adaptive=ADAPTIVE)
    noise = seeded()
    norm = 0.5
    for number, votes in enumerate([10.0, -4.0, 0.0]):
        noisy = noised(made, noise, number, torch.zeros(3), votes)
        made.settle(noisy)
        norm *= math.exp(-0.3 * (float(noisy[-1]) / 20 + 0.5 - 0.6))
        assert made.max_delta_norm == pytest.approx(norm, rel=1e-6)
    state = made.norm_state()
    again = mechanism(adaptive=ADAPTIVE)
    again.load_norm_state(state)
    assert again.max_delta_norm == made.max_delta_norm
    assert again.delta_noise_multiplier == made.delta_noise_multiplier


def test_votes_are_released_only_where_the_norm_adapts():
    fixed = noised(mechanism(noise_multiplier=0.0), NoiseSource(), 0, torch.ones(3), votes=7.0)
    assert fixed.tolist() == [1.0, 1.0, 1.0, 0.0]
    made = mechanism(adaptive=ADAPTIVE)
    counts = torch.stack([noised(made, NoiseSource(), n, torch.zeros(1), 7.0)[-1] for n in range(3000)]).double()
    # 3,000 draws: error probability 1e-9 each.
    assert float(counts.mean()) == pytest.approx(7.0, abs=6.2 * 1.25 / math.sqrt(3000))
    assert float(counts.std()) == pytest.approx(1.25, rel=6.2 / math.sqrt(6000))


def test_p09_every_round_and_both_sums_have_noise_of_their_own():
    made, noise = mechanism(adaptive=ADAPTIVE), seeded()
    first, second, same = (noised(made, noise, number, torch.zeros(1)) for number in (0, 1, 0))
    assert torch.equal(first, same)
    assert float(first[0]) != float(second[0])
    in_units = first.double() / torch.tensor([made.delta_noise_multiplier * 0.5, 1.25], dtype=torch.float64)
    assert abs(float(in_units[0] - in_units[1])) > 1e-6


def test_half_precision_sums_are_noised_in_single():
    vector = mechanism().joined(0, torch.ones(3, dtype=torch.float16), 0.0)
    assert vector.dtype == torch.float32
    assert mechanism().joined(0, torch.ones(3, dtype=torch.float64), 0.0).dtype == torch.float64


@pytest.mark.parametrize(
    ("total", "votes", "error", "message"),
    [
        (torch.tensor([0.0, math.nan]), 0.0, PrivacyViolation, "sum of round 3 is not finite"),
        (torch.zeros(2), math.inf, PrivacyViolation, "sum of round 3 is not finite"),
        (
            torch.zeros(2, 2),
            0.0,
            ConfigurationError,
            r"flat floating-point vector, got torch.float32 of shape \(2, 2\)",
        ),
        (torch.zeros(2, dtype=torch.int64), 0.0, ConfigurationError, "got torch.int64"),
    ],
)
def test_what_is_no_sum_of_clipped_deltas_is_refused(total, votes, error, message):
    with pytest.raises(error, match=message):
        mechanism().joined(3, total, votes)


def test_what_a_round_is_charged_as():
    assert mechanism().release == SampledGaussian(1.5, 0.2)
    assert mechanism().label == "rounds"
    assert mechanism(adaptive=ADAPTIVE).release == AdaptiveClippingRelease(1.5, 0.2, 1.25)
    assert mechanism(adaptive=ADAPTIVE).label.endswith("1.25 on the count)")
    assert mechanism(cohort=UniformCohorts(20)).release == TruncatedSampledGaussian(1.5, 1.0, 100, 20)
    assert mechanism().norm_state() is None
    with pytest.raises(ConfigurationError, match="count_noise_std must be above"):
        mechanism(adaptive=AdaptiveNorm(count_noise_std=0.7))


@pytest.mark.parametrize("aggregator", [WeightedMean(), CoordinateMedian()], ids=str)
def test_p36_rules_for_which_the_noise_is_not_measured_are_refused(aggregator):
    with pytest.raises(ConfigurationError, match=r"plain sum.*Use WeightedMean\(weighted=False\)"):
        refuse_aggregator(aggregator)
    refuse_aggregator(WeightedMean(weighted=False))

    class Mine(WeightedMean):
        pass

    with pytest.raises(ConfigurationError, match="Mine"):
        refuse_aggregator(Mine(weighted=False))
