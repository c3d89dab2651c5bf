"""A lower bound of epsilon from the canaries of one training run.

Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", 2023, Theorem 5.2: where a mechanism whose
input are m independent fair coins is (epsilon, delta)-private for each of them, and somebody who sees its output
guesses r of the coins, the number W of right guesses has

    ``P(W >= v) <= P(B >= v) + 2 m delta max_i P(v - i <= B < v) / i``

for every v, with B binomial of r trials with probability ``exp(epsilon) / (1 + exp(epsilon))``. An epsilon for which
the right-hand side at the observed v is below 1 - confidence is refuted with that confidence; the lower bound is the
smallest epsilon that is not. Nothing is assumed of the mechanism, the guesses or how canaries influence each other.

The bound is about neighbours that differ in whether a canary is there or a null record in its place: the ledger's
neighbours.

Example:
    >>> round(epsilon_lower_bound(95, 100, num_canaries=1000, delta=1e-5), 2)
    2.17
    >>> epsilon_lower_bound(50, 100, num_canaries=1000, delta=1e-5)
    0.0
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from lightning_privacy._validate import non_negative, non_negative_int, positive_int, within_open_unit
from lightning_privacy.errors import ConfigurationError

__all__ = ["check_counts", "epsilon_lower_bound", "probability_of_guesses"]

_LARGEST_EPSILON = 50.0
_STEPS_BELOW = 64
_BISECTIONS = 50


def check_counts(correct: int, guesses: int, num_canaries: int) -> None:
    """Refuse counts that can't be.

    Raises:
        ConfigurationError: Not ``0 <= correct <= guesses <= num_canaries``, or no canary.
    """
    positive_int(num_canaries=num_canaries)
    non_negative_int(guesses=guesses)
    non_negative_int(correct=correct)
    if not correct <= guesses <= num_canaries:
        raise ConfigurationError(
            f"correct must be at most guesses, and guesses at most num_canaries, got {correct}, {guesses} and "
            f"{num_canaries}"
        )


def probability_of_guesses(correct: int, guesses: int, *, num_canaries: int, epsilon: float, delta: float) -> float:
    """Upper bound of the probability of so many right guesses, for any (epsilon, delta)-private mechanism.

    Args:
        correct: v, how many guesses were right.
        guesses: r, how many were made; decided without looking at the coins.
        num_canaries: m.
        epsilon: At least 0.
        delta: In [0, 1).

    Returns:
        In [0, 1].

    Raises:
        ConfigurationError: A number is out of its range.
    """
    check_counts(correct, guesses, num_canaries)
    epsilon, delta = non_negative(epsilon=epsilon), non_negative(delta=delta)
    if correct == 0 or delta >= 1:
        return 1.0
    right = 1.0 / (1.0 + math.exp(-epsilon))
    total = float(binom.sf(correct - 1, guesses, right))
    if delta > 0:
        below = binom.pmf(np.arange(correct - 1, -1, -1), guesses, right)  # B = v - 1, v - 2, ..., 0
        total += 2 * num_canaries * delta * float((np.cumsum(below) / np.arange(1, correct + 1)).max())
    return min(1.0, total)


def epsilon_lower_bound(
    correct: int, guesses: int, *, num_canaries: int, delta: float, confidence: float = 0.95
) -> float:
    """The smallest epsilon that the guesses do not refute.

    Args:
        correct: How many guesses were right.
        guesses: How many were made.
        num_canaries: How many canaries there are.
        delta: At which epsilon is asked for, in [0, 1).
        confidence: Probability with which the bound is below the true epsilon, at least; in (0, 1).

    Returns:
        At least 0.

    Raises:
        ConfigurationError: A number is out of its range.
    """
    level = 1.0 - within_open_unit(confidence=confidence)

    def refuted(epsilon: float) -> bool:
        return probability_of_guesses(correct, guesses, num_canaries=num_canaries, epsilon=epsilon, delta=delta) < level

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _LARGEST_EPSILON
    if refuted(high):
        return high
    # The binomial part grows with epsilon; of the part with delta that is not sure, so look for the first crossing.
    for step in range(1, _STEPS_BELOW + 1):
        epsilon = _LARGEST_EPSILON * (step / _STEPS_BELOW) ** 2
        if not refuted(epsilon):
            high = epsilon
            break
        low = epsilon
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if refuted(middle):
            low = middle
        else:
            high = middle
    return low
