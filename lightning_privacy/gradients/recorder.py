"""What the sites of one network know in common during a micro-batch, and who they report to.

Example:
    >>> import torch
    >>> recorder = Recorder(collector=None)
    >>> recorder.start(batch_size=4)
    >>> recorder.check_batch("0", torch.Size([4, 3]), dimensions=2)
    >>> recorder.check_batch("0", torch.Size([8, 3]), dimensions=2)
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.UnsupportedError: layer '0' returned shape (8, 3), but the batch has 4 examples and ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.gradients.contributions import Contribution

__all__ = ["Collector", "Recorder"]


class Collector(Protocol):
    """What receives the findings of the sites."""

    def renew(self) -> bool:
        """Called when the network starts to run; returns whether its layers have other sites now."""

    def begin_backward(self) -> None:
        """Called when a gradient arrives, before :meth:`collect`."""

    def collect(self, parameter: nn.Parameter, contribution: Contribution, *, only_use: bool) -> None:
        """Called with each use's contribution to each parameter."""


class Recorder:
    """State that the sites of one network share during a micro-batch.

    Args:
        collector: where findings go.
    """

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.root = torch.zeros((), requires_grad=True)
        self.generation = 0
        self.armed = False
        self.batch_size: int | None = None
        self.uses: dict[int, int] = {}
        self.bypass = False

    def start(self, batch_size: int | None) -> None:
        """Begin a micro-batch of ``batch_size`` examples, or of as many as the network's input has."""
        self.generation += 1
        self.armed = True
        self.batch_size = batch_size
        self.uses = {}

    def stop(self) -> None:
        """End it; graphs made during it can't release anything later."""
        self.generation += 1
        self.armed = False
        self.batch_size = None
        self.uses = {}

    def listening(self) -> bool:
        """Return whether a call that happens now would take part in a backward."""
        return torch.is_grad_enabled() and not self.bypass

    def expected_batch_size(self, name: str) -> int:
        """Return the number of examples that layer ``name`` must see."""
        if self.batch_size is None:
            raise ConfigurationError(
                f"layer '{name}' ran before the network itself was called, so the number of examples is unknown; "
                "call the module that was given to the optimizer, not its parts"
            )
        return self.batch_size

    def check_batch(self, name: str, shape: torch.Size, dimensions: int) -> None:
        """Refuse an output whose first dimension is not the batch."""
        if not self.armed:
            return
        expected = self.expected_batch_size(name)
        if len(shape) < dimensions or shape[0] != expected:
            raise UnsupportedError(
                f"layer '{name}' returned shape {tuple(shape)}, but the batch has {expected} examples and must "
                "be the first dimension of every layer with parameters. Keep positions, patches or time steps in "
                "dimensions of their own (no view(batch * steps, ...)), don't concatenate batches, and look positions "
                "up for every example (indices.expand(batch, -1))."
            )

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Let inner layers run as they are while an outer one is handled as a whole."""
        self.bypass = True
        try:
            yield
        finally:
            self.bypass = False
