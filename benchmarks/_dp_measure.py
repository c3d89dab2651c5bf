"""One row of the step benchmark: who can run the network, how exactly, how fast, in how much memory."""

from __future__ import annotations

import argparse
import copy
import gc
import multiprocessing
import multiprocessing.forkserver
import warnings
from typing import Any

import torch
from _dp_contenders import CONTENDERS, OPACUS, OURS, REFERENCE, Contender
from _dp_networks import NETWORKS
from _harness import interleave, mapped_allocations, peak_resident_bytes
from torch import Tensor, nn

__all__ = [
    "MEMORY_METHOD",
    "TIME_METHOD",
    "format_row",
    "measure",
    "memory_cpu",
    "memory_cuda",
    "quiet",
    "setting_of",
    "start_fork_server",
]

_SEED = 20260701
_MEMORY_STEPS = 2
_PRELOADED = ("opacus", "torchvision.models.resnet", "transformers.models.gpt2", "lightning_privacy.gradients.engine")
_TURN_SECONDS = 0.5
_ENOUGH_SECONDS = 45.0
# Multiples of the plain step that this package must stay under.
MEMORY_LIMIT = {"cpu": 1.3, "cuda": 1.15}
DEVICE_LIMIT = 1.2
MEMORY_METHOD = {
    "cpu": (
        "each contender in a process of its own, forked from a server that has imported everything and started no "
        "thread; after a step of two examples on a copy (so that code is in memory) the peak of resident memory "
        "(VmHWM, reset through /proc/self/clear_refs) over setting up and two steps, minus resident memory with only "
        "weights and batch; MALLOC_MMAP_THRESHOLD_=65536, so that freed blocks go back to the system. Weights and "
        "batch are not counted; gradients, buffers, saved activations and scratch memory are."
    ),
    "cuda": (
        "torch.cuda.max_memory_allocated over setting up and two steps, minus memory allocated with only weights and "
        "batch, in the process that also takes the times, before it does"
    ),
}
TIME_METHOD = (
    "turns of about half a second for each contender, round by round (three where they are long), the starter "
    "changing; a round's time is the median of its steps, milliseconds are the median over rounds, multiples the "
    "median over rounds of the ratio to the plain step of the same round; best: the fastest step of all; processor "
    "time: all threads of the process"
)


def quiet() -> None:
    """Hide warnings that say nothing about the measurement."""
    # Opacus warns about hooks on inputs without gradients and about its own noise generator.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    warnings.filterwarnings("ignore", message="Secure RNG turned off")


def setting_of(network: str, quick: bool, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network of the table, inputs and targets, the same in every call."""
    torch.manual_seed(_SEED)
    row = NETWORKS[network]
    sizes = row.sizes(quick=quick, device=device)
    inputs, targets = row.data(sizes)
    return row.build(sizes).to(device), inputs.to(device), targets.to(device)


def _contender(
    name: str, setting: tuple[nn.Module, Tensor, Tensor], *, noise_multiplier: float = 1.0, **views: int
) -> Contender:
    network, inputs, targets = setting
    return CONTENDERS[name](copy.deepcopy(network), inputs, targets, noise_multiplier=noise_multiplier, **views)


def _memory_in_child(name: str, network: str, quick: bool, threads: int, views: dict[str, int], answer: Any) -> None:
    quiet()
    torch.set_num_threads(threads)
    model, inputs, targets = setting_of(network, quick, "cpu")
    rows = views.get("rows", len(inputs))
    setting = (model, inputs[:rows].clone(), targets[:rows].clone())
    del inputs, targets
    several = {"views": views["views"]} if name == OURS and "views" in views else {}
    few = 2 * several.get("views", 1)
    CONTENDERS[name](copy.deepcopy(model), setting[1][:few], setting[2][:few], noise_multiplier=1.0, **several).step()

    def run() -> None:
        contender = CONTENDERS[name](*setting, noise_multiplier=1.0, **several)
        for _ in range(_MEMORY_STEPS):
            contender.step()

    answer.send(peak_resident_bytes(run))


def memory_cpu(name: str, network: str, quick: bool, threads: int, **views: int) -> int | None:
    """Return the peak memory of a contender's steps, in a process of its own; None where that process died.

    Args:
        name: the contender.
        network: the network.
        quick: tiny sizes.
        threads: of torch.
        **views: ``rows`` of the batch to take and, for this package, ``views`` of each example in them.
    """
    context = multiprocessing.get_context("forkserver")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_memory_in_child, args=(name, network, quick, threads, views, send))
    child.start()
    send.close()
    try:
        return int(receive.recv())
    except EOFError:
        return None  # the child died, for example of too little memory; its message is on stderr
    finally:
        child.join()


def memory_cuda(name: str, setting: tuple[nn.Module, Tensor, Tensor], **views: int) -> int:
    """Return the peak memory of a contender's steps on the present device; ``views`` as its constructor takes it."""
    _contender(name, setting, **views).step()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() + sum(p.numel() * p.element_size() for p in setting[0].parameters())
    contender = _contender(name, setting, **views)
    for _ in range(_MEMORY_STEPS):
        contender.step()
    return max(0, int(torch.cuda.max_memory_allocated() - before))


def start_fork_server() -> None:
    """Start the process that the memory measurements are forked from, before this one has threads."""
    # Installed packages only: the server doesn't look for modules beside the script (and says nothing).
    multiprocessing.set_forkserver_preload(list(_PRELOADED))
    with mapped_allocations():
        multiprocessing.forkserver.ensure_running()


def _prepare(names: list[str], setting: Any) -> tuple[dict[str, Contender], dict[str, float], dict[str, str]]:
    """Return the contenders that can run this network, their error against the reference, and why others can't."""
    sums: dict[str, Tensor] = {}
    ready: dict[str, Contender] = {}
    reasons: dict[str, str] = {}
    for name in dict.fromkeys([*names, REFERENCE]):
        try:
            if name in OPACUS or name.startswith(OURS):
                sums[name] = _contender(name, setting, noise_multiplier=0.0).clipped_sum()
            if name in names:
                ready[name] = _contender(name, setting)
                ready[name].step()
        except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
            ready.pop(name, None)
            reasons[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    errors: dict[str, float] = {}
    if REFERENCE in sums:
        reference = sums[REFERENCE].double()
        errors = {name: float((s.double() - reference).norm() / reference.norm()) for name, s in sums.items()}
    return ready, errors, reasons


def measure(network: str, names: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return one network's part of the result file.

    Args:
        network: a name of ``NETWORKS``.
        names: the contenders, ``"plain"`` among them.
        arguments: the command line.
    """
    description = NETWORKS[network]
    if description.only_on_device is not None and arguments.device == "cpu" and not arguments.quick:
        return {"description": description.description, "not_run": description.only_on_device}
    setting = setting_of(network, arguments.quick, arguments.device)
    ready, errors, reasons = _prepare(names, setting)
    memory: dict[str, int | None] = {}
    for name in ready:
        if arguments.device == "cuda":
            memory[name] = memory_cuda(name, setting)
        else:
            memory[name] = memory_cpu(name, network, arguments.quick, arguments.threads)
    synchronize = torch.cuda.synchronize if arguments.device == "cuda" else lambda: None
    timings = interleave(
        {name: contender.step for name, contender in ready.items()},
        rounds=arguments.rounds,
        turn_seconds=0.0 if arguments.quick else _TURN_SECONDS,
        enough_seconds=_ENOUGH_SECONDS,
        synchronize=synchronize,
    )
    row: dict[str, Any] = {}
    plain_memory = memory.get("plain")
    for name in names:
        if name not in ready:
            row[name] = {"cannot_run": reasons[name]}
            continue
        used = memory[name]
        row[name] = {
            "milliseconds": round(timings[name].seconds * 1e3, 3),
            "best_milliseconds": round(timings[name].best_seconds * 1e3, 3),
            "time_multiple": round(timings[name].multiple_of(timings["plain"]), 3),
            "best_time_multiple": round(timings[name].best_seconds / timings["plain"].best_seconds, 3),
            "processor_time_multiple": round(timings[name].processor_multiple_of(timings["plain"]), 3),
            "peak_mib": None if used is None else round(used / 2**20, 1),
            "memory_multiple": None if not used or not plain_memory else round(used / plain_memory, 2),
            "relative_error": errors.get(name),
        }
    return {
        "description": description.description,
        "batch": len(setting[1]),
        "contenders": row,
        "claims": _claims(row, arguments.device, description.limit),
    }


def _claims(row: dict[str, Any], device: str, limit: float | None) -> dict[str, Any]:
    """Compare this package's whole step, noise and all, with its limits and with the best mode of Opacus."""
    cell = row.get(OURS, {})
    ours = cell.get("time_multiple")
    claims: dict[str, Any] = {}
    if ours is None:
        return claims
    time_limit = limit if device == "cpu" else DEVICE_LIMIT
    if time_limit is not None:
        claims["time_multiple_limit"] = time_limit
        claims["within_limit"] = ours <= time_limit
    if cell["memory_multiple"] is not None:
        claims["memory_multiple_limit"] = MEMORY_LIMIT[device]
        claims["within_memory_limit"] = cell["memory_multiple"] <= MEMORY_LIMIT[device]
    times = {n: row[n]["time_multiple"] for n in OPACUS if "time_multiple" in row.get(n, {})}
    if times:
        best = min(times, key=lambda name: times[name])
        claims["best_opacus"] = best
        claims["faster_than_best_opacus"] = round(times[best] / ours, 2)
        claims["not_slower_than_best_opacus"] = ours <= times[best]
    return claims


def format_row(network: str, result: dict[str, Any]) -> str:
    """Return what :func:`measure` found, as text."""
    if "not_run" in result:
        return f"{network}: {result['description']}\n  not run: {result['not_run']}"
    lines = [f"{network}: {result['description']}; batch {result['batch']}"]
    lines.append(
        f"  {'':31}{'ms':>10}{'x plain':>9}{'best x':>8}{'cpu x':>8}{'MiB':>9}{'x plain':>9}  rel. error of clipped sum"
    )
    for name, cell in result["contenders"].items():
        if "cannot_run" in cell:
            lines.append(f"  {name:31}  cannot run: {cell['cannot_run'][:90]}")
            continue
        mib = "?" if cell["peak_mib"] is None else f"{cell['peak_mib']:.0f}"
        multiple = "?" if cell["memory_multiple"] is None else f"{cell['memory_multiple']:.2f}"
        error = "" if cell["relative_error"] is None else f"{cell['relative_error']:.1e}"
        times = f"{cell['milliseconds']:10.1f}{cell['time_multiple']:9.2f}{cell['best_time_multiple']:8.2f}"
        times += f"{cell['processor_time_multiple']:8.2f}"
        lines.append(f"  {name:31}{times}{mib:>9}{multiple:>9}  {error}")
    claims = result["claims"]
    if "within_limit" in claims:
        lines.append(f"  at most {claims['time_multiple_limit']} x plain: {'yes' if claims['within_limit'] else 'NO'}")
    if "best_opacus" in claims:
        answer = "yes" if claims["not_slower_than_best_opacus"] else "NO"
        times = claims["faster_than_best_opacus"]
        lines.append(f"  not slower than {claims['best_opacus']}, the best of Opacus: {answer}, {times} times as fast")
    if "within_memory_limit" in claims:
        answer = "yes" if claims["within_memory_limit"] else "NO"
        lines.append(f"  memory at most {claims['memory_multiple_limit']} x plain: {answer}")
    return "\n".join(lines)
