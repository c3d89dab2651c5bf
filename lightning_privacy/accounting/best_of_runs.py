"""The cost of publishing only the best of a random number of private runs.

Papernot and Steinke, "Hyperparameter Tuning with Renyi Differential Privacy", ICLR 2022 (arXiv:2110.03620). Draw a
number K of runs at random, draw the hyperparameters of each run at random, train, and publish the model with the best
score; K, the scores and the other models stay secret. That costs two or three times what one run does, however large K
is on average: below, 30 runs on average cost 2.2 times the epsilon of one, and 30 that are all looked at 6.5 times.

Nothing of it holds where K is fixed beforehand, or is known, or where the search looks at results to choose what to
try next: then :func:`~lightning_privacy.accounting.sweep.sweep_epsilon` is the figure.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> run = PrivacyLedger(delta=1e-5)
    >>> run.charge(SampledGaussian(noise_multiplier=2.0, sample_rate=0.01), count=1000)
    >>> number = NegativeBinomialRuns.with_mean(30.0, shape=0.0)
    >>> round(run.epsilon(exact=True), 2), round(best_run_epsilon([run], number, delta=1e-5), 2)
    (0.62, 1.36)
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import dp_accounting
from dp_accounting.rdp import RdpAccountant
from typing_extensions import override

from lightning_privacy._validate import finite, positive, within_open_unit
from lightning_privacy.accounting.ledger import PrivacyLedger
from lightning_privacy.accounting.pld import ADJACENCY, composed, fine_interval
from lightning_privacy.accounting.void import is_void
from lightning_privacy.errors import ConfigurationError, UnsupportedError

__all__ = ["NegativeBinomialRuns", "NumberOfRuns", "PoissonRuns", "best_run_epsilon"]

_ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 64), 128.0, 256.0, 512.0, 1024.0)

# Small enough that the conversion from Renyi divergence to epsilon is the one formula at every order; see _renyi.
_TINY_DELTA = 1e-200


class NumberOfRuns(ABC):
    """How many runs a search has: a number drawn at random, which nobody may learn.

    A derived class says with what probabilities, and what the search then costs.
    """

    @property
    @abstractmethod
    def mean(self) -> float:
        """How many runs there are on average."""

    @abstractmethod
    def probabilities(self) -> Iterator[tuple[int, float]]:
        """Give each number of runs with its probability, in ascending order, without end."""

    @abstractmethod
    def divergences(
        self, orders: Sequence[float], one_run: Sequence[float], delta_at: Callable[[float], float]
    ) -> list[float]:
        """Return the Renyi divergences of the best of the runs.

        Args:
            orders: above 1.
            one_run: Renyi divergence of one run at each order.
            delta_at: the delta of one run at an epsilon.

        Returns:
            One figure for each order.
        """

    def draw(self) -> int:
        """Draw a number of runs from the operating system's randomness; keep it to yourself."""
        left = random.SystemRandom().random()
        number = 0
        for number, probability in self.probabilities():
            left -= probability
            # Beyond what a float can tell apart from 1, the probabilities no longer add anything.
            if left < 0 or (probability < 1e-18 and number > self.mean):
                break
        return number


@dataclass(frozen=True)
class NegativeBinomialRuns(NumberOfRuns):
    """At least one run; numbers of the truncated negative binomial distribution (Definition 1 there).

    ``P[K = k]`` is in proportion to ``(1 - gamma)^k prod_{l<k} (l + shape) / (l + 1)``. Shape 1 is the geometric
    distribution, shape 0 the logarithmic one. A smaller shape costs less and varies more: with shape 0 a single run
    is the most frequent, and many times the mean not rare.

    Args:
        shape: eta, above -1.
        gamma: in (0, 1); the smaller, the more runs.

    Raises:
        ConfigurationError: a number out of its range.

    Example:
        >>> NegativeBinomialRuns(shape=1.0, gamma=0.5).mean
        2.0
    """

    shape: float
    gamma: float

    def __post_init__(self) -> None:
        if finite(shape=self.shape) <= -1:
            raise ConfigurationError(f"shape must be a number > -1, got {self.shape!r}")
        within_open_unit(gamma=self.gamma)

    @classmethod
    def with_mean(cls, mean: float, *, shape: float = 1.0) -> NegativeBinomialRuns:
        """Return the distribution of a shape that has so many runs on average.

        Args:
            mean: above 1.
            shape: eta, above -1.

        Raises:
            ConfigurationError: a number out of its range, or a mean that no gamma above 1e-300 gives.
        """
        if finite(mean=mean) <= 1:
            raise ConfigurationError(f"mean must be a number > 1, got {mean!r}")
        low, high = math.log(1e-300), math.log1p(-1e-12)  # of gamma; the mean falls with it
        if not cls(shape, math.exp(low)).mean >= mean >= cls(shape, math.exp(high)).mean:
            raise ConfigurationError(
                f"no truncated negative binomial distribution of shape {shape!r} has mean {mean!r}"
            )
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if cls(shape, math.exp(middle)).mean > mean else (low, middle)
        return cls(shape, math.exp(low))

    @property
    @override
    def mean(self) -> float:
        shape, gamma = self.shape, self.gamma
        if shape == 0:
            return (1 / gamma - 1) / -math.log(gamma)
        # gamma^shape - 1, without loss of digits where the shape is small.
        return shape * (1 - gamma) / (gamma * -math.expm1(shape * math.log(gamma)))

    @override
    def probabilities(self) -> Iterator[tuple[int, float]]:
        logarithm = math.log(self.gamma)
        keeps = -math.expm1(logarithm)
        scale = -logarithm if self.shape == 0 else math.expm1(-self.shape * logarithm) / self.shape
        number, probability = 1, keeps / scale
        while True:
            yield number, probability
            probability *= keeps * (number + self.shape) / (number + 1)
            number += 1

    @override
    def divergences(
        self, orders: Sequence[float], one_run: Sequence[float], delta_at: Callable[[float], float]
    ) -> list[float]:
        """Return Theorem 2's bound, with the better of the second orders for all.

        ``eps' = eps + (1 + eta)((1 - 1/lambda^) eps^ - log(gamma) / lambda^) + log(E[K]) / (lambda - 1)``.
        """
        pairs = list(zip(orders, one_run, strict=True))
        second = min((1 - 1 / order) * divergence - math.log(self.gamma) / order for order, divergence in pairs)
        second *= 1 + self.shape
        return [divergence + second + math.log(self.mean) / (order - 1) for order, divergence in pairs]


@dataclass(frozen=True)
class PoissonRuns(NumberOfRuns):
    """Numbers of the Poisson distribution: near their mean, and at times none, when there is nothing to publish.

    Args:
        expected: the mean, at least 1.

    Raises:
        ConfigurationError: a mean below 1.

    Example:
        >>> PoissonRuns(20.0).mean
        20.0
    """

    expected: float

    def __post_init__(self) -> None:
        if positive(expected=self.expected) < 1:
            raise ConfigurationError(f"expected must be a number >= 1, got {self.expected!r}")

    @property
    @override
    def mean(self) -> float:
        return float(self.expected)

    @override
    def probabilities(self) -> Iterator[tuple[int, float]]:
        number = 0
        while True:
            # In logarithms: exp(-mean) alone would underflow for a large mean.
            yield number, math.exp(number * math.log(self.mean) - self.mean - math.lgamma(number + 1))
            number += 1

    @override
    def divergences(
        self, orders: Sequence[float], one_run: Sequence[float], delta_at: Callable[[float], float]
    ) -> list[float]:
        """Return Theorem 6's bound.

        ``eps' = eps + mu delta^ + log(mu) / (lambda - 1)``, delta^ being one run's at ``log(1 + 1 / (lambda - 1))``.
        """
        return [
            divergence + self.mean * delta_at(math.log1p(1 / (order - 1))) + math.log(self.mean) / (order - 1)
            for order, divergence in zip(orders, one_run, strict=True)
        ]


def best_run_epsilon(candidates: Sequence[PrivacyLedger], number: NumberOfRuns, *, delta: float) -> float:
    """Epsilon of publishing only the best of a random number of runs.

    Args:
        candidates: what a run releases, its score included: one ledger where hyperparameters don't change that, one for
            each choice where they do. Each run draws its choice anew, without regard to other runs.
        number: how the number of runs is drawn.
        delta: the delta at which it is wanted, in (0, 1).

    Returns:
        Epsilon, an upper bound by way of Renyi divergences; infinity where something released is not private.

    Raises:
        ConfigurationError: no candidate, candidates that protect different units, or delta out of its range.
        UnsupportedError: a release whose Renyi divergence is not known.
    """
    ledgers = list(candidates)
    if not ledgers:
        raise ConfigurationError("candidates must hold the ledger of at least one run, got none")
    units = sorted({ledger.unit for ledger in ledgers})
    if len(units) > 1:
        raise ConfigurationError(
            f"candidates must be ledgers that protect the same unit, got the units {units}: the worst of them would be "
            "chosen among epsilons that are not about the same thing"
        )
    within_open_unit(delta=delta)
    if any(map(is_void, ledgers)):
        return math.inf
    if not all(release.private for ledger in ledgers for release, _ in ledger.groups):
        return math.inf
    if not any(ledger.groups for ledger in ledgers):
        return 0.0
    # Which choice a run makes says nothing of the data, so the worst of them bounds the run.
    one_run = [max(_renyi(ledger, order) for ledger in ledgers) for order in _ORDERS]
    losses = [composed(ledger.groups, interval=fine_interval(ledger.groups)) for ledger in ledgers if ledger.groups]
    best = number.divergences(_ORDERS, one_run, lambda epsilon: max(_delta(loss, epsilon) for loss in losses))
    epsilon, _ = dp_accounting.rdp.compute_epsilon(_ORDERS, best, delta)
    return float(epsilon)


def _delta(loss: dp_accounting.pld.privacy_loss_distribution.PrivacyLossDistribution, epsilon: float) -> float:
    return float(loss.get_delta_for_epsilon(epsilon))


def _renyi(ledger: PrivacyLedger, order: float) -> float:
    """Renyi divergence of all that a ledger holds."""
    accountant = RdpAccountant([order], ADJACENCY)
    for release, count in ledger.groups:
        event = release.event()
        if not accountant.supports(event):
            raise UnsupportedError(
                f"the Renyi divergence of {release.label} is not known, so neither is that of the best"
            )
        accountant.compose(event, count)
    # The accountant tells epsilons only. At one order, epsilon is the divergence and something that is known.
    apart = math.log1p(-1 / order) - math.log(_TINY_DELTA * order) / (order - 1)
    return max(0.0, float(accountant.get_epsilon(_TINY_DELTA)) - apart)
