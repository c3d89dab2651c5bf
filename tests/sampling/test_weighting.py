"""From counts to shares: each weighting against its formula written out, and what can't be a share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.weighting import (
    cell_shares,
    effective_number_weights,
    example_weights,
    repeat_factors,
)

COUNTS = np.array([5000, 400, 30, 2])
NAMES = ["inverse", "sqrt", "effective_number", "repeat_factor"]


def _share(weight_of_one):
    totals = [count * weight_of_one(count) for count in COUNTS.tolist()]
    return [total / sum(totals) for total in totals]


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("inverse", _share(lambda n: 1 / n)),
        ("sqrt", _share(lambda n: 1 / math.sqrt(n))),
        # Equation 2 of Cui et al.: one over the sum of beta's powers below n.
        ("effective_number", _share(lambda n: 1 / sum(0.9999**power for power in range(n)))),
        # Section 4.2 of Gupta et al.: with t = 0.001 only the class of 2 in 5432 is rarer than the threshold.
        ("repeat_factor", _share(lambda n: max(1, math.sqrt(0.001 / (n / 5432))))),
        (lambda counts: counts**-0.5, _share(lambda n: 1 / math.sqrt(n))),
        ({0: 0.25, 1: 0.5, 2: 0.25, 3: 0}, [0.25, 0.5, 0.25, 0]),
    ],
    ids=[*NAMES, "function", "mapping"],
)
def test_shares_are_those_of_the_formula(weighting, expected):
    shares = cell_shares(COUNTS, weighting)
    assert shares.dtype == np.float64
    np.testing.assert_allclose(shares, expected, rtol=1e-9, atol=0)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), st.sampled_from(NAMES))
def test_shares_add_up_and_rare_cells_gain(counts, weighting):
    counts = np.array(counts)
    shares = cell_shares(counts, weighting)
    assert math.isclose(shares.sum(), 1)
    gain = shares / counts
    order = np.argsort(counts)
    assert (np.diff(gain[order]) <= 1e-12 * gain[order][:-1]).all()


def test_the_effective_number_lies_between_no_weighting_and_inverse():
    counts = np.array([10, 1_000_000])
    gains = [
        effective_number_weights(counts, beta)[0] / effective_number_weights(counts, beta)[1]
        for beta in (0.5, 0.99, 0.9999, 1 - 1e-9)
    ]
    assert gains == sorted(gains)
    assert gains[0] == pytest.approx(1.0, rel=1e-2)
    assert gains[-1] == pytest.approx(1e5, rel=1e-2)
    with pytest.raises(ConfigurationError, match="beta must be a number in"):
        effective_number_weights(counts, 1.0)


def test_repeat_factors_take_the_rarest_class_of_an_example():
    generator = np.random.default_rng(0)
    labels = generator.random((500, 6)) < np.array([0.9, 0.3, 0.1, 0.02, 0.004, 0.0])
    factors = repeat_factors(labels, threshold=0.05)
    for row, factor in zip(labels, factors, strict=True):
        frequencies = [labels[:, index].mean() for index in range(6) if row[index]]
        assert factor == pytest.approx(max([1.0, *(math.sqrt(0.05 / frequency) for frequency in frequencies)]))
    assert factors.max() > 1
    np.testing.assert_array_equal(factors, repeat_factors(torch.tensor(labels).float(), threshold=0.05))


def test_repeat_factors_of_single_labels_are_the_weighting():
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    totals = np.bincount(labels, weights=repeat_factors(labels))
    np.testing.assert_allclose(totals / totals.sum(), cell_shares(COUNTS, "repeat_factor"))


def test_a_mapping_may_call_cells_by_name_or_text():
    names = [(0, "f"), (0, "m"), (1, "f")]
    counts = np.array([5, 6, 7])
    for mapping in (
        {(0, "f"): 0.5, (0, "m"): 0.2, (1, "f"): 0.3},
        OmegaConf.create({"0*f": 0.5, "0*m": 0.2, "1*f": 0.3}),
    ):
        assert cell_shares(counts, mapping, names=names).tolist() == pytest.approx([0.5, 0.2, 0.3])
    assert cell_shares(np.array([1, 1]), {"0": 0.1, "1": 0.9}).tolist() == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize(
    ("weighting", "message"),
    [
        ("balanced", "weighting must be one of 'inverse'"),
        (3, "weighting must be a name"),
        ({0: 0.5, 1: 0.25, 2: 0.25, 3: 0.0, 9: 0.1}, "share of 0.1 for 9, which no example belongs to"),
        ({0: 0.5, 1: 0.5}, "no share for 2, 3"),
        ({0: 0.5, 1: 0.7, 2: 0.1, 3: -0.3}, "finite shares >= 0, got -0.3 for 3"),
        ({0: 0.5, 1: 0.7, 2: 0.1, 3: float("nan")}, "finite shares >= 0, got nan for 3"),
        ({0: 0.5, 1: 0.7, 2: 0.1, 3: 0.1}, "together 1, got 1.4"),
        (lambda counts: -counts, "one finite weight >= 0 for each of 4 cells"),
        (lambda counts: counts[:2], "one finite weight >= 0 for each of 4 cells"),
        (lambda counts: counts * float("nan"), "one finite weight >= 0 for each of 4 cells"),
        (lambda counts: counts * 0, "not all of them 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_weighting_is_refused(weighting, message):
    with pytest.raises(ConfigurationError, match=message):
        cell_shares(COUNTS, weighting)


def test_a_share_of_nothing_for_a_cell_that_is_not_there_is_no_error():
    assert cell_shares(np.array([1, 1]), {0: 0.5, 1: 0.5, 2: 0}).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -0.5, 2.0], "finite numbers >= 0, got -0.5 at position 1"),
        ([1.0, float("nan"), 2.0], "finite numbers >= 0, got nan at position 1"),
        ([1.0, float("inf"), 2.0], "finite numbers >= 0, got inf at position 1"),
        ([0.0, 0.0, 0.0], "one number > 0 at least"),
        ([1.0, 2.0], r"one number for each of 3 examples, got shape \(2,\)"),
        ([[1.0], [2.0], [3.0]], r"got shape \(3, 1\)"),
        (["a", "b", "c"], "one number per example"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_weight_is_refused(weights, message):
    with pytest.raises(ConfigurationError, match=message):
        example_weights(weights, num_examples=3)


@pytest.mark.parametrize("labels", [[[0, 2], [1, 0]], [[0, -1], [1, 0]], [["a", "b"]]], ids=str)
def test_labels_of_several_classes_must_be_0_or_1(labels):
    with pytest.raises(ConfigurationError, match="must be 0 or 1 for each example and class"):
        repeat_factors(labels)
