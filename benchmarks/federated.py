"""Claim: a round under ``FederatedStrategy`` costs what a loop by hand costs, and less than pfl's or Flower's.

A thousand clients of 50 examples of CIFAR10's shape, 50 of them in a round, batches of 10, one local epoch of SGD; a
perceptron of 100k parameters and the CNN of pfl's CIFAR10 benchmark. The contenders take their rounds in turn; the
first of each training is not counted. Limits: 8% over the loop by hand on the perceptron and 3% on the CNN in processor
time; as fast as pfl; five times as fast as Flower's simulation on the perceptron.

    make bench-federated    # some minutes on two quiet cores; writes benchmarks/results/federated.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _harness import hardware, run_benchmark

if TYPE_CHECKING:
    from _federated_turns import Clocks

_RESULT = Path(__file__).parent / "results" / "federated.json"
_PACKAGES = ("lightning-privacy", "torch", "pytorch-lightning")
_RIVALS = ("pfl", "flwr", "ray")
_LIMITS = {"mlp": 1.08, "cnn": 1.03}
_FLOWER_LIMIT = 5.0
_WITH_FLOWER = ("mlp",)  # the network that its limit is about
_ROUNDS = {"mlp": 100, "cnn": 4}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=sorted(_LIMITS), default=["mlp", "cnn"])
    parser.add_argument("--contenders", nargs="+", choices=("ours", "hand", "pfl", "flower"))
    parser.add_argument("--turns", type=int, default=3, help="trainings of each contender")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--output", type=Path, help="result file; a complete run has a place of its own")
    arguments = parser.parse_args(argv)
    if min(arguments.turns, arguments.threads) < 1:
        parser.error(f"--turns and --threads must be >= 1, got {arguments.turns} and {arguments.threads}")
    complete = not arguments.quick and len(arguments.networks) == len(_LIMITS) and arguments.contenders is None
    if arguments.output is None and complete:
        arguments.output = _RESULT
    return arguments


def _setting(network: str, arguments: argparse.Namespace) -> Any:
    from _federated_contenders import Setting

    if arguments.quick:
        return Setting(network, clients=4, examples=4, cohort=2, batch=2, threads=arguments.threads)
    return Setting(network, threads=arguments.threads)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    # Not at the top: torch reads the number of threads from the environment when it is imported.
    import torch
    from _federated_contenders import CONTENDERS
    from _federated_turns import take_turns

    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    chosen = arguments.contenders or list(CONTENDERS)
    present = [name for name in _RIVALS if _installed(name)]
    result: dict[str, Any] = {
        "benchmark": "federated",
        "quick": arguments.quick,
        "turns": arguments.turns,
        "method": (
            "a round of each contender in turn, the first of each training left out; clients per second of the clock "
            "and ratios of medians over all rounds and of the fastest rounds; processor: of this process, so not for "
            "Flower, whose actors are processes of their own and which runs alone"
        ),
        "note": "no accelerator took part",
        "hardware": hardware(threads=arguments.threads, packages=(*_PACKAGES, *present)),
        "networks": {},
    }
    for network in arguments.networks:
        setting = _setting(network, arguments)
        rounds = 2 if arguments.quick else _ROUNDS[network]
        found: dict[str, Clocks] = {name: [] for name in chosen}
        failures: dict[str, str] = {}
        for turn in range(arguments.turns):
            # Flower's actors are processes of their own, which take minutes to start and stop, and slower by far more
            # than turns differ.
            alone = ["flower"] if "flower" in chosen and turn == 0 and network in _WITH_FLOWER else []
            for names in ([name for name in chosen if name != "flower"], alone):
                began = time.perf_counter()
                contenders = {name: partial(CONTENDERS[name], setting, rounds + 1) for name in names}
                clocks, absent = take_turns(contenders)
                for name, each in clocks.items():
                    found[name] += each[1 : rounds + 1]
                failures |= {name: f"{type(error).__name__}: {error}" for name, error in absent.items()}
                if names:
                    took = time.perf_counter() - began
                    print(f"{network} {', '.join(names)}: {took:.0f} s", file=sys.stderr, flush=True)
        result["networks"][network] = _row(network, setting, found, failures)
        _show(network, result["networks"][network])
    return result


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _row(network: str, setting: Any, found: dict[str, Clocks], failures: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "parameters": sum(p.numel() for p in setting.build().parameters()),
        "clients": setting.clients,
        "examples": setting.examples,
        "cohort": setting.cohort,
        "batch": setting.batch,
        "failures": failures,
        "clients_per_second": {},
        "best_clients_per_second": {},
        "ours_over": {},
    }
    clock = {name: [wall for wall, _ in clocks] for name, clocks in found.items() if clocks}
    used = {name: [used for _, used in clocks] for name, clocks in found.items() if clocks}
    for name, walls in clock.items():
        row["clients_per_second"][name] = round(setting.cohort / statistics.median(walls), 2)
        row["best_clients_per_second"][name] = round(setting.cohort / min(walls), 2)
    for name in clock:
        if name == "ours" or "ours" not in clock:
            continue
        ratios = {"clock": statistics.median(clock["ours"]) / statistics.median(clock[name])}
        ratios["best_clock"] = min(clock["ours"]) / min(clock[name])
        if name != "flower":
            ratios["processor"] = statistics.median(used["ours"]) / statistics.median(used[name])
            ratios["best_processor"] = min(used["ours"]) / min(used[name])
        row["ours_over"][name] = {key: round(value, 3) for key, value in ratios.items()}
    over = row["ours_over"]
    row["within_limits"] = {
        **({"hand": over["hand"]["processor"] <= _LIMITS[network]} if "hand" in over else {}),
        **({"pfl": over["pfl"]["processor"] <= 1.0} if "pfl" in over else {}),
        **({"flower": over["flower"]["clock"] * _FLOWER_LIMIT <= 1.0} if "flower" in over and network == "mlp" else {}),
    }
    return row


def _show(network: str, row: dict[str, Any]) -> None:
    print(f"{network}: {row['parameters']} parameters")
    for name, rate in row["clients_per_second"].items():
        print(f"  {name:7} {rate:9.1f} clients a second  ours takes {row['ours_over'].get(name, '')}")
    for name, reason in row["failures"].items():
        print(f"  {name:7} not run: {reason}")
    print(f"  within limits: {row['within_limits']}", flush=True)


def main(argv: list[str]) -> int:
    """Run the benchmark.

    Args:
        argv: the command line without the program's name.
    """
    run_benchmark(_parse(argv), _run)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
