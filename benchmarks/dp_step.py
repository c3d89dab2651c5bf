"""Claim: a private step costs little more than a plain one, and no more than with the best mode of Opacus.

For each network all contenders run in one process, in turn, on the same weights and the same batch. The table shows
time and peak memory of a whole training step (forward, loss, backward, clip, noise, SGD step, zero_grad) as
multiples of the plain step, and the relative error of the clipped sum against Opacus hooks, in float32 and without
noise.

    python benchmarks/dp_step.py                              # all of it; writes benchmarks/results/dp_step.json
    python benchmarks/dp_step.py --networks mlp --rounds 3    # part of it; writes nothing unless told where
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import Any

from _harness import hardware, run_benchmark

_NETWORKS = ("mlp", "mnist_cnn", "cifar_cnn", "resnet18", "transformer", "vit_s", "gpt2")
_PACKAGES = ("lightning-privacy", "torch", "torchvision", "opacus", "transformers", "numpy", "cryptography")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=_NETWORKS, default=list(_NETWORKS))
    parser.add_argument("--contenders", nargs="+", help="parts of their names; the plain step always runs")
    parser.add_argument("--no-views", dest="views", action="store_false", help="leave several views of an example out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--output", type=Path, help="result file; a complete run has a place of its own")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error(f"--rounds and --threads must be >= 1, got {arguments.rounds} and {arguments.threads}")
    everything = not arguments.quick and not arguments.contenders and arguments.views
    complete = everything and set(arguments.networks) == set(_NETWORKS)
    if arguments.output is None and complete:
        suffix = "" if arguments.device == "cpu" else f"_{arguments.device}"
        arguments.output = Path(__file__).parent / "results" / f"dp_step{suffix}.json"
    return arguments


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    # Not at the top: torch reads the number of threads from the environment when it is imported.
    import _dp_measure as measuring
    import _dp_views as several
    import torch

    if arguments.device == "cpu":
        measuring.start_fork_server()
    elif not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA device")
    measuring.quiet()
    torch.set_num_threads(arguments.threads)
    wanted = arguments.contenders
    contenders = [n for n in measuring.CONTENDERS if n == "plain" or not wanted or any(part in n for part in wanted)]
    accelerator = torch.cuda.get_device_name() if arguments.device == "cuda" else None
    result: dict[str, Any] = {
        "benchmark": "dp_step",
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "noise_multiplier": 1.0,
        "max_grad_norm": 1.0,
        "dtype": "float32",
        "time_method": measuring.TIME_METHOD,
        "memory_method": measuring.MEMORY_METHOD[arguments.device],
        "hardware": hardware(threads=arguments.threads, packages=_PACKAGES, device=accelerator),
        "networks": {},
        "views": {},
    }
    if accelerator is None:
        result["note"] = "no accelerator took part: rows, limits and batch sizes are those of the CPU"
    for network in arguments.networks:
        result["networks"][network] = measuring.measure(network, contenders, arguments)
        print(measuring.format_row(network, result["networks"][network]), end="\n\n", flush=True)
        gc.collect()
    for network in several.VIEWS_NETWORKS[arguments.device] if arguments.views else ():
        if network in arguments.networks:
            result["views"][network] = several.measure_views(network, arguments)
            print(several.format_views(network, result["views"][network]), end="\n\n", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run))
