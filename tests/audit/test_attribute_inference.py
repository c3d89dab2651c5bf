"""Guesses of attributes against loops, and what a model that knows nothing or everything gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from lightning_privacy.audit import AuditResult
from lightning_privacy.audit.attribute_inference import attribute_figures, candidate_attack, learned_attack
from lightning_privacy.errors import ConfigurationError


def test_candidates_by_a_loop():
    rng = np.random.default_rng(0)
    losses, prior = rng.exponential(size=(3, 50)), np.array([0.7, 0.2, 0.1])
    found = candidate_attack(losses, prior)
    for person in range(50):
        assert found[person] == np.argmax(prior * np.exp(-losses[:, person]))
    assert np.array_equal(candidate_attack(losses), losses.argmin(axis=0))
    assert 2 not in candidate_attack(losses, [0.5, 0.5, 0.0])


@pytest.fixture
def people():
    """An attribute that the outputs tell of, for members better; and one group of people to learn from."""
    rng = np.random.default_rng(1)
    attribute = rng.integers(2, size=3000)
    member = rng.random(3000) < 0.5
    outputs = rng.normal(size=(3000, 4))
    outputs[:, 0] += attribute * np.where(member, 3.0, 1.0)
    auxiliary = np.arange(3000) < 1000
    return attribute, member, outputs, auxiliary


def test_an_attribute_the_outputs_tell_is_learned(people):
    attribute, member, outputs, auxiliary = people
    guessed = learned_attack(outputs, attribute, auxiliary)
    without = learned_attack(np.zeros((3000, 1)), attribute, auxiliary)
    assert len(np.unique(without)) == 1  # the more frequent value
    figures = attribute_figures(*(x[~auxiliary] for x in (guessed, without, attribute, member)))
    right = (guessed == attribute)[~auxiliary]
    assert figures.accuracy.value == right.mean()
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, method="exact")
    assert (figures.accuracy.low, figures.accuracy.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert figures.gain.value == pytest.approx(right.mean() - (without == attribute)[~auxiliary].mean())
    assert figures.gain.low > 0.1
    assert figures.member_gain.low > 0.05
    result = figures.result("gender")
    assert AuditResult.from_dict(result.to_dict()) == result
    assert "more than for others" in result.sentence


def test_what_the_attacker_learns_from_is_only_what_is_his(people):
    attribute, _, outputs, auxiliary = people
    hidden = np.where(auxiliary, attribute, 1 - attribute)
    assert np.array_equal(learned_attack(outputs, attribute, auxiliary), learned_attack(outputs, hidden, auxiliary))
    assert set(learned_attack(outputs, np.where(auxiliary, 1, attribute), auxiliary)) == {1}


def test_outputs_that_tell_nothing_gain_nothing():
    """In 300 samples the interval of the gain has 0 in it in all but 4% to 6%, more or less.

    It leaves 0 out in more than 31 of 300 with a probability below 0.01% (binomial, at 5%).
    """
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(300):
        truth, guessed, without = rng.integers(2, size=(3, 200))
        figures = attribute_figures(guessed, without, truth, np.arange(200) < 100)
        wrong += not figures.gain.low <= 0 <= figures.gain.high
        assert figures.gain.low <= figures.gain.value <= figures.gain.high
    assert wrong <= 31


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: candidate_attack([1.0, 2.0]), "losses must be of shape"),
        (lambda: candidate_attack([[1.0], [2.0]], [0.5, 0.3, 0.2]), "prior must hold 2 frequencies"),
        (lambda: learned_attack(np.ones((3, 1)), [0, 1, 0], [False] * 3), "auxiliary must be True for some"),
        (lambda: learned_attack(np.ones((2, 1)), [0, 1, 0], [True] * 3), "must agree"),
        (lambda: learned_attack([[np.nan]], [0], [True]), "finite"),
        (lambda: attribute_figures([1], [1], [1], [True]), "some people and False for others"),
        (lambda: attribute_figures([1, 2], [1], [1], [True]), "one entry per person"),
    ],
    ids=["losses", "prior", "nobody", "shapes", "nan", "members", "entries"],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()
