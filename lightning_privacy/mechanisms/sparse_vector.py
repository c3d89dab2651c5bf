"""Which of a long stream of private values are above a threshold, at the price of the few that are.

The sparse vector technique in the variant that is right: Lyu, Su and Li, "Understanding the Sparse Vector Technique for
Differential Privacy", 2017, Algorithm 1 with the split of epsilon of section 4. The threshold gets Laplace noise once,
of scale ``sensitivity / epsilon_1``; each value gets its own, of scale ``2 c sensitivity / epsilon_2`` for c positive
answers; answering stops after the c-th; and the answers say above or not, never a number. (Of the six variants they
compare, four break one of these rules and are not private as claimed.) The comparison has least noise with ``epsilon_1
: epsilon_2 = 1 : (2 c)**(2/3)``. For monotonic values the 2 is not needed.

As in :func:`~lightning_privacy.laplace`, values and threshold are rounded to a grid of powers of two and the noise is
exact whole numbers, of which none is cut; what rounding adds is in the sensitivity.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> test = AboveThreshold(threshold=500.0, sensitivity=1.0, epsilon=1.0, ledger=ledger)
    >>> [test.ask(value) for value in (0.0, 10.0, 20.0, 1000.0)], test.remaining
    ([False, False, False, True], 0)
    >>> round(ledger.epsilon(exact=True), 3)
    1.0
"""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any, Never

import numpy as np
from numpy.typing import NDArray

from lightning_privacy._validate import finite, positive, positive_int
from lightning_privacy.accounting import PrivacyLedger, PureRelease
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded, UnsupportedError
from lightning_privacy.mechanisms._charge import charge
from lightning_privacy.mechanisms._exact import ExactRandomness
from lightning_privacy.mechanisms._grid import Grid
from lightning_privacy.mechanisms._values import column_values, refuse_rounding
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["AboveThreshold", "above_threshold"]


class AboveThreshold:
    """Answers whether values are above a noisy threshold, until so many were.

    The whole of epsilon is charged when it is made. However many values are asked about, it costs no more; the noise,
    though, hides values whose distance from the threshold is not some times ``2 * max_positives * sensitivity /
    epsilon``.

    Args:
        threshold: what the values are compared with; it says nothing about the data.
        sensitivity: the most by which any one value can change when one record is replaced by a null record that
            contributes nothing (the ledger's neighbouring relation, "zero-out"), > 0.
        epsilon: what all answers together cost, > 0.
        max_positives: answers of True after which no more are given.
        monotonic: whether one record moves all values that it moves in the same direction, as counts do.
        ledger: charged before anything is drawn.
        noise: None for the operating system's randomness; a seeded source makes the result reproducible and NOT
            PRIVATE.

    Raises:
        ConfigurationError: an argument is out of range; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged.

    Example:
        >>> AboveThreshold(threshold=0.0, sensitivity=1.0, epsilon=1.0).ask(1000.0)
        True
    """

    def __init__(
        self,
        *,
        threshold: float,
        sensitivity: float,
        epsilon: float,
        max_positives: int = 1,
        monotonic: bool = False,
        ledger: PrivacyLedger | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        release = PureRelease(epsilon)
        sensitivity = positive(sensitivity=sensitivity)
        positives = positive_int(max_positives=max_positives)
        threshold = finite(threshold=threshold)
        if not isinstance(monotonic, bool):
            raise ConfigurationError(f"monotonic must be True or False, got {monotonic!r}")
        charge(ledger, release, noise, label="sparse vector")
        self._remaining = positives
        self._lock = threading.Lock()
        self._randomness = ExactRandomness(noise)
        self._grid = Grid(sensitivity)
        cells = self._grid.sensitivity
        times = positives if monotonic else 2 * positives
        share = Fraction(1.0 / (1.0 + times ** (2.0 / 3.0)))
        self._rate = Fraction(release.epsilon) * (1 - share) / (times * cells)
        self._threshold = np.array([threshold])
        (self._offset,) = self._randomness.many_rounded_laplace(Fraction(release.epsilon) * share / cells, 1).tolist()

    @property
    def remaining(self) -> int:
        """How many answers of True are left."""
        return self._remaining

    def ask(self, value: float) -> bool:
        """Whether a value is above the threshold, each with its noise.

        Args:
            value: computed from the private data; it may depend on earlier answers.

        Raises:
            ConfigurationError: it is not a finite number, or one that would be rounded.
            PrivacyBudgetExceeded: all answers of True were given.
        """
        refuse_rounding("value", value)
        number = finite(value=value)
        with self._lock:  # threads that ask at once would all see what is left, and each take it
            if not self._remaining:
                raise PrivacyBudgetExceeded(
                    "all answers of True were given, and a further answer is not paid for: make a new AboveThreshold, "
                    "or one with a larger max_positives"
                )
            return bool(self._answers(np.array([number]))[0])

    def __reduce__(self) -> Never:
        raise UnsupportedError(
            "an AboveThreshold can't be copied or pickled: the copy would give answers that were not paid for; make a "
            "new one where it is needed, with a charge of its own"
        )

    def _answers(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Answers for values in turn, up to the last that is given: comparisons of whole numbers of any size."""
        distances = self._grid.differences(values, self._threshold)
        noise = self._randomness.many_rounded_laplace(self._rate, len(values))
        above: NDArray[np.bool_] = distances + noise >= self._offset
        above = above[: 1 + int(np.searchsorted(above.cumsum(), self._remaining))]
        self._remaining -= int(above.sum())
        return above


def above_threshold(
    values: Any,
    *,
    threshold: float,
    sensitivity: float,
    epsilon: float,
    max_positives: int = 1,
    monotonic: bool = False,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
) -> NDArray[np.bool_]:
    """Return for values in turn whether each is above a threshold, up to the ``max_positives``-th that is.

    Args:
        values: tensor, array or list of numbers, shape (N,), each computed from the private data.
        threshold: as for :class:`AboveThreshold`.
        sensitivity: as for :class:`AboveThreshold`.
        epsilon: what all answers together cost, > 0.
        max_positives: answers of True after which no more are given.
        monotonic: as for :class:`AboveThreshold`.
        ledger: charged before anything is drawn.
        noise: as for :class:`AboveThreshold`.

    Returns:
        Answers, shape (M,) with M <= N: what comes after the last answer of True is not answered.

    Raises:
        ConfigurationError: an argument is out of range, there are no values, or not all are finite; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.

    Example:
        >>> above_threshold([-900.0, 900.0, 0.0], threshold=0.0, sensitivity=1.0, epsilon=1.0).tolist()
        [False, True]
    """
    numbers = column_values(values, exact=True)
    test = AboveThreshold(
        threshold=threshold,
        sensitivity=sensitivity,
        epsilon=epsilon,
        max_positives=max_positives,
        monotonic=monotonic,
        ledger=ledger,
        noise=noise,
    )
    return test._answers(numbers)
