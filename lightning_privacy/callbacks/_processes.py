"""The processes that train together: which of them this is, and the few things they tell each other.

A private step needs exactly one sum over all processes: the clipped sums of their shares of the batch, with the
noise that one of them, the leader, has added. Everything else (draws, schedules, charges) each of them works out by
itself from the same numbers.

Example:
    >>> alone = Processes(count=1, rank=0)
    >>> alone.leads, alone.same("name"), alone.gather(3)
    (True, 'name', [3])
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from lightning_privacy._lightning import Trainer

__all__ = ["Processes", "processes_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of one training; each method must be called by all of them, in the same order.

    Args:
        count: How many there are, over all nodes.
        rank: Which of them this is, from 0.
    """

    count: int
    rank: int

    @property
    def leads(self) -> bool:
        """Whether this one adds the noise and writes the files."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there is anyone to talk to."""
        return self.count > 1

    def add_up(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over all processes, which is bit for bit the same on each."""
        if self.several:
            torch.distributed.all_reduce(tensor)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients of parameters that no private gradient trains by their mean over all processes.

        Args:
            parameters: The same in every process, in the same order; one without a gradient counts as zero.
        """
        chosen = list(parameters)
        if not self.several or not chosen:
            return
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in chosen]
        flat = torch.cat(
            [piece.detach().reshape(-1).to(torch.promote_types(piece.dtype, torch.float32)) for piece in pieces]
        )
        self.add_up(flat)
        means = torch.split(flat / self.count, [p.numel() for p in chosen])
        for parameter, mean in zip(chosen, means, strict=True):
            mean = mean.view(parameter.shape).to(parameter.dtype)
            if parameter.grad is None:
                parameter.grad = mean
            else:
                parameter.grad.copy_(mean)

    def meet(self, place: int, *, places: int, device: torch.device) -> bool:
        """Return whether all processes are at the same ``place`` of the numbered ones at which they meet.

        Args:
            place: Where this one is, below ``places``.
            places: How many there are.
            device: Where the processes can exchange tensors.
        """
        counts = torch.zeros(places, device=device)
        counts[place] = 1
        self.add_up(counts)
        return int(counts[place]) == max(self.count, 1)

    def same(self, value: T) -> T:
        """Return the leader's ``value``."""
        if not self.several:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return everyone's ``value``, in the order of ranks."""
        if not self.several:
            return [value]
        values = [value] * self.count
        torch.distributed.all_gather_object(values, value)
        return values


def processes_of(trainer: Trainer) -> Processes:
    """The processes the trainer's strategy has started or was started in; from ``setup`` on."""
    return Processes(count=trainer.world_size, rank=trainer.global_rank)
