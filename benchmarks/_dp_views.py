"""What several augmented views of an example cost: K views against one, for as many examples.

The gradients of the views are averaged before they are clipped, so only what every network needs for more rows
grows with K: activations, not gradients.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from _dp_contenders import CONTENDERS, OURS
from _dp_measure import memory_cpu, memory_cuda, setting_of
from _harness import interleave

__all__ = ["VIEWS_NETWORKS", "format_views", "measure_views"]

_VIEWS = 8
_LIMIT = 8.5
VIEWS_NETWORKS = {"cpu": ("mnist_cnn", "cifar_cnn"), "cuda": ("resnet18",)}
"""By kind of device; the batch of the table becomes an eighth as many examples with eight views each."""


def measure_views(network: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return time and memory of steps with one view of each example, and with several.

    Args:
        network: a name of the table.
        arguments: the command line.
    """
    views = 2 if arguments.quick else _VIEWS
    model, inputs, targets = setting_of(network, arguments.quick, arguments.device)
    rows = len(inputs)
    examples = rows // views
    settings = {1: (model, inputs[:examples], targets[:examples]), views: (model, inputs, targets)}
    memory: dict[tuple[str, int], int | None] = {}
    for name in ("plain", OURS):
        for each, setting in settings.items():
            several = {"views": each} if name == OURS else {}
            if arguments.device == "cpu":
                several["rows"] = examples * each
                found = memory_cpu(name, network, arguments.quick, arguments.threads, **several)
            else:
                found = memory_cuda(name, setting, **several)
            memory[name, each] = found
    ours = {
        str(each): CONTENDERS[OURS](copy.deepcopy(setting[0]), *setting[1:], noise_multiplier=1.0, views=each)
        for each, setting in settings.items()
    }
    timings = interleave(
        {name: contender.step for name, contender in ours.items()},
        rounds=arguments.rounds,
        turn_seconds=0.0 if arguments.quick else 0.5,
        synchronize=torch.cuda.synchronize if arguments.device == "cuda" else lambda: None,
    )
    multiple = timings[str(views)].multiple_of(timings["1"])
    return {
        "examples": examples,
        "views": views,
        "milliseconds": {name: round(timing.seconds * 1e3, 3) for name, timing in timings.items()},
        "time_multiple": round(multiple, 3),
        "processor_time_multiple": round(timings[str(views)].processor_multiple_of(timings["1"]), 3),
        "time_multiple_limit": _LIMIT,
        "within_limit": multiple <= _LIMIT,
        "peak_mib": {
            f"{name}, {each} views": None if used is None else round(used / 2**20, 1)
            for (name, each), used in memory.items()
        },
    }


def format_views(network: str, result: dict[str, Any]) -> str:
    """Return what :func:`measure_views` found, as text."""
    peaks = ", ".join(f"{name}: {used}" for name, used in result["peak_mib"].items())
    return (
        f"{network}, {result['examples']} examples with {result['views']} views: {result['time_multiple']:.2f} times a "
        f"step of one view (at most {result['time_multiple_limit']}: {'yes' if result['within_limit'] else 'NO'})\n"
        f"  peak MiB: {peaks}"
    )
