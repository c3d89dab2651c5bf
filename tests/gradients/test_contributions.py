"""Contributions as pure functions: three answers to one question must agree."""

from __future__ import annotations

from itertools import combinations_with_replacement, product
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_privacy.gradients import contributions
from lightning_privacy.gradients import outer as outer_products
from lightning_privacy.gradients.contributions import Contribution, Dense, merge, squared_row_norms
from lightning_privacy.gradients.outer import Outer, Pair

BATCH, ROWS, WIDTH = 4, 5, 3


def _pair(kind: str, positions: int, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed + 17 * positions)
    right = torch.randn(BATCH, positions, WIDTH, dtype=torch.float64, generator=generator)
    if kind == "one-hot":
        return Pair(torch.randint(0, ROWS, (BATCH, positions), generator=generator), right)
    return Pair(torch.randn(BATCH, positions, ROWS, dtype=torch.float64, generator=generator), right)


def _explicit(pairs: list[Pair]) -> Tensor:
    """The per-example gradients, position by position."""
    total = torch.zeros(BATCH, ROWS, WIDTH, dtype=torch.float64)
    for pair in pairs:
        for example, position in product(range(BATCH), range(pair.right.shape[1])):
            left = pair.left[example, position]
            if pair.one_hot:
                left = torch.nn.functional.one_hot(left, ROWS).double()
            total[example] += torch.outer(left, pair.right[example, position])
    return total


def _check(contribution: Contribution, expected: Tensor) -> None:
    weights = torch.tensor([0.5, 0.0, -1.0, 2.0], dtype=torch.float64)
    out = torch.ones(expected.shape[1:], dtype=torch.float64)
    norms = contribution.squared_norms()
    torch.testing.assert_close(norms, expected.flatten(1).square().sum(1), rtol=1e-12, atol=1e-12)
    contribution.add_weighted_sum(out, weights)
    summed = 1 + torch.tensordot(weights, expected, 1)
    torch.testing.assert_close(out, summed, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(contribution.per_example(), expected, rtol=1e-12, atol=1e-12)


PAIRS = [[("dense", 1)], [("one-hot", 1)], [("dense", 4)], [("one-hot", 7)]] + [
    [(a, 2), (b, 3)] for a, b in combinations_with_replacement(["dense", "one-hot"], 2)
]
PAIRS += [[("one-hot", 2), ("dense", 1), ("one-hot", 1), ("dense", 3)]]


@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
@pytest.mark.parametrize("kinds", PAIRS, ids=str)
def test_outer_by_either_way(kinds: list[tuple[str, int]], cheaper: bool) -> None:
    pairs = [_pair(kind, positions, seed) for seed, (kind, positions) in enumerate(kinds)]
    with mock.patch.object(Outer, "_instantiation_is_cheaper", return_value=cheaper):
        _check(Outer(pairs, (ROWS, WIDTH)), _explicit(pairs))


@pytest.mark.parametrize("cheaper", [True, False], ids=["instantiated", "gram"])
def test_without_drops_examples_that_are_not_finite(cheaper: bool) -> None:
    for kind in ("dense", "one-hot"):
        pair = _pair(kind, 3)
        rejected = torch.tensor([False, True, False, False])
        expected = _explicit([pair])
        expected[1] = 0
        pair.right[1, 0] = float("nan")
        if not pair.one_hot:
            pair.left[1, 2] = float("inf")
        with mock.patch.object(Outer, "_instantiation_is_cheaper", return_value=cheaper):
            contribution = Outer([pair], (ROWS, WIDTH))
            assert contribution.squared_norms().isfinite().tolist() == [True, False, True, True]
            out = torch.zeros(ROWS, WIDTH, dtype=torch.float64)
            contribution.without(rejected).add_weighted_sum(out, torch.ones(BATCH, dtype=torch.float64))
        torch.testing.assert_close(out, expected.sum(0))


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (2, 1, 3)], ids=str)
def test_dense(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    values = torch.randn(BATCH, *shape, dtype=torch.float64)
    contribution = Dense(values)
    norms = contribution.squared_norms()
    torch.testing.assert_close(norms, values.reshape(BATCH, -1).square().sum(1))
    weights = torch.tensor([0.5, 0.0, -1.0, 2.0], dtype=torch.float64)
    out = torch.ones(shape, dtype=torch.float64)
    contribution.add_weighted_sum(out, weights)
    torch.testing.assert_close(out, 1 + torch.tensordot(weights, values, 1))
    values[2] = float("nan")
    kept = Dense(values).without(torch.tensor([False, False, True, False])).per_example()
    assert kept.isfinite().all()
    assert (kept[2] == 0).all()


@given(
    st.lists(
        st.tuples(st.sampled_from(["dense", "one-hot", "instantiated"]), st.integers(1, 5)), min_size=1, max_size=4
    ),
    st.booleans(),
)
@settings(deadline=None, derandomize=True, max_examples=60, database=None)
def test_merge_adds_gradients_before_the_norm_is_taken(kinds: list[tuple[str, int]], cheaper: bool) -> None:
    contributions: list[Contribution] = []
    expected = torch.zeros(BATCH, ROWS, WIDTH, dtype=torch.float64)
    for seed, (kind, positions) in enumerate(kinds):
        pair = _pair(kind, positions, seed)
        gradient = _explicit([pair])
        expected += gradient
        contributions.append(Dense(gradient.clone()) if kind == "instantiated" else Outer([pair], (ROWS, WIDTH)))
    with mock.patch.object(Outer, "_instantiation_is_cheaper", return_value=cheaper):
        _check(merge(contributions), expected)


def test_merge_of_opposite_uses_is_nothing() -> None:
    pair = _pair("dense", 3)
    merged = merge([Outer([pair], (ROWS, WIDTH)), Outer([Pair(pair.left, -pair.right)], (ROWS, WIDTH))])
    assert float(merged.squared_norms().abs().max()) < 1e-24


def test_a_batch_of_nothing_adds_nothing() -> None:
    empty = Pair(torch.zeros(0, 3, ROWS), torch.zeros(0, 3, WIDTH))
    for contribution in (Outer([empty], (ROWS, WIDTH)), Dense(torch.zeros(0, ROWS, WIDTH))):
        assert contribution.squared_norms().shape == (0,)
        out = torch.ones(ROWS, WIDTH)
        contribution.add_weighted_sum(out, torch.zeros(0))
        assert (out == 1).all()


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 3_000_001])
def test_squared_row_norms_are_right_to_a_few_roundings_at_any_length(length: int) -> None:
    values = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
    torch.testing.assert_close(squared_row_norms(values).double(), values.double().square().sum(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("kinds", [[("dense", 4)], [("one-hot", 2), ("dense", 3)]], ids=str)
def test_norms_in_parts_keep_no_gradients(
    kinds: list[tuple[str, int]], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outer_products, "examples_at_once", lambda *_: at_once)
    monkeypatch.setattr(Outer, "_instantiation_is_cheaper", lambda self: True)
    monkeypatch.setattr(Outer, "_fits", lambda self: False)
    pairs = [_pair(kind, positions, seed) for seed, (kind, positions) in enumerate(kinds)]
    outer = Outer(pairs, (ROWS, WIDTH))
    _check(outer, _explicit(pairs))
    assert outer.pairs == pairs


def test_gradients_larger_than_their_factors_are_not_kept() -> None:
    # 15 numbers in a gradient, 8 in the two factors of a position.
    assert [Outer([_pair("dense", positions)], (ROWS, WIDTH))._fits() for positions in (1, 2)] == [False, True]


def test_lookups_of_one_row_add_up_before_the_norm_without_cancellation() -> None:
    left = torch.tensor([[3, 1, 3, 3], [0, 0, 2, 2]])
    right = torch.tensor([[1e4, 1.0, -1e4, 1e-3], [1.0, 1.0, 2.0, -2.0]]).unsqueeze(2)
    norms = Outer([Pair(left, right)], (4, 1)).squared_norms()
    torch.testing.assert_close(norms, torch.tensor([1.0 + 1e-6, 4.0]), rtol=1e-6, atol=0)


def test_work_in_parts_is_smaller_where_a_cache_is_to_hold_it() -> None:
    cpu, other = torch.device("cpu"), torch.device("meta")
    assert contributions.examples_at_once(2**18, cpu) < contributions.examples_at_once(2**18, other)
    assert contributions.examples_at_once(2**40, cpu) == contributions.examples_at_once(2**40, other) == 1


def test_no_gram_norms_where_a_look_at_them_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = Outer([_pair("dense", 2, 1)], (2000, 2000))
    assert not outer._instantiation_is_cheaper()
    monkeypatch.setattr(outer_products, "has_cheap_sync", lambda device: False)
    assert outer._instantiation_is_cheaper()
