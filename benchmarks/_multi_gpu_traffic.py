"""What collective calls of one process send: how many there are, and how many bytes they carry.

Calls of torch.distributed are counted by putting a counting function in the place of each while a :class:`Traffic` is
open. The reducer of ``DistributedDataParallel`` lives in C++ and is not seen: what it sends is the gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributed import distributed_c10d

__all__ = ["Collective", "Traffic", "sent_bytes"]

_REDUCING = ("all_reduce",)
_GATHERING = ("all_gather", "all_gather_into_tensor", "all_gather_single")
_SPREADING = ("broadcast", "barrier")
# Not every version of torch has each of them.
_NAMES = [name for name in (*_REDUCING, *_GATHERING, *_SPREADING) if hasattr(distributed_c10d, name)]


@dataclass
class Collective:
    """Calls of one kind.

    Args:
        calls: how many.
        payload: bytes that one process gives to them.
        largest: bytes of the largest call.
    """

    calls: int = 0
    payload: int = 0
    largest: int = 0

    def add(self, payload: int) -> None:
        """Count a call."""
        self.calls += 1
        self.payload += payload
        self.largest = max(self.largest, payload)


class Traffic:
    """Counts collective calls between entering and leaving; the calls do what they always do."""

    def __init__(self) -> None:
        self.found: dict[str, Collective] = {}
        self._undo = ExitStack()
        self._within = False

    def __enter__(self) -> Traffic:
        # The second place is where torch's own functions for objects look the first ones up.
        for name in _NAMES:
            counting = self._counting(name, getattr(distributed_c10d, name))
            for place in (torch.distributed, distributed_c10d):
                if hasattr(place, name):
                    self._undo.enter_context(mock.patch.object(place, name, counting))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def forget(self) -> None:
        """Start to count again."""
        self.found = {}

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._within:  # one of them that is made of another is one
                return call(*args, **kwargs)
            self.found.setdefault(name, Collective()).add(_payload(name, args, kwargs))
            self._within = True
            try:
                return call(*args, **kwargs)
            finally:
                self._within = False

        return counted


def _payload(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Bytes of the tensor that this process gives: the second argument of a gathering call, the first of others."""
    if name in _GATHERING:
        given = args[1] if len(args) > 1 else kwargs.get("tensor", kwargs.get("input_tensor"))
    else:
        given = args[0] if args else kwargs.get("tensor")
    return given.numel() * given.element_size() if isinstance(given, Tensor) else 0


def sent_bytes(name: str, payload: float, processes: int) -> float:
    """Return what a process sends for a payload, with the algorithms that move the least (rings).

    A sum over n processes is scattered and gathered again, (n - 1) / n of it each time; what is gathered goes to n - 1
    others, and what is broadcast is passed on once.

    Args:
        name: of the collective call.
        payload: bytes that a process gives.
        processes: how many take part.
    """
    others = processes - 1
    if name in _REDUCING:
        return 2 * payload * others / processes
    if name in _GATHERING:
        return payload * others
    return payload * (others > 0)
