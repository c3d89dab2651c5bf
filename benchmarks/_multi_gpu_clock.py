"""Seconds and messages of the steps of a fit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
from _multi_gpu_traffic import Traffic, sent_bytes
from torch.utils.data import DataLoader

__all__ = ["Clock", "figures"]

# Its calls are not seen: the bytes are those of the parameters, the calls at least one.
_REDUCER = "all_reduce of gradients by DistributedDataParallel"


class Clock(pl.Callback):
    """Seconds and messages of the steps after the first ones; the device is waited for at the end of each."""

    def __init__(self, warm: int, wait: Callable[[], None]) -> None:
        self.warm, self.wait = warm, wait
        self.traffic = Traffic()
        self.ends: list[float] = []
        self.processor_ends: list[float] = []
        self.parameter_bytes = 0
        self.messages: dict[str, dict[str, int]] = {}

    @property
    def seconds(self) -> list[float]:
        """Of each step that counts."""
        return [end - start for start, end in pairwise(self.ends)]

    @property
    def processor_seconds(self) -> list[float]:
        """The same of processors, all threads of this process together."""
        return [end - start for start, end in pairwise(self.processor_ends)]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        # A step may have several micro-batches; it ends with the last.
        if trainer.global_step != self.warm + len(self.ends):
            return
        self.wait()
        if not self.ends:
            self.traffic.forget()
        self.ends.append(time.perf_counter())
        self.processor_ends.append(time.process_time())
        self.messages = {name: vars(found).copy() for name, found in self.traffic.found.items()}

    def fit(self, trainer: pl.Trainer, module: pl.LightningModule, loader: DataLoader[Any]) -> None:
        """Run a fit whose messages are counted."""
        self.parameter_bytes = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
        with self.traffic:
            trainer.fit(module, loader)


def figures(clocks: Sequence[Clock], units: int, processes: int, *, reducer: bool = False) -> dict[str, Any]:
    """Return what fits of one kind gave.

    Args:
        clocks: one of each fit.
        units: examples of a step, or clients of a round.
        processes: how many trained together.
        reducer: gradients are also summed by ``DistributedDataParallel``, which no count sees.
    """
    times = [clock.seconds for clock in clocks]
    if not all(times):
        raise RuntimeError(f"a fit ended before step {clocks[0].warm + 1}, so there is none whose time counts")
    seconds = statistics.median(statistics.median(steps) for steps in times)
    last = clocks[-1]
    steps = len(last.seconds)
    messages = {
        name: {
            "calls": round(found["calls"] / steps, 2),
            "bytes": round(found["payload"] / steps, 1),
            "largest": found["largest"],
        }
        for name, found in last.messages.items()
    }
    if reducer and processes > 1:
        messages[_REDUCER] = {
            "calls": 1.0,
            "bytes": float(last.parameter_bytes),
            "largest": last.parameter_bytes,
        }
    sent = sum(sent_bytes(name.partition(" ")[0], float(found["bytes"]), processes) for name, found in messages.items())
    return {
        "milliseconds": round(seconds * 1e3, 3),
        "mean_milliseconds": round(statistics.median(statistics.fmean(steps) for steps in times) * 1e3, 3),
        "best_milliseconds": round(min(min(steps) for steps in times) * 1e3, 3),
        "processor_milliseconds": round(
            statistics.median(statistics.median(clock.processor_seconds) for clock in clocks) * 1e3, 3
        ),
        "units": units,
        "units_per_second": round(units / seconds, 2),
        "messages": messages,
        "sent_bytes": round(sent),
    }
