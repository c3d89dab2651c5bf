"""What n devices should give: seconds of a private step and of a federated round from counted work and assumed speeds.

Computation takes what its floating-point operations take at the assumed rate, and at least what it takes to launch its
operators one by one. Sums over the processes are taken within the nodes first and then between them (reduce-scatter,
all-reduce between nodes, all-gather), each as a ring; nothing overlaps, which is how a private step works: its sum can
be sent when the last example has been clipped. One process draws the noise while the others wait. What is left out:
reading data, moving memory, and devices that are not equally fast. So the figures are what the counted work allows and
not what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["SCALINGS", "Machine", "Work", "scaling_table", "unit_seconds"]

SCALINGS = ("weak", "strong")


@dataclass(frozen=True)
class Machine:
    """What is assumed of the devices and of what lies between them. Nothing of it is measured here.

    Args:
        device_flops: peak floating-point operations a second of a device, at the precision that trains.
        utilisation: the share of it that is reached.
        launch_seconds: to launch one operator.
        noise_per_second: normals that one device draws a second.
        node_size: devices of a node.
        link_bytes: bytes a second that a device sends to the others of its node, one way.
        link_latency: seconds until the first byte arrives.
        network_bytes: bytes a second and device between nodes, one way.
        network_latency: seconds until the first byte arrives.

    Raises:
        ValueError: a number that is not positive, or a utilisation above 1.
    """

    device_flops: float = 67e12
    utilisation: float = 0.4
    launch_seconds: float = 5e-6
    noise_per_second: float = 2e10
    node_size: int = 8
    link_bytes: float = 450e9
    link_latency: float = 5e-6
    network_bytes: float = 50e9
    network_latency: float = 15e-6

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{each.name} must be positive and finite, got {value}")
        if self.utilisation > 1:
            raise ValueError(f"utilisation must be at most 1, got {self.utilisation}")

    def compute_seconds(self, flops: float, operators: float) -> float:
        """Return how long a device needs."""
        return max(flops / (self.device_flops * self.utilisation), operators * self.launch_seconds)

    def sum_seconds(self, payload: float, calls: float, devices: int) -> float:
        """Return how long sums over all devices take.

        Args:
            payload: bytes of them together.
            calls: how many there are.
            devices: how many take part.
        """
        inside, nodes = self._shape(devices)
        turns = calls * 2 * ((inside - 1) * self.link_latency + (nodes - 1) * self.network_latency)
        within = 2 * payload * (inside - 1) / inside / self.link_bytes
        between = 2 * payload / inside * (nodes - 1) / nodes / self.network_bytes
        return turns + within + between

    def _shape(self, devices: int) -> tuple[int, int]:
        if devices < 1 or (devices > self.node_size and devices % self.node_size):
            raise ValueError(
                f"devices must be at most node_size={self.node_size} or a multiple of it, got {devices}: a plan of "
                "nodes that are partly used would be of the fullest one"
            )
        return min(devices, self.node_size), max(1, devices // self.node_size)


@dataclass(frozen=True)
class Work:
    """Counted work of one step or round.

    Args:
        unit_flops: operations of one example of a step; of one client of a round.
        operators: launched in a step, however large the batch; in a round for each client.
        units: examples of a step, or clients of a round, on one device.
        payload: bytes that are summed over the processes.
        calls: sums they are in.
        noise: normals that one process draws.
        one_by_one: units are trained one after the other, as clients are.
    """

    unit_flops: float
    operators: float
    units: int
    payload: float
    calls: float
    noise: float = 0.0
    one_by_one: bool = False


def unit_seconds(work: Work, units: int, devices: int, machine: Machine) -> dict[str, float]:
    """Return the parts of one step or round.

    Args:
        work: what was counted.
        units: on the device that has the most.
        devices: how many share the step.
        machine: what is assumed.

    Returns:
        Seconds: ``compute``, ``noise``, ``sum`` and ``all``.
    """
    operators = work.operators * (units if work.one_by_one else 1)
    parts = {
        "compute": machine.compute_seconds(work.unit_flops * units, operators),
        "noise": work.noise / machine.noise_per_second,
        "sum": machine.sum_seconds(work.payload, work.calls, devices) if devices > 1 else 0.0,
    }
    return parts | {"all": sum(parts.values())}


def scaling_table(work: Work, devices: Iterable[int], machine: Machine) -> dict[str, Any]:
    """Return a plan for each number of devices: the batch grows with them (weak) or stays (strong).

    Args:
        work: what was counted.
        devices: how many, in turn.
        machine: what is assumed.

    Returns:
        By scaling and number: milliseconds of the parts, units a second, the multiple of one device's rate, and that
        multiple over the number of devices.
    """
    alone = unit_seconds(work, work.units, 1, machine)["all"]
    table: dict[str, Any] = {name: {} for name in SCALINGS}
    for count in devices:
        for scaling in SCALINGS:
            total = work.units * count if scaling == "weak" else work.units
            seconds = unit_seconds(work, math.ceil(total / count), count, machine)
            speedup = total / seconds["all"] / (work.units / alone)
            table[scaling][str(count)] = {
                "milliseconds": {name: round(value * 1e3, 4) for name, value in seconds.items()},
                "units_per_second": round(total / seconds["all"], 1),
                "times_one_device": round(speedup, 2),
                "efficiency": round(speedup / count, 3),
            }
    return {"work": asdict(work), "one_device_milliseconds": round(alone * 1e3, 4), **table}
