"""The cost of the best of a random number of runs: against its exact distribution, and against dp_accounting's."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from dp_accounting.dp_event import ComposedDpEvent, RepeatAndSelectDpEvent, SelfComposedDpEvent
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import compute_delta

from lightning_privacy.accounting import (
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    PrivacyLedger,
    SampledGaussian,
    TruncatedSampledGaussian,
)
from lightning_privacy.accounting.best_of_runs import _ORDERS, NegativeBinomialRuns, PoissonRuns, best_run_epsilon
from lightning_privacy.errors import ConfigurationError, UnsupportedError

NUMBERS = [
    NegativeBinomialRuns(shape=1.0, gamma=0.1),
    NegativeBinomialRuns(shape=0.0, gamma=0.02),
    NegativeBinomialRuns(shape=-0.5, gamma=0.01),
    NegativeBinomialRuns(shape=3.0, gamma=0.3),
    PoissonRuns(12.0),
]
NAMES = ["geometric", "logarithmic", "below 0", "above 1", "poisson"]


def ledger(*groups, unit: str = "example") -> PrivacyLedger:
    made = PrivacyLedger(delta=1e-5, unit=unit)
    for release, count in groups:
        made.charge(release, count)
    return made


def table(number) -> tuple[np.ndarray, np.ndarray]:
    numbers, probabilities = zip(*itertools.islice(number.probabilities(), 20_000), strict=True)
    return np.array(numbers), np.array(probabilities)


@pytest.mark.parametrize("number", NUMBERS, ids=NAMES)
def test_the_probabilities_are_a_distribution_with_the_mean(number) -> None:
    numbers, probabilities = table(number)
    assert probabilities.min() >= 0
    assert probabilities.sum() == pytest.approx(1, rel=1e-9)
    assert (numbers * probabilities).sum() == pytest.approx(number.mean, rel=1e-9)


@pytest.mark.parametrize("number", NUMBERS, ids=NAMES)
def test_a_draw_is_the_inverse_of_the_distribution(number, monkeypatch) -> None:
    numbers, probabilities = table(number)
    total = np.cumsum(probabilities)
    for place in (0, 1, 5, 11):
        middle = total[place] - probabilities[place] / 2
        monkeypatch.setattr(random.SystemRandom, "random", lambda _, u=middle: u)
        assert number.draw() == numbers[place]
    monkeypatch.setattr(random.SystemRandom, "random", lambda _: 1 - 2**-53)
    assert number.draw() > number.mean


@pytest.mark.parametrize("shape", [-0.7, 0.0, 1.0, 5.0])
@pytest.mark.parametrize("mean", [1.01, 10.0, 1000.0])
def test_a_mean_can_be_asked_for(shape, mean) -> None:
    assert NegativeBinomialRuns.with_mean(mean, shape=shape).mean == pytest.approx(mean, rel=1e-9)


def renyi(p: np.ndarray, q: np.ndarray, order: float) -> float:
    a, b = np.log(p), np.log(q)
    ways = (order * a + (1 - order) * b, order * b + (1 - order) * a)
    return max(float(np.logaddexp.reduce(way)) for way in ways) / (order - 1)


@pytest.mark.parametrize("number", NUMBERS, ids=NAMES)
def test_p32_the_bound_holds_for_a_mechanism_whose_best_run_is_known_exactly(number) -> None:
    # One run gives one of five outcomes, the higher the better; its neighbour makes each up to e^0.4 times likelier.
    q = np.array([0.6, 0.2, 0.1, 0.06, 0.04])
    p = q * np.exp(0.4 * np.array([-1, 0.5, 1, -1, 1]))
    p /= p.sum()
    numbers, probabilities = table(number)

    def best(run: np.ndarray) -> np.ndarray:
        # P[the best of k runs is y or worse] is the k-th power of that of one run.
        below = [0.0, *np.cumsum(run)]
        reached = np.array([(probabilities * np.power(x, numbers)).sum() for x in below])
        return np.array([reached[0], *np.diff(reached)])[0 if reached[0] > 0 else 1 :]  # first: no run at all

    one_run = [renyi(p, q, order) for order in _ORDERS]

    def delta_at(epsilon: float) -> float:
        return max(np.maximum(a - math.exp(epsilon) * b, 0).sum() for a, b in ((p, q), (q, p)))

    bounds = number.divergences(_ORDERS, one_run, delta_at)
    exact = [renyi(best(p), best(q), order) for order in _ORDERS]
    assert all(value <= bound for value, bound in zip(exact, bounds, strict=True))
    if isinstance(number, PoissonRuns) or number.shape >= 1:
        assert exact[20] > one_run[20]  # so a selection that were free would be seen


GROUPS = {
    "gaussian": [(GaussianRelease(4.0), 3)],
    "training": [(LaplaceRelease(0.05), 1), (SampledGaussian(2.0, 0.02), 300)],
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize(("mean", "shape"), [(10.0, 1.0), (30.0, 0.0), (5.0, 4.0)])
def test_negative_binomial_numbers_cost_what_dp_accounting_says(name, mean, shape) -> None:
    run = ledger(*GROUPS[name])
    event = ComposedDpEvent([SelfComposedDpEvent(release.event(), count) for release, count in run.groups])
    accountant = RdpAccountant(_ORDERS, NeighboringRelation.REPLACE_SPECIAL)
    expected = accountant.compose(RepeatAndSelectDpEvent(event, mean, shape)).get_epsilon(1e-6)
    number = NegativeBinomialRuns.with_mean(mean, shape=shape)
    assert best_run_epsilon([run], number, delta=1e-6) == pytest.approx(expected, rel=1e-6)


def test_poisson_numbers_cost_what_dp_accounting_says_and_less_with_the_exact_delta() -> None:
    sigma, mean = 4.0, 10.0
    one_run = [order / (2 * sigma**2) for order in _ORDERS]  # Mironov, 2017, Corollary 3
    accountant = RdpAccountant(_ORDERS, NeighboringRelation.REPLACE_SPECIAL)
    expected = accountant.compose(RepeatAndSelectDpEvent(GaussianRelease(sigma).event(), mean, math.inf))
    bounds = PoissonRuns(mean).divergences(
        _ORDERS, one_run, lambda epsilon: compute_delta(_ORDERS, one_run, epsilon)[0]
    )
    again = min(
        bound + math.log1p(-1 / order) - math.log(1e-6 * order) / (order - 1)
        for order, bound in zip(_ORDERS, bounds, strict=True)
    )
    assert again == pytest.approx(expected.get_epsilon(1e-6), rel=1e-9)
    run = ledger((GaussianRelease(sigma), 1))
    assert run.epsilon(1e-6) < best_run_epsilon([run], PoissonRuns(mean), delta=1e-6) < expected.get_epsilon(1e-6)


def test_the_worst_choice_of_hyperparameters_is_charged() -> None:
    cheap, dear = ledger((GaussianRelease(8.0), 1)), ledger((GaussianRelease(4.0), 1))
    number = NegativeBinomialRuns(shape=0.0, gamma=0.1)
    costs = [best_run_epsilon(candidates, number, delta=1e-5) for candidates in ([cheap, dear], [dear], [cheap])]
    assert costs[0] == costs[1] > costs[2]
    assert best_run_epsilon([cheap, ledger((NonPrivate("x"), 1))], number, delta=1e-5) == math.inf
    assert best_run_epsilon([ledger()], number, delta=1e-5) == 0.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: NegativeBinomialRuns(shape=-1.0, gamma=0.5), ConfigurationError, "shape must be a number > -1"),
        (lambda: NegativeBinomialRuns(shape=1.0, gamma=1.0), ConfigurationError, "gamma"),
        (lambda: NegativeBinomialRuns.with_mean(1.0), ConfigurationError, "mean must be a number > 1"),
        (lambda: PoissonRuns(0.5), ConfigurationError, "expected must be a number >= 1"),
        (lambda: best_run_epsilon([], PoissonRuns(2.0), delta=1e-5), ConfigurationError, "at least one run"),
        (
            lambda: best_run_epsilon([ledger(), ledger(unit="client")], PoissonRuns(2.0), delta=1e-5),
            ConfigurationError,
            r"same unit, got the units \['client', 'example'\]",
        ),
        (
            lambda: best_run_epsilon(
                [ledger((TruncatedSampledGaussian(8.0, 0.1, 200, 25), 1))], PoissonRuns(2.0), delta=1e-5
            ),
            UnsupportedError,
            "Renyi divergence of .* is not known",
        ),
    ],
    ids=["shape", "gamma", "mean", "expected", "none", "units", "release"],
)
def test_bad_input_is_named(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
