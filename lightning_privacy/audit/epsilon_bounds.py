"""All that the scores of canaries say about epsilon, with one error probability for all of it.

How many canaries to guess about is not known before: with few guesses the sure ones count, with many the number. So
several numbers, fixed before anything was seen, are tried, and each bound may be wrong with its share of the error
probability only (Bonferroni). One part of it goes to the bound of :mod:`~lightning_privacy.audit.one_run_bound`, the
rest to that of :mod:`~lightning_privacy.audit.f_dp_bound`.

Example:
    >>> import numpy as np
    >>> coins = np.arange(1000) % 2 == 0
    >>> bounds = bounds_of_scores(np.where(coins, 1.0, 0.0), coins, delta=1e-5)
    >>> bounds.one_run > 4.0, bounds.broken
    (True, False)
    >>> nothing = bounds_of_scores(np.zeros(1000), coins, delta=1e-5)
    >>> nothing.lower
    0.0
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_privacy._validate import non_negative, within_open_unit
from lightning_privacy.audit.coins import count_correct, guess_coins
from lightning_privacy.audit.f_dp_bound import gaussian_lower_bound, refutes
from lightning_privacy.audit.gaussian_fit import GaussianFit, gaussian_fit
from lightning_privacy.audit.one_run_bound import epsilon_lower_bound
from lightning_privacy.audit.trade_off import TradeOffCurve, gaussian_epsilon

__all__ = ["EpsilonBounds", "Guessing", "bounds_of_scores", "numbers_of_guesses"]

# The most telling number was about three times the root of the number of canaries, for Gaussian mechanisms with epsilon
# 2 to 10 and a thousand to a million canaries; where the model gives canaries away, it is all of them.
_TIMES_THE_ROOT = (1, 3, 10)
_MOST_GUESSES = 20_000
_FURTHER_SHARE = 0.1


@dataclass(frozen=True)
class Guessing:
    """How one number of guesses came out.

    Attributes:
        made: How many guesses.
        correct: How many were right.
        one_run: Lower bound of epsilon from them, for any mechanism.
        mu: Lower bound of mu from them, for a Gaussian trade-off curve.
    """

    made: int
    correct: int
    one_run: float
    mu: float


@dataclass(frozen=True)
class EpsilonBounds:
    """What the scores of canaries say about epsilon at one delta.

    Attributes:
        num_canaries: How many canaries there were.
        num_in: How many of them were in.
        delta: Of all figures.
        confidence: Probability with which :attr:`one_run` and :attr:`f_dp` are both below what they bound, at least.
        guessings: One for each number of guesses that was tried.
        one_run: Lower bound of epsilon, whatever the mechanism is.
        f_dp: Lower bound of epsilon for a mechanism with a Gaussian trade-off curve, or with the claimed one.
        fit: Normals fitted to the scores: an estimate, and no bound.
        claimed: Epsilon that was promised; None where nothing was.
    """

    num_canaries: int
    num_in: int
    delta: float
    confidence: float
    guessings: tuple[Guessing, ...]
    one_run: float
    f_dp: float
    fit: GaussianFit | None
    claimed: float | None

    @property
    def lower(self) -> float:
        """The larger of the two lower bounds."""
        return max(self.one_run, self.f_dp)

    @property
    def broken(self) -> bool:
        """Whether the promise is refuted; of a run that keeps it, with a probability of 1 - confidence at most."""
        return self.claimed is not None and self.lower > self.claimed

    @property
    def best(self) -> Guessing:
        """The number of guesses that says most."""
        if self.f_dp > self.one_run:
            return max(self.guessings, key=lambda guessing: (guessing.mu, guessing.made))
        return max(self.guessings, key=lambda guessing: (guessing.one_run, guessing.made))

    @property
    def fitted_epsilon(self) -> tuple[float, float, float] | None:
        """Epsilon of the fitted normals, and of the ends of its interval."""
        if self.fit is None:
            return None
        low, middle, high = (gaussian_epsilon(mu, self.delta) for mu in (self.fit.low, self.fit.mu, self.fit.high))
        return middle, low, high


def numbers_of_guesses(num_canaries: int) -> list[int]:
    """The numbers of guesses that are tried; they depend on nothing but the number of canaries.

    Example:
        >>> numbers_of_guesses(1000)
        [32, 94, 316, 1000]
        >>> numbers_of_guesses(3)
        [2, 3]
    """
    root, most = math.sqrt(num_canaries), min(num_canaries, _MOST_GUESSES)
    return sorted({most} | {min(most, 2 * max(1, round(times * root / 2))) for times in _TIMES_THE_ROOT})


def bounds_of_scores(
    scores: ArrayLike,
    coins: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    claimed: float | None = None,
    claimed_curve: TradeOffCurve | None = None,
    curve_share: float = 0.5,
    further: Sequence[ArrayLike] = (),
) -> EpsilonBounds:
    """Work out all bounds.

    Args:
        scores: Finite, shape ``(m,)``; higher for a canary that looks as if it was in.
        coins: Shape ``(m,)``; which were.
        delta: At which epsilon is asked for, in (0, 1).
        confidence: Of both bounds together, in (0, 1).
        claimed: Epsilon that was promised at this delta; None for nothing.
        claimed_curve: The trade-off curve behind it.
        curve_share: Part of the error probability that goes to the bound with the trade-off curve, in (0, 1).
        further: Other scores of the same canaries, which share a tenth of the error probability.

    Raises:
        ConfigurationError: A number is out of its range, or there are not as many scores as coins.
    """
    delta, confidence = within_open_unit(delta=delta), within_open_unit(confidence=confidence)
    true = np.asarray(coins, dtype=np.bool_)
    numbers = numbers_of_guesses(len(true))
    curve_share = within_open_unit(curve_share=curve_share)
    guessings, refuted = [], False
    for made, values, share in _tests(numbers, scores, further):
        of_curve = (1.0 - confidence) * share * curve_share
        of_any = (1.0 - confidence) * share * (1.0 - curve_share)
        correct = count_correct(guess_coins(values, highest=made // 2, lowest=made - made // 2), true)
        one_run = epsilon_lower_bound(correct, made, num_canaries=len(true), delta=delta, confidence=1 - of_any)
        mu = gaussian_lower_bound(correct, made, num_canaries=len(true), confidence=1 - of_curve)
        guessings.append(Guessing(made, correct, one_run, mu))
        if claimed_curve is not None:
            refuted |= refutes(claimed_curve, correct, made, num_canaries=len(true), level=of_curve)
    f_dp = gaussian_epsilon(max(guessing.mu for guessing in guessings), delta)
    if claimed is not None:
        claimed = non_negative(claimed=claimed)
        # Of the curves that may be true, Gaussian ones and the claimed one, the one with the smallest epsilon.
        if claimed_curve is not None and not refuted:
            f_dp = min(f_dp, claimed)
    return EpsilonBounds(
        num_canaries=len(true),
        num_in=int(true.sum()),
        delta=delta,
        confidence=confidence,
        guessings=tuple(guessings),
        one_run=max(guessing.one_run for guessing in guessings),
        f_dp=f_dp,
        fit=gaussian_fit(scores, true, confidence=confidence),
        claimed=claimed,
    )


def _tests(
    numbers: Sequence[int], scores: ArrayLike, further: Sequence[ArrayLike]
) -> Iterator[tuple[int, ArrayLike, float]]:
    """Number of guesses, scores to make them by, and the part of the error probability, of everything that is tried."""
    others = _FURTHER_SHARE if further else 0.0
    for made in numbers:
        yield made, scores, (1.0 - others) / len(numbers)
        for values in further:
            yield made, values, others / len(further) / len(numbers)
