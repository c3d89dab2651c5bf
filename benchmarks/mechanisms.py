"""Claim: no mechanism loses more privacy than it says, and those that could say no less lose nearly all of it.

Each mechanism runs a million times on each of two neighbouring data sets. For events fixed beforehand (the output is
beyond a threshold, the answer is a certain one) the frequencies under both give a lower bound of epsilon: ``log((p -
delta) / q)`` with p from below and q from above by Clopper and Pearson's exact intervals, so that a true claim is
called false with probability 1e-6 over all events of a mechanism. The share is that bound over the epsilon claimed.

    python benchmarks/mechanisms.py                   # all of it; writes benchmarks/results/mechanisms.json
    python benchmarks/mechanisms.py --runs 100000     # part of it; writes nothing unless told where
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from _harness import hardware, parsed, parser_of, run_benchmark

_PACKAGES = ("lightning-privacy", "numpy", "scipy", "torch", "dp-accounting")
_RUNS = 1_000_000
_QUICK_RUNS = 2_000
_CHUNK = 100_000
_ERROR = 1e-6
_DELTA = 1e-2

_Event = Callable[[Any], Any]


@dataclass(frozen=True)
class _Case:
    """A mechanism on two neighbours: what it claims, and the events that tell them apart."""

    claim: float
    delta: float
    draw: Callable[[int, int], Any]  # side 0 or 1, runs -> outputs
    events: dict[str, _Event]
    tight: bool = True


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=1, threads=1, quick="a few runs")
    parser.add_argument("--runs", type=int, default=_RUNS)
    arguments = parsed(
        parser,
        argv,
        result="mechanisms.json",
        complete=lambda given: given.runs >= _RUNS and given.threads == 1,
        numbers=("rounds", "threads", "runs"),
    )
    if arguments.quick:
        arguments.runs = min(arguments.runs, _QUICK_RUNS)
    return arguments


def _cases() -> dict[str, _Case]:
    # Not at the top: the libraries read the number of threads from the environment when they are imported.
    import numpy as np

    from lightning_privacy import mechanisms

    def laplace(side: int, runs: int) -> Any:
        return mechanisms.laplace(np.full(runs, 3.0 + side), sensitivity=1.0, epsilon=1.0)

    def counts(side: int, runs: int) -> Any:
        return mechanisms.private_histogram(np.repeat(np.arange(runs), 3 + side), num_classes=runs, epsilon=1.0)

    def gaussian(side: int, runs: int) -> Any:
        return mechanisms.gaussian(np.full(runs, 3.0 + side), sensitivity=1.0, epsilon=1.0, delta=_DELTA)

    def response(classes: int) -> Callable[[int, int], Any]:
        return lambda side, runs: mechanisms.randomized_response(np.full(runs, side), num_classes=classes, epsilon=1.0)

    def choice(mechanism: Callable[..., Any], sides: list[list[float]], monotonic: bool) -> Callable[[int, int], Any]:
        return lambda side, runs: mechanism(
            np.tile(sides[side], (runs, 1)), sensitivity=1.0, epsilon=1.0, monotonic=monotonic
        )

    # Where the logarithm of the densities' ratio is epsilon, and a little less, either way.
    reach = mechanisms.gaussian_noise_multiplier(epsilon=1.0, delta=_DELTA) ** 2
    beyond: dict[str, _Event] = {}
    for part in (1.0, 0.8):
        low, high = 3.5 - part * reach, 3.5 + part * reach
        beyond |= {f"below {low:.2f}": partial(np.greater, low), f"above {high:.2f}": partial(np.less, high)}
    first: dict[str, _Event] = {"the first": lambda x: x == 0}
    second: dict[str, _Event] = {"the second": lambda x: x == 1}
    return {
        "Laplace": _Case(1.0, 0.0, laplace, {"at most 3": lambda x: x <= 3, "at least 4": lambda x: x >= 4}),
        "noisy counts": _Case(1.0, 0.0, counts, {"at most 2": lambda x: x <= 2, "at least 5": lambda x: x >= 5}),
        f"Gaussian, delta {_DELTA:g}": _Case(1.0, _DELTA, gaussian, beyond),
        "randomised response, 2 classes": _Case(1.0, 0.0, response(2), first | second),
        "randomised response, 10 classes": _Case(1.0, 0.0, response(10), first | second),
        "noisy maximum": _Case(1.0, 0.0, choice(mechanisms.noisy_max, [[2, 0], [1, 1]], False), second),
        "noisy maximum, monotonic": _Case(1.0, 0.0, choice(mechanisms.noisy_max, [[1, 0], [1, 1]], True), second),
        "exponential mechanism": _Case(1.0, 0.0, choice(mechanisms.exponential, [[9, 0], [8, 1]], False), second),
        "a false claim of half the epsilon": _reference(np),
    }


def _reference(np: Any) -> _Case:
    """A mechanism that claims half of what it loses: shows that the method would tell."""
    generator = np.random.default_rng(0)
    sides = np.array([[2.0, 0.0], [1.0, 1.0]])
    return _Case(
        1.0,
        0.0,
        lambda side, runs: (sides[side] + generator.exponential(1.0, (runs, 2))).argmax(axis=1),
        {"the second": lambda x: x == 1},
        tight=False,
    )


def _bound(hits: tuple[int, int], runs: int, delta: float, error: float) -> float:
    """Lower bound of epsilon from how often an event happened on either side; holds with probability 1 - error."""
    from scipy.stats import beta

    low = float(beta.ppf(error / 2, hits[0], runs - hits[0] + 1)) if hits[0] else 0.0
    high = float(beta.ppf(1 - error / 2, hits[1] + 1, runs - hits[1])) if hits[1] < runs else 1.0
    return math.log((low - delta) / high) if low > delta else -math.inf


def _measure(case: _Case, runs: int) -> dict[str, Any]:
    hits = {name: [0, 0] for name in case.events}
    start = time.perf_counter()
    for side in (0, 1):
        for count in _chunks(runs):
            outputs = case.draw(side, count)
            for name, event in case.events.items():
                hits[name][side] += int(event(outputs).sum())
    seconds = time.perf_counter() - start
    error = _ERROR / (2 * len(case.events))
    bounds = {
        (name, direction): _bound((found[direction], found[1 - direction]), runs, case.delta, error)
        for name, found in hits.items()
        for direction in (0, 1)
    }
    (where, direction), best = max(bounds.items(), key=lambda item: item[1])
    p, q = (hits[where][side] / runs for side in (direction, 1 - direction))
    return {
        "claim": case.claim,
        "delta": case.delta,
        "tight": case.tight,
        "event": where,
        "probabilities": [p, q],
        "estimate": round(math.log((p - case.delta) / q), 4) if p > case.delta and q else None,
        "lower_bound": round(best, 4) if math.isfinite(best) else None,
        "share": round(best / case.claim, 4) if math.isfinite(best) else None,
        "microseconds_a_run": round(seconds / (2 * runs) * 1e6, 3),
    }


def _chunks(runs: int) -> Iterator[int]:
    while runs > 0:
        yield min(runs, _CHUNK)
        runs -= _CHUNK


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    return {
        "benchmark": "mechanisms",
        "quick": arguments.quick,
        "runs": arguments.runs,
        "error": _ERROR,
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
        "mechanisms": {name: _measure(case, arguments.runs) for name, case in _cases().items()},
    }


def _format(result: dict[str, Any]) -> str:
    lines = [f"{'':34}{'claim':>7}{'estimate':>10}{'at least':>10}{'share':>8}{'us a run':>10}  event"]
    for name, cell in result["mechanisms"].items():
        figures = "".join(
            f"{'-' if value is None else format(value, '.3f'):>{width}}"
            for value, width in ((cell["estimate"], 10), (cell["lower_bound"], 10), (cell["share"], 8))
        )
        lines.append(f"{name:34}{cell['claim']:7.3f}{figures}{cell['microseconds_a_run']:10.2f}  {cell['event']}")
    lines.append(
        f"{result['runs']:,} runs on each of two neighbours; wrong with probability {result['error']:g} a line"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
