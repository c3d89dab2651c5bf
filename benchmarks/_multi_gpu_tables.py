"""Tables of the scaling that was measured and of the scaling that is planned."""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import Any

from _multi_gpu_plan import SCALINGS, Work, scaling_table

__all__ = ["plan_of", "scaling_of"]


def scaling_of(found: dict[str, Any]) -> dict[str, Any]:
    """Return the efficiency of each number of processes, and what one process and the sums by themselves predict.

    Args:
        found: what was measured, by the number of processes.
    """
    table: dict[str, Any] = {"steps": {}, "rounds": {}}
    alone = found.get("1")
    for count, entry in found.items():
        if alone is None or count == "1":
            continue
        for work, kinds in (("steps", ("plain", "private")), ("rounds", (None,))):
            for network, scalings in entry[work].items():
                first = alone[work].get(network)
                for scaling in SCALINGS if first is not None else ():
                    for kind in kinds:
                        one, many = (
                            each[scaling] if kind is None else each[scaling][kind] for each in (first, scalings)
                        )
                        name = network if kind is None else f"{network}, {kind}"
                        row = table[work].setdefault(name, {}).setdefault(scaling, {})
                        row[count] = _compared(one, many, int(count), entry["sum"])
    return table


def _compared(one: dict[str, Any], many: dict[str, Any], count: int, alone: dict[str, Any]) -> dict[str, Any]:
    share = one["milliseconds"] * many["units"] / one["units"] / count
    calls = sum(each["calls"] for each in many["messages"].values())
    sums = calls * alone["one_number_microseconds"] / 1e3 + many["sent_bytes"] / alone["sent_bytes_per_second"] * 1e3
    return {
        "efficiency": round(many["units_per_second"] / one["units_per_second"] / count, 3),
        "processor_efficiency": round(
            one["processor_milliseconds"] * many["units"] / one["units"] / many["processor_milliseconds"] / count, 3
        ),
        "milliseconds": many["milliseconds"],
        "predicted_milliseconds": round(share + sums, 3),
        "sent_bytes": many["sent_bytes"],
    }


def _messages(found: dict[str, Any], work: str, network: str | None) -> tuple[float, float] | None:
    """Calls and bytes of a step over the largest number of processes; of any network where none is named."""
    for count in reversed(found):
        rows = found[count][work]
        if int(count) > 1 and rows and (network is None or network in rows):
            row = rows[next(iter(rows)) if network is None else network]["weak"]
            messages = (row["private"] if work == "steps" else row)["messages"].values()
            return sum(each["calls"] for each in messages), sum(each["bytes"] for each in messages)
    return None


def plan_of(arguments: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """Return what other numbers of devices should give.

    Args:
        arguments: the command line, with the assumed ``machine``.
        found: what was measured, by the number of processes; the messages are taken from there.
    """
    # Not at the top, for the number of threads.
    import torch
    from _dp_networks import NETWORKS
    from _multi_gpu_counts import count_client_step, count_steps

    torch.set_num_threads(arguments.threads)
    machine = arguments.machine
    plan: dict[str, Any] = {
        "assumed": dataclasses.asdict(machine),
        "note": "computed, not measured: counted operations, operators and bytes with the assumed speeds; floating-"
        f"point operations were counted on {arguments.device}, and the arithmetic chosen elsewhere may differ. Reading "
        "data, moving memory and waiting for slower devices are left out",
        "steps": {},
        "rounds": {},
    }
    if not arguments.plan:
        return plan
    for network in dict.fromkeys([*arguments.networks, *arguments.plan_networks]):
        counts = count_steps(network, quick=arguments.quick, device=arguments.device)
        private, size = counts["private"], counts["parameter_bytes"]
        calls = _messages(found, "steps", network) or (_messages(found, "steps", None) or (1.0, 0.0))
        batch = arguments.batch or NETWORKS[network].sizes(quick=arguments.quick, device="cuda").batch
        work = Work(private["flops"], private["operators"], batch, float(size), calls[0], float(counts["parameters"]))
        plan["steps"][network] = {"counted": counts, **scaling_table(work, arguments.plan, machine)}
    for network in arguments.client_networks:
        counts = count_client_step(network, device=arguments.device)
        steps = math.ceil(arguments.client_examples / arguments.client_batch)
        calls, payload = _messages(found, "rounds", network) or (1.0, 8.0 * counts["parameters"])
        work = Work(
            counts["flops"] * arguments.client_examples,
            counts["operators"] * steps,
            arguments.cohort,
            payload,
            calls,
            one_by_one=True,
        )
        plan["rounds"][network] = {"counted": counts, **scaling_table(work, arguments.plan, machine)}
    return plan
