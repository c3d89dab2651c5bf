"""Adaptive clipping: the bound follows a quantile, and the count it follows is paid for."""

from __future__ import annotations

import math

import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.accounting import AdaptiveClippingRelease, PrivacyLedger
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyViolation
from lightning_privacy.gradients.clipping import AdaptiveClipping

SETTINGS = settings(deadline=None, derandomize=True, max_examples=200, database=None)


def squared(*lengths: float) -> torch.Tensor:
    return torch.tensor(lengths, dtype=torch.float64)[:, None] ** 2


def test_the_bound_goes_where_the_paper_s_loop_goes() -> None:
    generator = torch.Generator().manual_seed(3)
    policy = AdaptiveClipping(0.3, target_quantile=0.7, learning_rate=0.15, count_noise_std=1.5)
    policy.prepare(10.0)
    norm = 0.3
    for _ in range(40):
        drawn = int(torch.randint(0, 20, (), generator=generator))  # 0 .. 19 where 10 are expected
        lengths = torch.rand(drawn, generator=generator, dtype=torch.float64).tolist()
        noise = 1.5 * float(torch.randn((), generator=generator, dtype=torch.float64))

        squares = squared(*lengths)
        assert policy.norm_bound == pytest.approx(norm, rel=1e-10)
        wanted = [min(1.0, norm / length) for length in lengths]
        assert policy.factors(squares)[:, 0].tolist() == pytest.approx(wanted, rel=1e-9)
        # In two micro-batches, as counts add up.
        cut = drawn // 3
        counts = policy.counts(squares[:cut]) + policy.counts(squares[cut:])
        policy.observe(counts + noise, 10.0)

        total = noise
        for length in lengths:
            total += (1.0 if length <= norm else 0.0) - 0.5
        fraction = total / 10.0 + 0.5
        norm = norm * math.exp(-0.15 * (fraction - 0.7))
    assert 0.4 < norm < 1.2  # it moved, towards 0.7


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9], ids=str)
def test_p38_the_bound_rises_when_all_are_clipped_and_falls_when_none_is(quantile: float) -> None:
    for lengths, rises in (([5.0, 6.0, math.inf], True), ([0.1, 0.2, 0.0], False)):
        policy = AdaptiveClipping(1.0, target_quantile=quantile, count_noise_std=1.0)
        before = policy.norm_bound
        for _ in range(3):
            policy.observe(policy.counts(squared(*lengths)), 3.0)
            assert policy.norm_bound > before if rises else policy.norm_bound < before
            before = policy.norm_bound


def test_an_empty_batch_says_that_half_was_clipped() -> None:
    policy = AdaptiveClipping(1.0, target_quantile=0.75, learning_rate=0.2, count_noise_std=1.0)
    policy.observe(policy.counts(squared()), 8.0)
    assert policy.norm_bound == pytest.approx(math.exp(0.2 * 0.25), rel=1e-12)


def test_p12_the_estimate_is_unbiased_though_the_divisor_is_a_constant() -> None:
    # All subsets of three examples at rate 1/2, each as likely: the average of b~ is the fraction in the whole set.
    lengths = [0.5, 2.0, 3.0]
    policy = AdaptiveClipping(1.0, count_noise_std=1.0)
    estimates = []
    for mask in range(8):
        chosen = [length for bit, length in enumerate(lengths) if mask >> bit & 1]
        estimates.append(float(policy.counts(squared(*chosen))) / 1.5 + 0.5)
    assert sum(estimates) / 8 == pytest.approx(1 / 3, rel=1e-12)


def test_p10_a_gradient_that_is_not_finite_counts_as_clipped() -> None:
    policy = AdaptiveClipping(1.0, count_noise_std=1.0)
    assert policy.counts(torch.tensor([[math.nan], [math.inf], [-1.0], [0.0], [1.0]])).tolist() == [-0.5]


@pytest.mark.parametrize("start", [1e-3, 1e3], ids=["from below", "from above"])
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8], ids=str)
def test_p38_the_bound_finds_the_quantile_of_a_fixed_distribution(quantile: float, start: float) -> None:
    # Norms whose logarithms are 400 quantiles of the standard normal; every step sees all of them. The count's noise,
    # a twentieth of the batch, moves log C by 0.2 * 0.05 each step. Near its end log C is an autoregressive process
    # with slope 1 - 0.2 f, f the normal density there (at least 0.27): its standard deviation is below
    # 0.01 / sqrt(0.4 * 0.27 * 0.97) = 0.031. Six of these: a seed fails with probability 2e-9.
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    lengths = normal.icdf((torch.arange(400, dtype=torch.float64) + 0.5) / 400).exp()
    policy = AdaptiveClipping(start, target_quantile=quantile)
    policy.prepare(400.0)
    generator = torch.Generator().manual_seed(11)
    for _ in range(400):
        noise = policy.count_std * torch.randn(1, generator=generator, dtype=torch.float64)
        policy.observe(policy.counts(lengths[:, None] ** 2) + noise, 400.0)
    assert abs(math.log(policy.norm_bound) - float(normal.icdf(torch.tensor(quantile).double()))) < 6 * 0.031


@SETTINGS
@given(st.floats(0.1, 20.0), st.floats(0.51, 50.0), st.floats(0.01, 10.0), st.lists(st.floats(0, 1e3), min_size=1))
def test_p13_gradient_and_count_together_are_one_gaussian_of_the_noise_asked_for(
    sigma: float, ratio: float, norm: float, lengths: list[float]
) -> None:
    policy = AdaptiveClipping(norm, count_noise_std=ratio * sigma)
    share = policy.gradient_noise_multiplier(sigma)
    assert share > sigma
    assert 1 / share**2 + 1 / (2 * policy.count_std) ** 2 == pytest.approx(1 / sigma**2, rel=1e-9)
    # Both sums in units of their noise: without its first example they move by 1 / sigma at most.
    squares = squared(*lengths)
    moved = policy.counts(squares) - policy.counts(squares[1:])
    length = float(policy.factors(squares)[0]) * lengths[0]
    assert math.hypot(length / (share * policy.norm_bound), float(moved) / policy.count_std) <= (1 + 1e-9) / sigma


def test_p13_the_ledger_is_charged_for_gradient_and_count() -> None:
    policy = AdaptiveClipping(1.0)
    policy.prepare(50.0)
    ledger = PrivacyLedger(delta=1e-5)
    for _ in range(30):
        ledger.charge(policy.release(1.2, 0.05))
        policy.observe(policy.counts(squared(*[3.0] * 40)), 50.0)
    assert policy.norm_bound > 1.5  # moved, and still one group
    ((release, count, _),) = ledger.history
    assert (release, count) == (AdaptiveClippingRelease(1.2, 0.05, 2.5), 30)
    assert release.gradient_noise_multiplier == policy.gradient_noise_multiplier(1.2) > 1.2
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(PoissonSampledDpEvent(0.05, GaussianDpEvent(1.2)), 30)
    assert ledger.epsilon(exact=True) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    # The gradient alone, with the noise it gets, would cost less: the count is in the figure.
    alone = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    alone.compose(PoissonSampledDpEvent(0.05, GaussianDpEvent(release.gradient_noise_multiplier)), 30)
    assert alone.get_epsilon(1e-5) < ledger.epsilon(exact=True)


def test_p13_the_count_has_noise_whatever_is_asked() -> None:
    policy = AdaptiveClipping(1.0)
    with pytest.raises(ConfigurationError, match=r"call prepare\(expected_batch_size\) first"):
        _ = policy.count_std
    policy.prepare(100.0)
    assert policy.count_std == 5.0
    policy.prepare(200.0)
    assert policy.count_std == 10.0
    fixed = AdaptiveClipping(1.0, count_noise_std=3)
    fixed.prepare(100.0)
    assert fixed.count_std == 3.0
    for std in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError, match=f"count_noise_std must be a finite number > 0, got {std}"):
            AdaptiveClipping(1.0, count_noise_std=std)


def test_p13_a_count_that_would_cost_everything_is_refused_with_the_noise_that_works() -> None:
    policy = AdaptiveClipping(1.0)
    policy.prepare(10.0)  # a twentieth is 0.5
    for ask in (policy.gradient_noise_multiplier, lambda sigma: policy.release(sigma, 0.1)):
        with pytest.raises(
            ConfigurationError, match=r"count_noise_std must be above 0.5, half of noise_mult.* got 0.5"
        ):
            ask(1.0)
        ask(0.99)
    assert policy.gradient_noise_multiplier(0.0) == 0.0
    assert not policy.release(0.0, 0.1).private
    assert AdaptiveClipping(count_noise_std=1.0).gradient_noise_multiplier(1.0) == pytest.approx(2 / math.sqrt(3))


def test_the_bound_goes_on_from_a_checkpoint() -> None:
    policy = AdaptiveClipping(1.0, count_noise_std=1.0)
    policy.observe(policy.counts(squared(3.0, 3.0)), 2.0)
    resumed = AdaptiveClipping(1.0, count_noise_std=1.0)
    resumed.load_state_dict(policy.state_dict())
    assert resumed.norm_bound == policy.norm_bound != 1.0
    assert resumed.describe() == policy.describe()


@pytest.mark.parametrize(
    "state",
    [{}, {"max_grad_norm": "1"}, {"max_grad_norm": math.nan}, {"max_grad_norm": 1e9}, {"max_grad_norm": 1.0, "x": 1}],
    ids=["empty", "text", "nan", "outside", "too much"],
)
def test_p43_a_damaged_state_is_refused_and_changes_nothing(state: dict[str, object]) -> None:
    policy = AdaptiveClipping(2.0)
    with pytest.raises(CheckpointError, match="max_grad_norm"):
        policy.load_state_dict(state)
    assert policy.norm_bound == 2.0


@pytest.mark.parametrize(("count", "limit", "name"), [(1e300, 0.5, "min"), (-1e300, 4.0, "max")], ids=["min", "max"])
def test_p38_the_bound_stops_at_its_limits_and_says_so_once(count: float, limit: float, name: str) -> None:
    policy = AdaptiveClipping(1.0, count_noise_std=1.0, min_norm=0.5, max_norm=4.0)
    far = torch.tensor([count], dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match=f"reached its {name}_norm, {limit:g}"):
        policy.observe(far, 10.0)
    assert policy.norm_bound == limit
    policy.observe(far, 10.0)  # a second warning would be an error here
    assert policy.norm_bound == limit
    policy.observe(-1e-298 * far, 10.0)
    assert 0.5 < policy.norm_bound < 4.0


def test_a_count_that_is_lost_stops_training() -> None:
    policy = AdaptiveClipping(1.0, count_noise_std=1.0)
    with pytest.raises(PrivacyViolation, match="noisy count of unclipped examples is nan"):
        policy.observe(torch.tensor([math.nan]), 10.0)
    assert policy.norm_bound == 1.0


def test_numbers_out_of_range_are_named() -> None:
    for arguments, message in [
        ({"max_grad_norm": 0.0}, "max_grad_norm must be a finite number > 0, got 0.0"),
        ({"max_grad_norm": [1.0]}, "max_grad_norm must be one number"),
        ({"target_quantile": 1.0}, "target_quantile must be a number in .* got 1.0"),
        ({"learning_rate": -0.2}, "learning_rate must be a finite number > 0, got -0.2"),
        ({"min_norm": 2.0}, "max_grad_norm must be between min_norm and max_norm, got 1.0 with 2.0"),
        ({"max_norm": 0.5}, "max_grad_norm must be between min_norm and max_norm, got 1.0 with 1e-06 and 0.5"),
        ({"min_norm": 1e-20}, "min_norm must be at least 1e-10"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            AdaptiveClipping(**arguments)
    with pytest.raises(ConfigurationError, match="expected_batch_size must be a finite number > 0, got 0"):
        AdaptiveClipping().prepare(0)
