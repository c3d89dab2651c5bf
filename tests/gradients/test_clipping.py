"""Flat clip factors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_privacy.gradients.clipping import flat_clip_factors

SETTINGS = settings(deadline=None, derandomize=True, max_examples=300, database=None)
DTYPES = st.sampled_from([torch.float32, torch.float64])


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
