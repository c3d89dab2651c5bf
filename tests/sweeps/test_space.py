"""What a search chooses from."""

from __future__ import annotations

import random

import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sweeps.space import Between, OneOf, parse_space


def test_overrides_are_sorted():
    fixed, choices = parse_space(
        ["seed=3", "~callbacks.probe", "+new='a, b'", "lr=tag(log,interval(0.01,1))", "n=int(interval(1,9))", "a=1,2"]
    )
    assert fixed == ["seed=3", "~callbacks.probe", "+new='a, b'"]
    assert choices == {
        "lr": Between(0.01, 1.0, log=True), "n": Between(1.0, 9.0, whole=True), "a": OneOf(("1", "2")),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a=interval(2,1)", "a=tag(log,interval(0,1))", "a=interval(1,1)"])
def test_an_empty_interval_is_named(text):
    with pytest.raises(ConfigurationError, match="interval"):
        parse_space([text])


@pytest.mark.parametrize(
    ("choice", "low", "high"),
    [
        (Between(0.5, 2.0), 0.5, 2.0),
        (Between(0.01, 1.0, log=True), 0.01, 1.0),
        (Between(1, 3, whole=True), 1, 3),
        (Between(1, 300, log=True, whole=True), 1, 300),
        (OneOf(("4", "5")), 4, 5),
    ],
)
def test_draws_are_within(choice, low, high):
    drawn = [float(choice.draw(random.Random(seed))) for seed in range(400)]
    assert low <= min(drawn) < max(drawn) <= high
    if isinstance(choice, Between) and choice.log and not choice.whole:
        # Half of the orders of magnitude; 400 draws miss 0.1 of it with probability below 1e-4 (Hoeffding).
        assert 0.39 < sum(value < 0.1 for value in drawn) / 400 < 0.61
    if isinstance(choice, Between) and choice.whole:
        assert all(value == round(value) for value in drawn)
