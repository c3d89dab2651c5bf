"""Trade-off curves: all that a private mechanism hides, and not only at one delta.

A mechanism has the curve ``h`` if for all events E and neighbours D, D': ``P(M(D) in E) <= h(P(M(D') in E))``; with f
the trade-off function of Dong, Roth and Su, "Gaussian Differential Privacy", 2022, Definition 2.3, ``h(x) = 1 - f(x)``.
Where the outcome is likely under D, it can't be too unlikely under D': :meth:`TradeOffCurve.least` says how unlikely at
the most, the inverse of h.

Example:
    >>> round(GaussianCurve(1.0).least(0.5), 4)
    0.1587
    >>> PrivacyProfile([1.0], [0.0]).least(0.5) == 0.5 / math.e
    True
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from typing_extensions import override

from lightning_privacy._validate import non_negative, positive, within_open_unit
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms.gaussian_calibration import gaussian_delta

__all__ = ["GaussianCurve", "PrivacyProfile", "TradeOffCurve", "gaussian_epsilon"]

_LARGEST_MU = 100.0
_DELTAS = (*(10.0**-power for power in range(12, 2, -1)), 0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)


class TradeOffCurve(ABC):
    """How unlikely an event can be under a neighbour."""

    @abstractmethod
    def least(self, probability: float) -> float:
        """The smallest probability that an event can have under a neighbour.

        Args:
            probability: Of the event, in [0, 1].

        Returns:
            In [0, 1]; at most ``probability``. As a function it is convex and does not fall.
        """


class GaussianCurve(TradeOffCurve):
    """Of the mechanism that tells neighbours apart as well as one normal variable of mean 0 or mu.

    Dong, Roth and Su, 2022, Definition 2.6. One Gaussian release has ``mu = 1 / noise_multiplier``, n of them together
    ``sqrt(n)`` times that.

    Args:
        mu: At least 0.

    Raises:
        ConfigurationError: A negative mu.
    """

    def __init__(self, mu: float) -> None:
        self.mu = non_negative(mu=mu)

    @override
    def least(self, probability: float) -> float:
        return float(ndtr(ndtri(probability) - self.mu))


class PrivacyProfile(TradeOffCurve):
    """Of a mechanism that is (epsilon, delta)-private for several pairs at once.

    Each pair says that ``P <= exp(epsilon) P' + delta``, for an event and for its complement.

    Args:
        epsilons: Shape ``(n,)``, at least 0.
        deltas: Shape ``(n,)``, in [0, 1).

    Raises:
        ConfigurationError: A number out of its range, or not as many of one as of the other.
    """

    def __init__(self, epsilons: Sequence[float], deltas: Sequence[float]) -> None:
        if len(epsilons) != len(deltas) or not len(epsilons):
            raise ConfigurationError(f"there must be one delta for each epsilon, got {len(deltas)} for {len(epsilons)}")
        self._pairs = [
            (math.exp(-non_negative(epsilon=epsilon)), non_negative(delta=delta))
            for epsilon, delta in zip(epsilons, deltas, strict=True)
        ]

    @classmethod
    def of_ledger(cls, ledger: PrivacyLedger) -> PrivacyProfile | None:
        """What a ledger promises at its own delta and at others.

        Args:
            ledger: Whose releases are all private.

        Returns:
            The curve; None where the ledger promises nothing.
        """
        pairs = [(ledger.epsilon(exact=True), ledger.delta), *((ledger.epsilon(delta), delta) for delta in _DELTAS)]
        finite = [pair for pair in pairs if math.isfinite(pair[0])]
        return cls(*zip(*finite, strict=True)) if finite else None

    @override
    def least(self, probability: float) -> float:
        return max(
            0.0,
            *(
                bound
                for shrink, delta in self._pairs
                for bound in (shrink * (probability - delta), 1.0 - delta - (1.0 - probability) / shrink)
            ),
        )


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of a mechanism with a Gaussian trade-off curve.

    Args:
        mu: Of the curve, in [0, 100].
        delta: In (0, 1).

    Returns:
        At least 0.

    Raises:
        ConfigurationError: A number is out of its range.

    Example:
        >>> round(gaussian_epsilon(1.0, 1e-5), 2)
        4.38
    """
    mu, delta = non_negative(mu=mu), within_open_unit(delta=delta)
    if mu > _LARGEST_MU:
        raise ConfigurationError(f"mu must be at most {_LARGEST_MU:g}, got {mu!r}")
    if 2.0 * float(ndtr(0.5 * mu)) - 1.0 <= delta:
        return 0.0
    sigma = 1.0 / positive(mu=mu)
    top = 0.5 * mu * mu + 40.0 * mu
    return float(
        brentq(lambda epsilon: gaussian_delta(epsilon=epsilon, noise_multiplier=sigma) - delta, 1e-12, top, xtol=1e-10)
    )
