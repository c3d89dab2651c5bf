"""One of the processes that train together: where it is, its trainer, and how long sums over all of them take."""

from __future__ import annotations

import logging
import os
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from _multi_gpu_traffic import sent_bytes

__all__ = ["Place", "sum_seconds"]

_LARGE = 2**24


@dataclass(frozen=True)
class Place:
    """Where this process is.

    Args:
        processes: how many train together.
        rank: which of them this is.
        local_processes: how many of them are on this machine.
        device: ``"cpu"`` or ``"cuda"``.
    """

    processes: int
    rank: int
    local_processes: int
    device: str

    @classmethod
    def of_environment(cls, device: str) -> Place:
        """Read what torchrun says."""
        given = (int(os.environ[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"))
        return cls(*given, device)

    def own_device(self) -> torch.device:
        """The device of this process."""
        return (
            torch.device(self.device, int(os.environ["LOCAL_RANK"])) if self.device == "cuda" else torch.device("cpu")
        )

    def wait(self) -> None:
        """Wait until the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def trainer(self, strategy: Any, callbacks: Sequence[pl.Callback], folder: str) -> pl.Trainer:
        """Return a trainer over all processes."""
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning_privacy")
        return pl.Trainer(
            max_epochs=1,
            accelerator=self.device,
            devices=self.local_processes,
            num_nodes=self.processes // self.local_processes,
            strategy=strategy,
            callbacks=list(callbacks),
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def sum_seconds(place: Place, *, rounds: int, quick: bool) -> dict[str, Any]:
    """Return how long a sum over all processes takes by itself: of one number, and of many.

    Args:
        place: where.
        rounds: sums of each size.
        quick: the large one is small too.
    """
    found: dict[str, float] = {}
    numbers = {"one number": 1, "many numbers": _LARGE // 256 if quick else _LARGE}
    for name, count in numbers.items():
        tensor = torch.zeros(count, device=place.own_device())
        times = []
        for _ in range(rounds + 1):
            dist.barrier()
            place.wait()
            start = time.perf_counter()
            dist.all_reduce(tensor)
            place.wait()
            times.append(time.perf_counter() - start)
        found[name] = statistics.median(times[1:])
    payload = numbers["many numbers"] * 4
    return {
        "one_number_microseconds": round(found["one number"] * 1e6, 1),
        "bytes": payload,
        "milliseconds": round(found["many numbers"] * 1e3, 3),
        "sent_bytes_per_second": round(sent_bytes("all_reduce", payload, place.processes) / found["many numbers"]),
    }
