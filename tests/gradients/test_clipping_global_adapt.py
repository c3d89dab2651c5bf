"""Global scaling: the paper's loop, a contribution never longer than C, and a count that is paid for."""

from __future__ import annotations

import math

import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyViolation
from lightning_privacy.gradients import DPOptimizer, GlobalAdaptClipping
from lightning_privacy.gradients.clipping import clipping_policy

SETTINGS = settings(deadline=None, derandomize=True, max_examples=200, database=None)


def squared(*lengths: float) -> torch.Tensor:
    return torch.tensor(lengths, dtype=torch.float64)[:, None] ** 2


def test_the_strict_bound_goes_where_the_paper_s_loop_goes() -> None:
    generator = torch.Generator().manual_seed(5)
    policy = GlobalAdaptClipping(0.2, strict_norm=3.0, learning_rate=0.3, tolerance=0.8, count_noise_std=1.5)
    policy.prepare(10.0)
    strict = 3.0
    for _ in range(40):
        drawn = int(torch.randint(0, 20, (), generator=generator))  # 0 .. 19 where 10 are expected
        lengths = (2 * torch.rand(drawn, generator=generator, dtype=torch.float64)).tolist()
        noise = 1.5 * float(torch.randn((), generator=generator, dtype=torch.float64))

        squares = squared(*lengths)
        assert policy.strict_norm == pytest.approx(strict, rel=1e-10)
        wanted = [0.2 / strict if length <= strict else 0.2 / length for length in lengths]
        assert policy.factors(squares)[:, 0].tolist() == pytest.approx(wanted, rel=1e-9)
        cut = drawn // 3  # in two micro-batches, as counts add up
        policy.observe(policy.counts(squares[:cut]) + policy.counts(squares[cut:]) + noise, 10.0)

        above = noise
        for length in lengths:
            above += (1.0 if length > 0.8 * strict else 0.0) - 0.5
        strict = strict * math.exp(-0.3 + above / 10.0 + 0.5)
    assert 0.7 < strict < 2.8  # near 1.4 / 0.8, where 3 in 10 are above


@pytest.mark.parametrize("start", [1.0, 500.0], ids=["from below", "from above"])
def test_p38_the_strict_bound_comes_to_rest_where_the_wanted_fraction_is_above(start: float) -> None:
    lengths = torch.linspace(0, 100, 401, dtype=torch.float64)[1:, None]
    policy = GlobalAdaptClipping(1.0, strict_norm=start, learning_rate=0.1, count_noise_std=1.0)
    for _ in range(200):
        policy.observe(policy.counts(lengths**2), 400.0)
    assert policy.strict_norm == pytest.approx(90.0, abs=0.6)


def test_one_step_is_the_brute_force_one() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    x, y = 3 * torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    total, lengths = [torch.zeros_like(p) for p in model.parameters()], []
    for i in range(6):
        loss = torch.nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        lengths.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
        factor = 0.1 / 1.2 if lengths[-1] <= 1.2 else 0.1 / lengths[-1]
        for sum_of, gradient in zip(total, gradients, strict=True):
            sum_of += factor * gradient
    above = sum(length > 1.2 for length in lengths)
    assert 0 < above < 6

    policy = GlobalAdaptClipping(0.1, strict_norm=1.2, count_noise_std=1.0)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0),
        model,
        noise_multiplier=0.0,
        max_grad_norm=0.1,
        expected_batch_size=8,
        clipping=policy,
    )
    torch.nn.functional.cross_entropy(model(x), y).backward()
    for parameter, sum_of in zip(model.parameters(), total, strict=True):
        torch.testing.assert_close(parameter.grad, sum_of / 8)
    assert policy.strict_norm == pytest.approx(1.2 * math.exp(-0.1 + (above - 3) / 8 + 0.5), rel=1e-6)
    optimizer.detach()


@SETTINGS
@given(
    st.floats(0.1, 20.0), st.floats(0.51, 50.0), st.floats(0.01, 10.0), st.floats(1.0, 1e4), st.floats(0.1, 3.0),
    st.lists(st.floats(0, 1e3), min_size=1),
)  # fmt: skip
def test_p13_an_example_moves_gradient_and_count_together_by_no_more_than_is_charged(
    sigma: float, ratio: float, norm: float, times: float, tolerance: float, lengths: list[float]
) -> None:
    policy = GlobalAdaptClipping(norm, strict_norm=norm * times, tolerance=tolerance, count_noise_std=ratio * sigma)
    share = policy.gradient_noise_multiplier(sigma)
    squares = squared(*lengths)
    moved = policy.counts(squares) - policy.counts(squares[1:])
    length = float(policy.factors(squares)[0]) * lengths[0]
    assert length <= norm * (1 + 1e-9)
    assert math.hypot(length / (share * policy.norm_bound), float(moved) / policy.count_std) <= (1 + 1e-9) / sigma


def test_p13_the_strict_bound_is_paid_for() -> None:
    policy = GlobalAdaptClipping(1.0)
    policy.prepare(50.0)
    ledger = PrivacyLedger(delta=1e-5)
    for _ in range(30):
        ledger.charge(policy.release(1.2, 0.05))
        policy.observe(policy.counts(squared(*[30.0] * 40)), 50.0)
    assert policy.strict_norm > 20  # moved, and still one group of one price
    ((_, count, _),) = ledger.history
    assert count == 30
    # The noise it adds to the gradient (in units of C) and to the count (which one example moves by 1/2), as two
    # releases side by side: dp-accounting composes Gaussians of one sample by the inverse squares.
    share, std = policy.gradient_noise_multiplier(1.2), policy.count_std
    together = 1 / math.sqrt(1 / share**2 + 1 / (2 * std) ** 2)
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(PoissonSampledDpEvent(0.05, GaussianDpEvent(together)), 30)
    assert ledger.epsilon(exact=True) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)
    alone = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    alone.compose(PoissonSampledDpEvent(0.05, GaussianDpEvent(share)), 30)
    assert alone.get_epsilon(1e-5) < ledger.epsilon(exact=True)


def test_p10_a_gradient_that_is_not_finite_adds_nothing_and_counts_as_above() -> None:
    policy = GlobalAdaptClipping(1.0, strict_norm=2.0, count_noise_std=1.0)
    squares = torch.tensor([[math.nan], [math.inf], [-1.0], [0.0], [4.0]])
    assert policy.factors(squares)[:, 0].tolist() == [0.0, 0.0, 0.0, 0.5, 0.5]
    assert policy.counts(squares).tolist() == [0.5]


def test_it_can_be_asked_for_by_name() -> None:
    policy = clipping_policy("global_adapt", 0.5)
    assert isinstance(policy, GlobalAdaptClipping)
    assert (policy.norm_bound, policy.strict_norm) == (0.5, 5.0)


def test_the_strict_bound_goes_on_from_a_checkpoint_and_a_damaged_one_is_refused() -> None:
    policy = GlobalAdaptClipping(1.0, count_noise_std=1.0)
    policy.observe(policy.counts(squared(30.0, 30.0)), 2.0)
    resumed = GlobalAdaptClipping(1.0, count_noise_std=1.0)
    resumed.load_state_dict(policy.state_dict())
    assert resumed.strict_norm == policy.strict_norm != 10.0
    assert resumed.describe() == policy.describe()
    for state in ({}, {"strict_norm": math.nan}, {"strict_norm": 0.5}, {"max_grad_norm": 2.0}):
        with pytest.raises(CheckpointError, match="strict_norm"):
            resumed.load_state_dict(state)
    assert resumed.strict_norm == policy.strict_norm


def test_the_strict_bound_stays_between_its_limits() -> None:
    policy = GlobalAdaptClipping(1.0, strict_norm=2.0, max_strict_norm=4.0, count_noise_std=1.0)
    policy.observe(torch.tensor([-1e30]), 10.0)
    assert policy.strict_norm == 1.0  # as flat clipping
    with pytest.warns(RuntimeWarning, match="reached its max_strict_norm, 4"):
        policy.observe(torch.tensor([1e30]), 10.0)
    policy.observe(torch.tensor([1e30]), 10.0)  # a second warning would be an error here
    assert policy.strict_norm == 4.0
    with pytest.raises(PrivacyViolation, match="is nan"):
        policy.observe(torch.tensor([math.nan]), 10.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_grad_norm": 0.0}, "max_grad_norm must be a finite number > 0, got 0.0"),
        ({"strict_norm": 0.5}, "strict_norm must be between max_grad_norm and max_strict_norm, got 0.5 with 1.0"),
        ({"learning_rate": 1.0}, r"learning_rate must be in \(0, 1\), .* got 1.0"),
        ({"tolerance": 0}, "tolerance must be a finite number > 0, got 0"),
        ({"count_noise_std": -1}, "count_noise_std must be a finite number > 0, got -1"),
    ],
    ids=["bound", "strict", "rate", "tolerance", "noise"],
)
def test_numbers_out_of_range_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GlobalAdaptClipping(**arguments)
