"""A bound that moves: by factors, never beyond its limits, and back from a checkpoint."""

from __future__ import annotations

import math

import pytest

from lightning_privacy.errors import CheckpointError
from lightning_privacy.gradients.clipping.moving_bound import MovingBound


def bound(value: float = 1.0) -> MovingBound:
    return MovingBound("strict_norm", value, low=0.25, high=8.0)


def test_changes_add_up_in_the_exponent() -> None:
    moving = bound(2.0)
    assert not any(moving.move(change) for change in (0.3, -0.7, 0.1))
    assert moving.value == pytest.approx(2.0 * math.exp(-0.3), rel=1e-12)
    assert moving.initial == 2.0


@pytest.mark.parametrize(("change", "limit"), [(1e30, 8.0), (-1e30, 0.25)], ids=["up", "down"])
def test_a_limit_is_told_once(change: float, limit: float) -> None:
    moving = bound()
    assert [moving.move(change), moving.move(change)] == [True, False]
    assert moving.value == limit
    assert not moving.move(-math.copysign(0.5, change))
    assert 0.25 < moving.value < 8.0


def test_a_state_is_taken_over() -> None:
    moving, other = bound(), bound()
    moving.move(0.7)
    other.load_state_dict(moving.state_dict())
    assert (other.value, other.initial) == (moving.value, 1.0)


@pytest.mark.parametrize(
    "state",
    [{}, {"strict_norm": 1}, {"strict_norm": math.nan}, {"strict_norm": 9.0}, {"strict_norm": 1.0, "more": 1.0}],
    ids=["empty", "whole", "nan", "beyond", "more"],
)
def test_a_damaged_state_is_refused_and_changes_nothing(state: dict[str, float]) -> None:
    moving = bound()
    with pytest.raises(CheckpointError, match="strict_norm"):
        moving.load_state_dict(state)
    assert moving.value == 1.0
