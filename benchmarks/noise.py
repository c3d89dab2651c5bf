"""Claim: noise from a cipher costs no more than from torch's generator, and a secure release less than Opacus's.

All contenders fill, or add to, one float32 tensor in one process, in turn. The table shows millions of normals a second
and the time as a multiple of this package's plain source.

    python benchmarks/noise.py                             # all of it; writes benchmarks/results/noise.json
    python benchmarks/noise.py --threads 2 --rounds 5      # part of it; writes nothing unless told where
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from _harness import hardware, interleave, machine_line, parsed, parser_of, run_benchmark

_PACKAGES = ("lightning-privacy", "torch", "opacus", "numpy", "cryptography")
_COUNT = 1_863_690  # the parameters of the 784-1024-1024-10 perceptron of dp_step.py
_QUICK_COUNT = 5_000
_ROUNDS = 15
_BASE = "plain"
_DESCRIPTIONS = {
    "plain": "NoiseSource().normal_: AES-256-CTR, Box-Muller",
    "secure": "NoiseSource(secure=True).normal_: the same in float64, rounded once",
    "secure release": "NoiseSource(secure=True).add_: float64 noise added to a sum, rounded to a grid",
    "torch": "Tensor.normal_: Mersenne Twister, not cryptographic",
    "NumPy": "default_rng().standard_normal: PCG64 and ziggurat, not cryptographic",
    "Opacus secure mode": "four draws of torch's generator, their sum halved, added to a sum; as cryptographic as "
    "the generator, which here is torch's own",
}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=_ROUNDS, threads=1, quick="a small tensor")
    return parsed(
        parser,
        argv,
        result="noise.json",
        complete=lambda given: given.threads == 1 and given.rounds >= _ROUNDS,
    )


def _contenders(count: int) -> dict[str, Callable[[], object]]:
    # Not at the top: the libraries read the number of threads from the environment when they are imported.
    import numpy as np
    import torch
    from opacus.optimizers.optimizer import _generate_noise

    from lightning_privacy import NoiseSource

    plain, secure, generator = NoiseSource(), NoiseSource(secure=True), np.random.default_rng()
    tensor, total = torch.empty(count), torch.zeros(count)
    array = tensor.numpy()
    return {
        "plain": lambda: plain.normal_(tensor, std=1.0, step=0),
        "secure": lambda: secure.normal_(tensor, std=1.0, step=0),
        "secure release": lambda: secure.add_(total, std=1.0, step=0),
        "torch": lambda: tensor.normal_(),
        "NumPy": lambda: generator.standard_normal(out=array, dtype=np.float32),
        "Opacus secure mode": lambda: total.add_(_generate_noise(std=1.0, reference=total, secure_mode=True)),
    }


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(arguments.threads)
    count = _QUICK_COUNT if arguments.quick else _COUNT
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    turn = 0.01 if arguments.quick else 0.2
    timings = interleave(_contenders(count), rounds=arguments.rounds, turn_seconds=turn)
    cells = {}
    for name, timing in timings.items():
        cells[name] = {
            "description": _DESCRIPTIONS[name],
            "millions_per_second": round(count / timing.seconds / 1e6, 1),
            "best_millions_per_second": round(count / timing.best_seconds / 1e6, 1),
            "milliseconds": round(timing.seconds * 1e3, 3),
            "time_multiple": round(timing.multiple_of(timings[_BASE]), 3),
            "best_time_multiple": round(timing.best_seconds / timings[_BASE].best_seconds, 3),
            "processor_time_multiple": round(timing.processor_multiple_of(timings[_BASE]), 3),
        }
    return {
        "benchmark": "noise",
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "normals": count,
        "dtype": "float32",
        "time_method": "turns of a fifth of a second for each contender, round by round, the starter changing; a "
        "round's time is the median of its calls, milliseconds are the median over rounds, multiples the median over "
        "rounds of the ratio to the plain source in the same round; best: the fastest call of all",
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
        "contenders": cells,
    }


def _format(result: dict[str, Any]) -> str:
    lines = [f"{'':20}{'M/s':>8}{'best M/s':>10}{'ms':>9}{'x plain':>9}{'best x':>8}{'cpu x':>8}"]
    for name, cell in result["contenders"].items():
        lines.append(
            f"{name:20}{cell['millions_per_second']:8.1f}{cell['best_millions_per_second']:10.1f}"
            f"{cell['milliseconds']:9.2f}{cell['time_multiple']:9.2f}{cell['best_time_multiple']:8.2f}"
            f"{cell['processor_time_multiple']:8.2f}"
        )
    lines.append(f"{result['normals']:,} normals, {machine_line(result['hardware'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
