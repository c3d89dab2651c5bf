"""Claim: balanced sampling of 10 million examples takes a fifth of WeightedRandomSampler's time, and under a second.

Ten classes, each half as large as the one before. Each contender draws whole epochs and hands out every index; all
run in one process, in turn. A package that can't be imported, or a size that a sampler refuses, has the reason in its
place.

    python benchmarks/sampling.py                            # all of it; writes benchmarks/results/sampling.json
    python benchmarks/sampling.py --cases epoch --rounds 3   # part of it; writes nothing unless told where

imbalanced-learn and pytorch-metric-learning are no dependencies of this package: ``pip install imbalanced-learn
pytorch-metric-learning`` first, into an environment of their own if you like.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from _harness import hardware, interleave, machine_line, parsed, parser_of, run_benchmark

_PACKAGES = ("lightning-privacy", "torch", "numpy", "scikit-learn")
_OTHERS = ("imbalanced-learn", "pytorch-metric-learning")
_CLASSES = 10
_ROUNDS = 5
_EXAMPLES = 10_000_000
_QUICK = 20_000
_BASE = "this package"
_LIMIT = 2**24


@dataclass
class Case:
    """Samplers that do the same.

    Attributes:
        title: what they do.
        indices: how many each hands out.
        steps: name to what is timed.
        absent: name to the reason why it is not there.
        build_seconds: name to the time the sampler took to make, once.
    """

    title: str
    indices: int
    steps: dict[str, Callable[[], object]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    build_seconds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, build: Callable[[], Any], run: Callable[[Any], object] | None = None) -> None:
        """Make a contender, or note why there is none.

        Args:
            name: what the table calls it.
            build: makes the sampler.
            run: draws an epoch; by default it reads the sampler to its end.
        """
        start = time.perf_counter()
        try:
            sampler = build()
        except (ImportError, RuntimeError) as error:
            self.absent[name] = " ".join(str(error).split())
            return
        self.build_seconds[name] = round(time.perf_counter() - start, 3)
        act = _read if run is None else run
        self.steps[name] = lambda: act(sampler)


def _read(sampler: Any) -> None:
    deque(sampler, maxlen=0)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=_ROUNDS, threads=1, quick="few examples")
    parser.add_argument("--cases", nargs="+", choices=list(_CASES), default=list(_CASES))

    def complete(given: argparse.Namespace) -> bool:
        return given.cases == list(_CASES) and given.threads == 1 and given.rounds >= _ROUNDS

    return parsed(parser, argv, result="sampling.json", complete=complete)


def _labels(examples: int) -> Any:
    import numpy as np

    counts = (examples * 2.0 ** -np.arange(1, _CLASSES + 1)).astype(int)
    counts[0] += examples - counts.sum()
    labels = np.repeat(np.arange(_CLASSES, dtype=np.int64), counts)
    np.random.default_rng(0).shuffle(labels)
    return labels


def _epoch(examples: int) -> Case:
    """As many draws as there are examples, with replacement."""
    import numpy as np
    from torch.utils.data import WeightedRandomSampler

    from lightning_privacy.sampling import BalancedSampler

    labels = _labels(examples)
    weights = (1 / np.bincount(labels))[labels]
    case = Case(f"an epoch of {examples:,} draws with replacement, classes equal", examples)
    case.add(_BASE, lambda: BalancedSampler(labels))
    case.add("this package, by weights", lambda: BalancedSampler(labels, weights=weights))
    case.add("torch WeightedRandomSampler", lambda: WeightedRandomSampler(weights, examples))
    return case


def _large(examples: int) -> Case:
    """More examples than a float32 counts."""
    import numpy as np
    from torch.utils.data import WeightedRandomSampler

    from lightning_privacy.sampling import BalancedSampler

    size = examples if examples == _QUICK else _LIMIT + 1
    labels = _labels(size)
    case = Case(f"{size:,} examples, a million draws with replacement", min(size, 1_000_000))

    def torch_sampler() -> Any:
        sampler = WeightedRandomSampler((1 / np.bincount(labels))[labels], case.indices)
        next(iter(sampler))  # it draws, or refuses to, when it is read
        return sampler

    case.add(_BASE, lambda: BalancedSampler(labels, num_samples=case.indices))
    case.add("torch WeightedRandomSampler", torch_sampler)
    return case


def _batches(examples: int) -> Case:
    """The same number of each class in every batch."""
    from lightning_privacy.sampling import BalancedBatchSampler

    size = min(examples, 1_000_000)
    drawn, per_class = size // 10, 8
    labels = _labels(size)
    case = Case(f"{drawn:,} draws from {size:,} examples in batches with {per_class} of each class", drawn)

    def theirs() -> Any:
        from pytorch_metric_learning.samplers import MPerClassSampler

        return MPerClassSampler(labels, per_class, _CLASSES * per_class, length_before_new_iter=drawn)

    case.add(_BASE, lambda: BalancedBatchSampler(labels, _CLASSES * per_class, num_samples=drawn))
    case.add("MPerClassSampler", theirs)
    return case


def _imbalanced(name: str, labels: Any) -> Any:
    import imblearn.over_sampling
    import imblearn.under_sampling
    import numpy as np

    room = imblearn.over_sampling if "Over" in name else imblearn.under_sampling
    sampler = getattr(room, name)(random_state=0)
    column = np.zeros((len(labels), 1), np.int8)
    return lambda: sampler.fit_resample(column, labels)


def _over(examples: int) -> Case:
    """A fixed set in which all classes are as large as the largest."""
    import numpy as np

    from lightning_privacy.sampling import BalancedSampler

    labels = _labels(min(examples, 1_000_000))
    drawn = int(np.bincount(labels).max()) * _CLASSES
    case = Case(f"over-sampling {len(labels):,} examples to {drawn:,}, from the labels to the indices", drawn)
    case.add(_BASE, lambda: None, lambda _: _read(BalancedSampler(labels, num_samples=drawn)))
    case.add(
        "imblearn RandomOverSampler", lambda: _imbalanced("RandomOverSampler", labels), lambda resample: resample()
    )
    return case


def _under(examples: int) -> Case:
    """A fixed set in which all classes are as small as the smallest."""
    import numpy as np

    from lightning_privacy.sampling import BalancedSampler

    labels = _labels(min(examples, 1_000_000))
    drawn = int(np.bincount(labels).min()) * _CLASSES
    case = Case(f"under-sampling {len(labels):,} examples to {drawn:,}, from the labels to the indices", drawn)
    case.add(_BASE, lambda: None, lambda _: _read(BalancedSampler(labels, replacement=False)))
    case.add(
        "imblearn RandomUnderSampler", lambda: _imbalanced("RandomUnderSampler", labels), lambda resample: resample()
    )
    return case


_CASES = {"epoch": _epoch, "large": _large, "batches": _batches, "over": _over, "under": _under}


def _measure(case: Case, rounds: int, turn: float) -> dict[str, Any]:
    timings = interleave(case.steps, rounds=rounds, turn_seconds=turn)
    contenders: dict[str, Any] = {}
    for name, timing in timings.items():
        contenders[name] = {
            "seconds": round(timing.seconds, 4),
            "best_seconds": round(timing.best_seconds, 4),
            "processor_seconds": round(
                statistics.median(statistics.median(steps) for steps in timing.processor_rounds), 4
            ),
            "millions_per_second": round(case.indices / timing.seconds / 1e6, 3),
            "time_multiple": round(timing.multiple_of(timings[_BASE]), 2),
            "best_time_multiple": round(timing.best_seconds / timings[_BASE].best_seconds, 2),
            "processor_time_multiple": round(timing.processor_multiple_of(timings[_BASE]), 2),
            "build_seconds": case.build_seconds[name],
        }
    return {"title": case.title, "indices": case.indices, "contenders": contenders, "absent": case.absent}


def _versions() -> dict[str, str]:
    found = {}
    for name in _OTHERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(arguments.threads)
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    machine["versions"] |= _versions()
    examples = _QUICK if arguments.quick else _EXAMPLES
    turn = 0.01 if arguments.quick else 1.0
    cases = {name: _measure(_CASES[name](examples), arguments.rounds, turn) for name in arguments.cases}
    return {
        "benchmark": "sampling",
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "time_method": "turns of about a second for each contender, round by round, the starter changing; a round's "
        "time is the median of its epochs, seconds are the median over rounds, multiples the median over rounds of the "
        "ratio to this package in the same round; best: the fastest epoch of all. An epoch is read index by index "
        "into nothing. build_seconds: making the sampler, once, not part of the epoch",
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
        "cases": cases,
    }


def _format(result: dict[str, Any]) -> str:
    lines = []
    for case in result["cases"].values():
        columns = ("seconds", "best", "cpu s", "M/s", "x ours", "cpu x", "build s")
        lines += [case["title"], " " * 32 + "".join(f"{column:>9}" for column in columns)]
        for name, cell in case["contenders"].items():
            lines.append(
                f"{name:32}{cell['seconds']:9.3f}{cell['best_seconds']:9.3f}{cell['processor_seconds']:9.3f}{cell['millions_per_second']:9.2f}"
                f"{cell['time_multiple']:9.2f}{cell['processor_time_multiple']:9.2f}{cell['build_seconds']:9.2f}"
            )
        lines += [f"{name:32}{reason}" for name, reason in case["absent"].items()]
        lines.append("")
    return "\n".join([*lines, machine_line(result["hardware"])])


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
