"""Validators name the argument and its value, and let nothing through that only looks like a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lightning_privacy import _validate
from lightning_privacy.errors import ConfigurationError

NO_NUMBERS = [True, False, None, "1", math.nan, math.inf, -math.inf, 1j, [1]]


@pytest.mark.parametrize(
    ("validator", "good", "bad"),
    [
        (_validate.positive, [1, 1e-300, np.float32(2.0), Fraction(1, 2)], [0, 0.0, -0.0, -1e-300]),
        (_validate.non_negative, [0, 0.0, 1e-300, np.int64(3)], [-1, -1e-300]),
        (_validate.probability, [1, 1.0, 1e-300], [0, 0.0, 1.0000001, -0.1]),
        (_validate.within_open_unit, [0.5, 1e-300, 1 - 1e-9], [0, 1, 1.0, -0.1]),
        (_validate.positive_int, [1, 10**30, np.int32(4)], [0, -1, 1.0, 0.5]),
        (_validate.non_negative_int, [0, 1, 10**30, np.uint8(4)], [-1, 0.0, 1.0]),
    ],
)
def test_numbers(validator: Callable[..., float], good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert validator(size=value) == value
        assert type(validator(size=value)) in (int, float)
    for value in [*bad, *NO_NUMBERS]:
        with pytest.raises(ConfigurationError, match=r"^size must be .*, got ") as caught:
            validator(size=value)
        assert str(caught.value).endswith(f"got {value!r}")


def test_bits_bound_a_whole_number_from_above() -> None:
    assert _validate.non_negative_int(step=2**48 - 1, bits=48) == 2**48 - 1
    with pytest.raises(
        ConfigurationError, match=r"step must be a whole number >= 0 and < 2\*\*48, got 281474976710656"
    ):
        _validate.non_negative_int(step=2**48, bits=48)


def test_one_of_names_the_choices() -> None:
    assert _validate.one_of(("mean", "sum"), reduction="sum") == "sum"
    with pytest.raises(ConfigurationError, match="reduction must be one of 'mean', 'sum', got 'max'"):
        _validate.one_of(("mean", "sum"), reduction="max")
