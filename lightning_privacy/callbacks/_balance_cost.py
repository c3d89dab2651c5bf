"""What balance by sampling costs: for each class, and where the budget ends.

Example:
    >>> costs = [CellCost("ill", 0.5, 3.0), CellCost("healthy", 0.005, 0.12)]
    >>> costs_text(costs, epsilon=3.0).split(". ")[0]
    "epsilon as charged 3.000 (rate 0.5); 'ill' alone 3.000 (rate 0.5), 'healthy' alone 0.120 (rate 0.005)"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.pld import FINE_INTERVAL, exact_epsilon
from lightning_privacy.callbacks._balance import MOST_SHOWN, some
from lightning_privacy.callbacks._run_state import RunSettings
from lightning_privacy.gradients.clipping import ClippingPolicy
from lightning_privacy.sampling.balanced_poisson import balanced_rates

__all__ = ["MEANING", "CellCost", "cell_costs", "costs_text", "unaffordable"]

MEANING = (
    "The figure of a class holds against one who asks whether an example known to be of that class was used; where the "
    "class itself is to stay secret, the guarantee is epsilon as charged."
)
"""What the epsilons of single classes say, and what they don't."""

_PRECISION = 0.005
_COARSE_INTERVAL = 1e-3


@dataclass(frozen=True)
class CellCost:
    """What the run costs an example of one class.

    Args:
        name: Of the class, group or both.
        rate: Probability of such an example to be in the batch of a step.
        epsilon: For one who asks whether such an example was used, and knows its class.
    """

    name: str
    rate: float
    epsilon: float


def unaffordable(
    settled: Mapping[str, Any],
    *,
    epsilon_at: Callable[[float, float], float],
    expected_batch_size: float,
    noise_multiplier: float,
    steps: int,
    epsilon: float,
) -> str:
    """Say that the budget doesn't pay for a balance, and what is the largest for which it does.

    Args:
        settled: The balance, by sampling.
        epsilon_at: Of everything, with all steps at a rate, on a grid of privacy losses with an interval.
        expected_batch_size: Examples of a step on average.
        noise_multiplier: Of the steps, or the most that was allowed.
        steps: How many.
        epsilon: Of the run.
    """
    names, rates = settled["names"], settled["rates"]
    counts = np.maximum(settled["counts"], 1)
    place = int(np.argmax(rates))
    text = (
        f"balanced batches need a sample rate of {rates[place]:.4g} for {names[place]!r}, and {steps} steps at that "
        f"rate with a noise multiplier of {noise_multiplier:.4g} cost more than epsilon={epsilon:g}. "
    )
    # A coarser grid can only give more epsilon, and is a hundred times faster.
    interval = FINE_INTERVAL if epsilon < 200 * _COARSE_INTERVAL else _COARSE_INTERVAL
    fitting = _largest_rate(
        settled,
        expected_batch_size,
        fits=lambda rate: epsilon_at(rate, interval) <= epsilon,
        equal_fits=lambda rate: epsilon_at(rate, FINE_INTERVAL) <= epsilon,
    )
    if fitting is None:
        text += "Not even equal rates for all would fit: take more noise, fewer steps or a larger epsilon."
    elif fitting == 0:
        text += (
            "Equal rates for all would fit, and hardly more: use shuffle=True, or take more noise, fewer steps or a "
            "larger epsilon, or PrivateBalance(loss_weighting='inverse'), which costs no more than equal rates."
        )
    else:
        wanted = np.array(rates) * counts
        limited = balanced_rates(
            counts, wanted / wanted.sum(), expected_batch_size=expected_batch_size, max_sample_rate=fitting
        )
        parts = limited * counts / (limited * counts).sum()
        shown = sorted(zip(names, parts.tolist(), strict=True), key=lambda pair: -pair[1])
        batch = ", ".join(f"{part:.1%} {name!r}" for name, part in some(shown))
        text += (
            f"The largest balance that fits is PrivateBalance(max_sample_rate={fitting:.4g}), with batches of {batch}. "
            "For more take more noise, fewer steps or a larger epsilon, or PrivateBalance(loss_weighting='inverse'), "
            "which costs no more than equal rates."
        )
    if settled["count_epsilon"] is not None:
        noisy = dict(zip(names, settled["counts"], strict=True))
        known = f"public_counts={noisy!r}" if len(noisy) <= MOST_SHOWN else "the noisy counts as public_counts"
        text += (
            f" This rests on noisy counts that cost epsilon={settled['count_epsilon']:g} and stay in the ledger: to go "
            f"on without taking them again, pass {known} and ledger=privacy.ledger of this callback."
        )
    return text


def _largest_rate(
    settled: Mapping[str, Any],
    expected_batch_size: float,
    *,
    fits: Callable[[float], bool],
    equal_fits: Callable[[float], bool],
) -> float | None:
    """The largest ``max_sample_rate``, to four digits, that fits, by bisection.

    Returns:
        None where not even equal rates fit, 0 where only they do.
    """
    total = sum(max(1, count) for count, rate in zip(settled["counts"], settled["rates"], strict=True) if rate > 0)
    equal = expected_batch_size / total
    high, low = max(settled["rates"]), equal
    if not equal_fits(min(low, high)):
        return None
    while high > low * (1 + _PRECISION):
        middle = float(f"{(low * high) ** 0.5:.4g}")  # what is told must be what fits
        if not low < middle < high:
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low if low > equal else 0.0


def cell_costs(settings: RunSettings, ledger: PrivacyLedger, policy: ClippingPolicy) -> list[CellCost]:
    """What a run balanced by sampling costs the examples of each class; empty for any other run.

    With rates that are fixed, neighbouring data sets that differ by an example of one class, there or replaced by a
    null record, differ by what is drawn at that class's rate; all else that was released counts in full.

    Args:
        settings: Of the run.
        ledger: What was released.
        policy: How gradients are clipped, which decides what a step is charged as.

    Returns:
        The classes by falling rate; of many only the first and last.
    """
    balance = settings.balance
    if balance is None or balance["rates"] is None:
        return []
    charged = policy.release(settings.noise_multiplier, settings.sample_rate)
    others = [(release, count) for release, count in ledger.groups if release != charged]
    steps = ledger.count(charged)
    rated = some(sorted(zip(balance["rates"], balance["names"], strict=True), key=lambda pair: -pair[0]))
    known: dict[float, float] = {}
    for rate, _ in rated:
        if rate not in known:
            own = [(policy.release(settings.noise_multiplier, rate), steps)] if rate > 0 and steps else []
            known[rate] = exact_epsilon([*others, *own], delta=ledger.delta)
    return [CellCost(name, rate, known[rate]) for rate, name in rated]


def costs_text(costs: Sequence[CellCost], *, epsilon: float, budget: float | None = None) -> str:
    """The costs of the classes in a few words, and what they mean.

    Args:
        costs: As :func:`cell_costs` gives them.
        epsilon: As charged.
        budget: What it was not to pass; None without.
    """
    highest, shown = max(cost.rate for cost in costs), partial(epsilon_text, budget=budget)
    each = ", ".join(f"{cost.name!r} alone {shown(cost.epsilon)} (rate {cost.rate:.4g})" for cost in costs)
    return f"epsilon as charged {shown(epsilon)} (rate {highest:.4g}); {each}. {MEANING}"
