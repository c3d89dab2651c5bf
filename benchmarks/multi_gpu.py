"""Claim: a private step and a federated round share out over devices; one sum a step, as large as the model.

Fits of Lightning in 1, 2, ... processes with one device each: steps without and with privacy, and rounds of federated
averaging. Weak scaling gives every process a batch (a cohort) of its own, strong scaling shares one out. Every message
between processes is counted. Then a plan: what 8 and 64 devices should give, from counted operations and bytes and from
speeds that are assumed and can be set.

    python benchmarks/multi_gpu.py --device cuda                  # 1, 2, 4, ... devices of this machine
    python benchmarks/multi_gpu.py --processes 1 2                # on the CPU; writes benchmarks/results/multi_gpu.json
    torchrun --nnodes 2 --nproc-per-node 8 ... benchmarks/multi_gpu.py --device cuda --output 16.json
    python benchmarks/multi_gpu.py --device cuda --join 16.json   # and what was measured over several machines
    python benchmarks/multi_gpu.py --processes --plan 8 64 512 --device-flops 989e12 --utilisation 0.3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _harness import hardware, machine_line, parsed, parser_of, pin_threads, run_benchmark, write_result
from _multi_gpu_plan import SCALINGS, Machine
from _multi_gpu_tables import plan_of, scaling_of

_PACKAGES = ("lightning-privacy", "torch", "pytorch-lightning", "dp-accounting", "cryptography")
_NETWORKS = {"cpu": ("mlp", "mnist_cnn"), "cuda": ("resnet18", "vit_s", "gpt2")}
_CLIENT_NETWORKS = ("mlp", "cnn")
_PLANNED = ("resnet18", "vit_s", "gpt2")
_FORWARDED = ("steps", "warm", "rounds", "cohort", "client_examples", "client_batch", "batch", "threads", "device")
_NOTES = {
    "cpu": "no GPU was at hand: the processes are gloo's on the cores of one machine, which share its memory, its "
    "caches and their links. That shows that the kit works and what is sent; how GPUs scale it does not show",
    "cuda": "one process for each GPU, NCCL",
}


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=3, threads=1, quick="tiny sizes")
    parser.add_argument("--device", choices=sorted(_NETWORKS), default="cpu")
    parser.add_argument("--processes", type=int, nargs="*", help="how many, in turn; none: only plan")
    parser.add_argument("--networks", nargs="*", help="of steps, as in dp_step.py")
    parser.add_argument("--client-networks", nargs="*", choices=_CLIENT_NETWORKS, default=list(_CLIENT_NETWORKS))
    parser.add_argument("--steps", type=int, default=40, help="steps of a fit whose time is taken; rounds: a tenth")
    parser.add_argument("--warm", type=int, default=5, help="steps before them; rounds: one")
    parser.add_argument("--batch", type=int, help="examples of a step on one process; each network's own by default")
    parser.add_argument("--cohort", type=int, default=16, help="clients of a round on one process")
    parser.add_argument("--client-examples", type=int, default=50)
    parser.add_argument("--client-batch", type=int, default=10)
    parser.add_argument("--join", type=Path, nargs="*", default=[], help="results of torchrun, by process count")
    parser.add_argument("--plan", type=int, nargs="*", default=[8, 64], help="numbers of devices to plan for")
    parser.add_argument("--plan-networks", nargs="*", help="beside those that are measured", default=list(_PLANNED))
    for field in dataclasses.fields(Machine):
        option, kind = "--" + field.name.replace("_", "-"), int if field.name == "node_size" else float
        parser.add_argument(option, type=kind, default=field.default, help="assumed by the plan")
    arguments = parsed(
        parser,
        argv,
        result="multi_gpu.json",
        complete=lambda given: given.processes is None or len(given.processes) > 1,
        numbers=("rounds", "threads", "steps", "warm", "cohort", "client_examples", "client_batch"),
    )
    if arguments.networks is None:
        arguments.networks = list(_NETWORKS[arguments.device])
    try:
        arguments.machine = Machine(
            **{each.name: getattr(arguments, each.name) for each in dataclasses.fields(Machine)}
        )
        for count in arguments.plan:
            arguments.machine.sum_seconds(1.0, 1.0, count)
    except ValueError as error:
        parser.error(str(error))
    if any(count < 1 for count in arguments.processes or ()) or (arguments.batch is not None and arguments.batch < 1):
        parser.error("--processes and --batch must be >= 1")
    if arguments.device == "cuda" and arguments.output is not None and arguments.output.name == "multi_gpu.json":
        arguments.output = arguments.output.with_name("multi_gpu_cuda.json")
    return arguments


def _known(networks: Sequence[str]) -> list[str]:
    from _dp_networks import NETWORKS

    unknown = sorted(set(networks) - NETWORKS.keys())
    if unknown:
        raise SystemExit(f"multi_gpu.py: there is no network {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    return list(networks)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure as one of the processes that torchrun has started.

    Args:
        arguments: the command line.

    Returns:
        What this process saw.
    """
    # Not at the top: torch reads the number of threads from the environment when it is imported.
    import torch
    import torch.distributed as dist
    from _multi_gpu_fits import FederatedFits, StepFits
    from _multi_gpu_place import Place, sum_seconds

    torch.set_num_threads(arguments.threads)
    place = Place.of_environment(arguments.device)
    device = place.own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        machine = hardware(
            threads=arguments.threads,
            packages=_PACKAGES,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        )
        common = {"place": place, "rounds": arguments.rounds}
        tenth = max(1, arguments.steps // 10)
        steps = StepFits(
            **common, steps=arguments.steps, warm=arguments.warm, batch=arguments.batch, quick=arguments.quick
        )
        clients = FederatedFits(
            **common,
            steps=tenth,
            warm=1,
            cohort=arguments.cohort,
            examples=arguments.client_examples,
            batch=arguments.client_batch,
        )
        return {
            "processes": place.processes,
            "machines": place.processes // place.local_processes,
            "backend": dist.get_backend(),
            "hardware": machine,
            "sum": sum_seconds(place, rounds=5, quick=arguments.quick) if place.processes > 1 else None,
            "steps": {name: _both(steps, name) for name in _known(arguments.networks)},
            "rounds": {name: _both(clients, name) for name in arguments.client_networks},
        }
    finally:
        dist.destroy_process_group()


def _both(fits: Any, network: str) -> dict[str, Any]:
    weak = fits.run(network, scaling="weak")
    return {"weak": weak, "strong": weak if fits.place.processes == 1 else fits.run(network, scaling="strong")}


def _launch(arguments: argparse.Namespace, processes: int, folder: Path) -> dict[str, Any]:
    """Start so many processes of this file and return what the first one saw."""
    output = folder / f"{processes}.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [__file__, "--output", str(output), *(["--quick"] if arguments.quick else [])]
    for name in _FORWARDED:
        value = getattr(arguments, name)
        if value is not None:
            command += ["--" + name.replace("_", "-"), str(value)]
    command += ["--networks", *arguments.networks, "--client-networks", *arguments.client_networks]
    print(f"{processes} process(es)", file=sys.stderr, flush=True)
    subprocess.run(command, check=True)
    return json.loads(output.read_text())


def _counts(arguments: argparse.Namespace) -> list[int]:
    if arguments.processes is not None:
        return list(dict.fromkeys(arguments.processes))
    if arguments.device == "cpu":
        return [1, 2]
    import torch

    present = torch.cuda.device_count()
    return [2**power for power in range(present.bit_length()) if 2**power <= present]


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    _known([*arguments.networks, *arguments.plan_networks])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in _counts(arguments):
            found[str(count)] = _launch(arguments, count, Path(folder))
    for path in arguments.join:
        joined = json.loads(path.read_text())
        found[str(joined["processes"])] = joined
    found = dict(sorted(found.items(), key=lambda item: int(item[0])))
    return {
        "benchmark": "multi_gpu",
        "quick": arguments.quick,
        "device": arguments.device,
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "method": (
            "fits of Lightning; milliseconds of a step (a round) after the first ones, as the first process sees it, "
            "which waits for all and for the device at every step: median over fits of the median step; mean: with "
            "the steps at which the ledger computes epsilon exactly, which get rarer in a long run; processor: of "
            "the first process, all threads; units: examples of a step, clients of a round, over all processes; "
            "messages: collective calls of one process in a step, with the bytes it gives; sent_bytes: what a ring "
            "makes a process send for them; efficiency: units a second over processes times those of one process; "
            "processor_efficiency: the same in processor time, which hardly depends on what else runs and has no "
            "part of waiting; predicted: the time of one process's share and what the sums of that many bytes take "
            "by themselves"
        ),
        "note": _NOTES[arguments.device],
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
        "measured": found,
        "scaling": scaling_of(found),
        "plan": plan_of(arguments, found),
    }


def _text(result: dict[str, Any]) -> str:
    lines = []
    for work, rows in result["scaling"].items():
        for name, scalings in rows.items():
            for scaling, counts in scalings.items():
                for count, row in counts.items():
                    lines.append(
                        f"{work:7}{name:22}{scaling:7}{count:>4} processes {row['milliseconds']:9.1f} ms "
                        f"(predicted {row['predicted_milliseconds']:.1f}), efficiency {row['efficiency']:.2f} "
                        f"(processor {row['processor_efficiency']:.2f}), "
                        f"{row['sent_bytes'] / 1e6:.2f} MB sent by each"
                    )
    for work in ("steps", "rounds"):
        for name, row in result["plan"][work].items():
            for scaling in SCALINGS:
                shown = ", ".join(
                    f"{count}: {cell['times_one_device']:.1f} x ({cell['efficiency']:.2f})"
                    for count, cell in row[scaling].items()
                )
                lines.append(f"plan   {work:7}{name:15}{scaling:7} devices {shown}")
    lines += [f"{result['note']}; the plan is computed, not measured", machine_line(result["hardware"])]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark: all of it, or as one of the processes that torchrun has started.

    Args:
        argv: the command line without the program's name.

    Returns:
        The exit status.
    """
    arguments = _parse(argv)
    if "LOCAL_RANK" not in os.environ:
        return run_benchmark(arguments, _run, _text)
    pin_threads(arguments.threads)
    found = measure(arguments)
    if os.environ["RANK"] == "0":
        if arguments.output is None:
            print(json.dumps(found, indent=1))
        else:
            write_result(arguments.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
