"""Claim: in ``trainer.fit`` privacy costs what the private step costs: its ratio, and at most 0.1 more.

Each network is trained by Lightning with and without ``DifferentialPrivacy``, the loader, the loop and the callback
included, and stepped bare in the same process, with and without privacy. All on the same data, a batch of 256 images,
for the steps of an epoch of MNIST; fewer for the network whose steps are long. The ledger measures epsilon exactly at
steps that lie further and further apart, about half a second in an epoch, which in a few steps would be most of it.
Poisson sampling draws batches that are sometimes larger than the loader's by more than an eighth: these are split in
two, which a bare step on a fixed batch is spared.

    python benchmarks/fit.py    # writes benchmarks/results/fit.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from typing import Any

from _harness import hardware, interleave, parsed, parser_of, run_benchmark

_PACKAGES = ("lightning-privacy", "torch", "pytorch-lightning", "dp-accounting", "cryptography")
_STEPS = {"mlp": 235, "mnist_cnn": 235, "cifar_cnn": 60}
_NETWORKS = tuple(_STEPS)
_ALLOWANCE = 0.1


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=3, threads=2, quick="tiny sizes")
    parser.add_argument("--networks", nargs="+", choices=_NETWORKS, default=list(_NETWORKS))
    parser.add_argument("--steps", type=int, help="steps of a fit whose time is taken; those of an epoch by default")
    found = parsed(parser, argv, result="fit.json", complete=lambda given: set(given.networks) == set(_NETWORKS))
    if found.steps is not None and found.steps < 1:
        parser.error(f"--steps must be >= 1, got {found.steps}")
    return found


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    # Not at the top: torch reads the number of threads from the environment when it is imported.
    import _fit_contenders as fitting
    import torch

    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_privacy")
    result: dict[str, Any] = {
        "benchmark": "fit",
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "steps": {network: arguments.steps or _STEPS[network] for network in arguments.networks},
        "noise_multiplier": 1.0,
        "method": (
            "fits with and without privacy in turn; seconds from the end of the fifth step to the end of the epoch, "
            "over the steps between; multiples are of medians over fits. Bare: the step of dp_step.py. Processor: all "
            "threads of the process"
        ),
        "note": "no accelerator took part",
        "hardware": hardware(threads=arguments.threads, packages=_PACKAGES),
        "networks": {},
    }
    for network in arguments.networks:
        steps = fitting.bare_steps(network, quick=arguments.quick)
        bare = interleave(steps, rounds=arguments.rounds, turn_seconds=0.0 if arguments.quick else 0.5)
        fits: dict[str, list[tuple[float, float]]] = {"plain": [], "private": []}
        for _ in range(arguments.rounds):
            for name, found in fits.items():
                private = name == "private"
                timed = result["steps"][network]
                found.append(fitting.seconds_per_step(network, private=private, steps=timed, quick=arguments.quick))
        row = _row(bare, fits)
        result["networks"][network] = row
        print(
            f"{network:10} fit {row['fit_milliseconds']['plain']:.1f} -> {row['fit_milliseconds']['private']:.1f} ms a "
            f"step: {row['fit_multiple']:.2f} x plain (processor {row['fit_processor_multiple']:.2f}); bare step "
            f"{row['step_multiple']:.2f} x (processor {row['step_processor_multiple']:.2f}); "
            f"at most {_ALLOWANCE} more: {'yes' if row['within_limit'] else 'NO'}",
            flush=True,
        )
    return result


def _row(bare: dict[str, Any], fits: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    clock = {name: statistics.median(wall for wall, _ in found) for name, found in fits.items()}
    processor = {name: statistics.median(used for _, used in found) for name, found in fits.items()}
    fit, step = clock["private"] / clock["plain"], bare["private"].multiple_of(bare["plain"])
    return {
        "fit_milliseconds": {name: round(seconds * 1e3, 3) for name, seconds in clock.items()},
        "step_milliseconds": {name: round(timing.seconds * 1e3, 3) for name, timing in bare.items()},
        "fit_multiple": round(fit, 3),
        "fit_processor_multiple": round(processor["private"] / processor["plain"], 3),
        "step_multiple": round(step, 3),
        "step_processor_multiple": round(bare["private"].processor_multiple_of(bare["plain"]), 3),
        "allowance": _ALLOWANCE,
        "within_limit": fit <= step + _ALLOWANCE,
    }


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run))
