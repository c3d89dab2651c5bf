"""What mechanisms are given: numbers that float64 has not are refused, not rounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms import (
    AboveThreshold,
    above_threshold,
    exponential,
    gaussian,
    laplace,
    noisy_max,
    private_quantile,
)
from lightning_privacy.mechanisms._values import refuse_rounding

LARGEST = 2**53

CALLS = {
    "noisy_max": lambda value, **options: noisy_max(value, sensitivity=1, epsilon=1.0, **options),
    "exponential": lambda value, **options: exponential(value, sensitivity=1, epsilon=1.0, **options),
    "above_threshold": lambda value, **options: above_threshold(
        value, threshold=0, sensitivity=1, epsilon=1.0, **options
    ),
}
FORMS = {
    "list": lambda numbers: list(numbers),
    "mixed list": lambda numbers: [*numbers, 0.5],
    "array": lambda numbers: np.array(numbers),
    "tensor": lambda numbers: torch.tensor(numbers),
}


def test_neighbours_that_differ_by_one_may_be_hundreds_apart_in_floating_point():
    """Why: 2**62 + 513 and one more, of sensitivity 1, become numbers 1,024 apart."""
    assert float(2**62 + 513) - float(2**62 + 511) == 1024


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("number", [LARGEST + 1, -LARGEST - 1], ids=["large", "small"])
def test_whole_scores_that_would_be_rounded_are_refused(name, form, number):
    ledger = PrivacyLedger(delta=1e-6)
    with pytest.raises(ConfigurationError, match=r"must be whole numbers of at most 2\*\*53 in size"):
        CALLS[name](FORMS[form]([0, number, 3]), ledger=ledger)
    assert ledger.groups == ()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_whole_scores_up_to_the_largest_are_exact(name, form):
    CALLS[name](FORMS[form]([0, LARGEST, -LARGEST]))


def test_rows_of_scores_are_looked_through():
    with pytest.raises(ConfigurationError, match="scores must be whole numbers"):
        noisy_max([[0, 1], [0.5, LARGEST + 1]], sensitivity=1, epsilon=1.0)


@pytest.mark.parametrize(
    "release",
    [
        lambda value: laplace(value, sensitivity=1, epsilon=1.0),
        lambda value: gaussian(value, sensitivity=1, noise_multiplier=1.0),
        lambda value: AboveThreshold(threshold=0, sensitivity=1, epsilon=1.0).ask(value),
    ],
    ids=["laplace", "gaussian", "ask"],
)
@pytest.mark.parametrize("kind", [int, np.int64, np.uint64])
def test_one_number_that_would_be_rounded_is_refused(release, kind):
    release(kind(LARGEST))
    with pytest.raises(ConfigurationError, match="value must be whole numbers"):
        release(kind(LARGEST + 1))


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is float64 here")
def test_longer_floating_point_numbers_are_refused():
    for value in (np.longdouble(1), np.ones(3, np.longdouble)):
        with pytest.raises(ConfigurationError, match="at most 64 bits"):
            laplace(value, sensitivity=1, epsilon=1.0)


@pytest.mark.parametrize("value", [True, "text", None, [], torch.zeros(2, dtype=torch.bfloat16), np.array(["a"]), {}])
def test_what_is_not_a_whole_number_is_left_to_others(value):
    refuse_rounding("value", value)


def test_values_that_are_clipped_to_public_bounds_may_be_rounded():
    """Of a quantile the order counts, and one record moves it by one rank however it is rounded."""
    stamps = np.arange(1000) + 1_700_000_000_000_000_000
    found = private_quantile(stamps, 0.5, lower=1.6e18, upper=1.8e18, epsilon=1.0)
    assert 1.6e18 <= found <= 1.8e18
