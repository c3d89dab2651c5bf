"""Randomness during the independence probe: the same in every run, and afterwards as if nothing had been drawn.

Example:
    >>> import torch
    >>> from torch import nn
    >>> before = torch.get_rng_state()
    >>> with untouched_generators([]):
    ...     with seeded(3, []) as first:
    ...         _ = torch.randn(2)
    ...     with seeded(3, []) as second:
    ...         _ = torch.zeros(2)
    >>> first.used, second.used, torch.equal(before, torch.get_rng_state())
    (True, False, True)
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["Draws", "seeded", "untouched_generators", "without_dropout"]


class Draws:
    """Whether something was drawn."""

    def __init__(self) -> None:
        self.used = False


def _state(devices: Sequence[torch.device]) -> list[Any]:
    own = [torch.get_device_module(device.type).get_rng_state(device) for device in devices]
    return [random.getstate(), np.random.get_state(), torch.get_rng_state(), *own]


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    arrays = all(
        np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two
        for one, two in zip(first[1], second[1], strict=True)
    )
    return (
        first[0] == second[0]
        and arrays
        and all(torch.equal(one, two) for one, two in zip(first[2:], second[2:], strict=True))
    )


@contextmanager
def untouched_generators(devices: Sequence[torch.device]) -> Iterator[None]:
    """Put the generators of Python, NumPy and torch back in the end.

    Args:
        devices: accelerators whose generator is concerned too.
    """
    python, numpy, cpu, *own = _state(devices)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        for device, state in zip(devices, own, strict=True):
            torch.get_device_module(device.type).set_rng_state(state, device)


@contextmanager
def seeded(seed: int, devices: Sequence[torch.device]) -> Iterator[Draws]:
    """Seed the same generators, and tell whether they were used; to be run inside :func:`untouched_generators`.

    Args:
        seed: the seed.
        devices: as above.
    """
    random.seed(seed)
    np.random.seed(seed)
    # torch.manual_seed would seed accelerators that nobody puts back.
    torch.default_generator.manual_seed(seed)
    for device in devices:
        state = torch.Generator(device).manual_seed(seed).get_state()
        torch.get_device_module(device.type).set_rng_state(state, device)
    before = _state(devices)
    draws = Draws()
    yield draws
    draws.used = not _same(before, _state(devices))


@contextmanager
def without_dropout(module: nn.Module, *, recurrent_only: bool = False) -> Iterator[None]:
    """Switch off the dropout of torch's own layers, which stay in training mode.

    Args:
        module: the network, changed while in the block.
        recurrent_only: only between recurrent layers. Their masks cover packed sequences one after the other, so that
            those of an example move with the length of another.
    """
    changed: list[tuple[nn.Module, str, float]] = []
    for layer in module.modules():
        name = "p" if isinstance(layer, nn.modules.dropout._DropoutNd) else "dropout"
        listed = isinstance(layer, nn.RNNBase) or (name == "p" and not recurrent_only)
        if listed or (isinstance(layer, nn.MultiheadAttention) and not recurrent_only):
            changed.append((layer, name, getattr(layer, name)))
            setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer, name, value in changed:
            setattr(layer, name, value)
