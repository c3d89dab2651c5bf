"""What every clipping policy must keep, and flat clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from typing_extensions import override

from lightning_privacy.accounting import SampledGaussian
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.gradients.clipping import (
    POLICIES,
    AdaptiveClipping,
    AutomaticClipping,
    ClippingPolicy,
    FlatClipping,
    PerLayerClipping,
    clipping_policy,
    flat_clip_factors,
)

SETTINGS = settings(deadline=None, derandomize=True, max_examples=300, database=None)
DTYPES = st.sampled_from([torch.float32, torch.float64])

# Six coordinates of a gradient, by the parameter they belong to.
NAMES = ["body.weight", "body.bias", "head.weight"]
SIZES = [3, 1, 2]

MAKE: Mapping[str, Callable[[float], ClippingPolicy]] = {
    "flat": FlatClipping,
    "per_layer": PerLayerClipping,
    "per_layer, listed": lambda bound: PerLayerClipping([bound, 2 * bound]),
    "per_layer, by name": lambda bound: PerLayerClipping({"*.weight": bound, "body.bias": 0.1 * bound}),
    "automatic": AutomaticClipping,
    "adaptive": lambda bound: AdaptiveClipping(bound, count_noise_std=1.0),
}


class Wrong(ClippingPolicy):
    """Promises 1 and keeps nothing."""

    norm_bound = 1.0

    @override
    def factors(self, squared_norms: Tensor) -> Tensor:
        return torch.full_like(squared_norms, -7.0)


def clipped_sum(policy: ClippingPolicy, gradients: Sequence[Sequence[float]]) -> Tensor:
    """The sum over the examples in float64, coordinate by coordinate, as the engine forms it."""
    groups = policy.groups(NAMES)
    total = torch.zeros(6, dtype=torch.float64)
    for row in gradients:
        gradient = torch.tensor(row, dtype=torch.float64)
        squared = torch.zeros(1, max(groups) + 1, dtype=torch.float64)
        for group, part in zip(groups, gradient.split(SIZES), strict=True):
            squared[0, group] += part.square().sum()
        factors = policy.bounded_factors(squared)[0]
        if squared.isfinite().all():
            for group, part, out in zip(groups, gradient.split(SIZES), total.split(SIZES), strict=True):
                out += factors[group] * part
        else:
            assert (factors == 0).all()
    return total


GRADIENT = st.lists(
    st.floats(-1e3, 1e3) | st.sampled_from([0.0, 1e-12, 1e9, math.inf, math.nan, 1e200]), min_size=6, max_size=6
)


@pytest.mark.parametrize("make", [*MAKE.values(), lambda bound: Wrong()], ids=[*MAKE, "a wrong one of the user"])
def test_p10_one_example_moves_the_sum_by_no_more_than_the_bound(make: Callable[[float], ClippingPolicy]) -> None:
    @settings(SETTINGS, max_examples=150)
    @given(st.lists(GRADIENT, min_size=1, max_size=4), GRADIENT, st.floats(1e-3, 1e3))
    def check(gradients: list[list[float]], other: list[float], bound: float) -> None:
        policy = make(bound)
        whole = clipped_sum(policy, gradients)
        gone = clipped_sum(policy, gradients[1:])
        replaced = clipped_sum(policy, [other, *gradients[1:]])
        assert whole.isfinite().all()
        limit = policy.norm_bound * (1 + 2e-5)  # what bounded_factors leaves to rounding
        assert float((whole - gone).norm()) <= limit
        assert float((whole - replaced).norm()) <= 2 * limit

    check()


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_p10_an_example_that_is_not_finite_in_one_group_counts_in_none(make: Callable[[float], ClippingPolicy]) -> None:
    policy = make(1.0)
    groups = max(policy.groups(NAMES)) + 1
    for bad in (math.nan, math.inf, -1.0):
        squared = torch.full((3, groups), 0.25)
        squared[1, groups - 1] = bad
        factors = policy.factors(squared)
        assert (factors[1] == 0).all()
        assert (factors[[0, 2]] > 0).all()
        assert torch.equal(policy.bounded_factors(squared), factors)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_enforcing_the_bound_changes_nothing_where_it_is_kept(
    make: Callable[[float], ClippingPolicy], dtype: torch.dtype
) -> None:
    policy = make(0.7)
    groups = max(policy.groups(NAMES)) + 1
    squared = torch.logspace(-12, 12, 100 * groups, dtype=dtype).view(100, groups)
    before = squared.clone()
    assert torch.equal(policy.bounded_factors(squared), policy.factors(squared))
    assert torch.equal(squared, before)
    assert policy.factors(squared[:0]).shape == (0, groups)


@pytest.mark.parametrize("bound", [math.nan, math.inf, 0.0, -1.0], ids=str)
def test_a_policy_without_a_usable_bound_is_refused(bound: float) -> None:
    policy = Wrong()
    policy.norm_bound = bound
    with pytest.raises(ConfigurationError, match=f"norm_bound must be a finite number > 0, got {bound}"):
        policy.bounded_factors(torch.ones(2, 1))


def test_p10_what_is_no_norm_adds_nothing_whatever_a_policy_says() -> None:
    squared = torch.tensor([[-1.0, 1.0], [1.0, math.nan], [math.inf, 1.0], [3.0, 1.0]])
    lengths = (Wrong().bounded_factors(squared) * squared.sqrt()).nan_to_num(9.0).norm(dim=1)
    assert Wrong().bounded_factors(squared)[:3].tolist() == [[0.0, 0.0]] * 3
    assert float(lengths[3]) == pytest.approx(1.0, rel=1e-6)


def test_factors_of_another_shape_are_refused() -> None:
    class Flattened(Wrong):
        @override
        def factors(self, squared_norms: Tensor) -> Tensor:
            return squared_norms.sum(1)

    with pytest.raises(ConfigurationError, match=r"Flattened.factors must return .* shape \(2, 3\), got \(2,\)"):
        Flattened().bounded_factors(torch.ones(2, 3))


def test_what_a_policy_need_not_say() -> None:
    policy = Wrong()
    policy.prepare(10.0)
    assert policy.groups(["a", "b"]) == [0, 0]
    assert policy.gradient_noise_multiplier(1.25) == 1.25
    assert policy.counts(torch.ones(2, 1)) is None
    assert policy.release(1.0, 0.1) == SampledGaussian(1.0, 0.1)
    assert policy.describe() == {"policy": "Wrong"}
    assert repr(policy) == "Wrong()"
    policy.load_state_dict(policy.state_dict())
    with pytest.raises(CheckpointError, match=r"Wrong has no state.*max_grad_norm.*another clipping policy"):
        policy.load_state_dict({"max_grad_norm": 1.0})


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_description_tells_policies_apart(make: Callable[[float], ClippingPolicy]) -> None:
    assert make(1.5).describe() == make(1.5).describe()
    assert make(1.5).describe() != make(2.5).describe()
    assert [other for other in MAKE if MAKE[other](1.5).describe() == make(1.5).describe()] == [
        name for name in MAKE if MAKE[name] is make
    ]
    assert type(make(1.5)).__name__ in repr(make(1.5))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_by_name_has_the_bound_asked_for(name: str) -> None:
    policy = clipping_policy(name, 3)
    assert policy.norm_bound == 3.0
    assert clipping_policy(policy, 5.0) is policy


def test_names_and_bounds_that_do_not_fit() -> None:
    with pytest.raises(ConfigurationError, match=r"clipping must be one of 'flat', 'per_layer', .* got 'ghost'"):
        clipping_policy("ghost", 1.0)
    with pytest.raises(ConfigurationError, match=r"clipping must be one of .* got None"):
        clipping_policy(None, 1.0)
    for bounds in ([1.0, 2.0], {"a": 1.0}):
        with pytest.raises(ConfigurationError, match=r"max_grad_norm must be one number here.*'per_layer'"):
            clipping_policy("flat", bounds)
    for bound in (0.0, -1.0, math.nan, math.inf, "1", True, None):
        with pytest.raises(ConfigurationError, match="max_grad_norm must be a finite number > 0"):
            clipping_policy("flat", bound)
    with pytest.raises(ConfigurationError, match=r"max_grad_norm must be at least 1e-10.*got 1e-20"):
        clipping_policy("flat", 1e-20)


@SETTINGS
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=8), st.floats(1e-6, 1e6), DTYPES)
@example([0.0, -0.0, 1e-320, float("nan"), float("inf"), -float("inf"), -1.0, 1e308], 1.0, torch.float64)
def test_p10_no_factor_lets_a_norm_pass_the_bound(values: list[float], bound: float, dtype: torch.dtype) -> None:
    squared = torch.tensor(values, dtype=dtype)
    factors = flat_clip_factors(squared, max_grad_norm=bound)
    assert factors.shape == squared.shape
    assert factors.dtype == dtype
    assert factors.isfinite().all()
    assert ((factors >= 0) & (factors <= 1)).all()
    for value, factor in zip(squared.tolist(), factors.tolist(), strict=True):
        if not math.isfinite(value) or value < 0:
            assert factor == 0
        else:
            assert factor * math.sqrt(value) <= bound * (1 + 4 * torch.finfo(dtype).eps)


@SETTINGS
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_factors_are_what_the_paper_says(length: float, bound: float) -> None:
    factor = float(flat_clip_factors(torch.tensor([length**2], dtype=torch.float64), max_grad_norm=bound))
    assert factor == pytest.approx(min(1.0, bound / length), rel=1e-12)
