"""The bound of one run is that of the theorem, and it is wrong as seldom as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from lightning_privacy.audit.one_run_bound import epsilon_lower_bound, probability_of_guesses
from lightning_privacy.errors import ConfigurationError


def _by_sums(correct: int, guesses: int, m: int, epsilon: float, delta: float) -> float:
    """The theorem's right-hand side, term by term."""
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(guesses, k) * right**k * (1 - right) ** (guesses - k) for k in range(guesses + 1)]
    tail = [sum(mass[v:]) for v in range(guesses + 1)]
    worst = max(((tail[correct - i] - tail[correct]) / i for i in range(1, correct + 1)), default=0.0)
    return min(1.0, tail[correct] + 2 * m * delta * worst)


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize(("correct", "guesses"), [(1, 1), (9, 12), (12, 12), (5, 12)])
def test_the_probability_is_the_theorems(correct, guesses, delta):
    for epsilon in (0.0, 0.3, 2.0):
        expected = _by_sums(correct, guesses, 40, epsilon, delta)
        found = probability_of_guesses(correct, guesses, num_canaries=40, epsilon=epsilon, delta=delta)
        assert found == pytest.approx(expected, rel=1e-9)


def test_no_right_guess_and_no_guess_say_nothing():
    assert probability_of_guesses(0, 5, num_canaries=5, epsilon=0.0, delta=0.0) == 1.0
    assert epsilon_lower_bound(0, 0, num_canaries=5, delta=0.0) == 0.0


def test_all_right_is_the_closed_form():
    # Without delta: p^r = 0.05.
    found = epsilon_lower_bound(1000, 1000, num_canaries=1000, delta=0.0)
    right = 0.05 ** (1 / 1000)
    assert found == pytest.approx(math.log(right / (1 - right)), abs=1e-9)


def test_the_bound_is_where_the_probability_passes_the_level():
    found = epsilon_lower_bound(180, 200, num_canaries=1000, delta=1e-5, confidence=0.99)

    def probability(epsilon):
        return probability_of_guesses(180, 200, num_canaries=1000, epsilon=epsilon, delta=1e-5)

    assert probability(found) == pytest.approx(0.01, rel=1e-6)
    assert all(probability(epsilon) < 0.01 for epsilon in np.linspace(0, found - 1e-3, 50))
    assert epsilon_lower_bound(180, 200, num_canaries=1000, delta=1e-3, confidence=0.99) < found


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("guesses", [1, 10, 300])
def test_randomised_response_is_rarely_above_its_epsilon(epsilon, guesses):
    """Each coin answered truly with p = e^eps / (1 + e^eps): the exact probability of a wrong bound is below 5%.

    Nothing is drawn: the right answers are binomial, and the probability of those with a bound above epsilon is exact.
    """
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    wrong = [
        correct
        for correct in range(guesses + 1)
        if epsilon_lower_bound(correct, guesses, num_canaries=guesses, delta=0.0) > epsilon + 1e-9
    ]
    assert sum(binom.pmf(wrong, guesses, right)) <= 0.05
    # And no bound is wasteful: one more right answer that may not refute epsilon would pass 5%.
    if wrong and min(wrong) > 0:
        assert binom.sf(min(wrong) - 2, guesses, right) > 0.05


def test_a_mechanism_that_fails_with_delta_is_rarely_above_its_epsilon():
    """With probability m delta all is given away, else randomised response: (epsilon, delta)-private for each coin."""
    m, delta, epsilon = 100, 2e-4, 1.0
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    wrong = [
        correct
        for correct in range(m + 1)
        if epsilon_lower_bound(correct, m, num_canaries=m, delta=delta) > epsilon + 1e-9
    ]
    # Each coin alone is told with probability delta, and here all of them at once, so with delta and not m delta.
    assert delta * (m in wrong) + (1 - delta) * sum(binom.pmf(wrong, m, right)) <= 0.05


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((3, 2, 5), "correct must be at most guesses"),
        ((2, 6, 5), "guesses at most num_canaries"),
        ((0, 0, 0), "num_canaries must be"),
        ((-1, 2, 5), "correct must be"),
    ],
)
def test_counts_that_can_not_be_are_refused(counts, message):
    with pytest.raises(ConfigurationError, match=message):
        epsilon_lower_bound(counts[0], counts[1], num_canaries=counts[2], delta=0.0)
    with pytest.raises(ConfigurationError, match=message):
        probability_of_guesses(counts[0], counts[1], num_canaries=counts[2], epsilon=1.0, delta=0.0)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match="confidence"):
        epsilon_lower_bound(1, 2, num_canaries=5, delta=0.0, confidence=1.0)
    with pytest.raises(ConfigurationError, match="epsilon"):
        probability_of_guesses(1, 2, num_canaries=5, epsilon=-1.0, delta=0.0)
