"""What the sites of one network know in common during a micro-batch, and who they report to.

Example:
    >>> import torch
    >>> recorder = Recorder(collector=None)
    >>> recorder.start(examples=4)
    >>> recorder.place("0", torch.Size([4, 3]), dimensions=2).dimension
    0
    >>> recorder.place("0", torch.Size([8, 3]), dimensions=2)
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.UnsupportedError: layer '0' returned shape (8, 3), but the batch has 4 examples and ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.gradients.contributions import Contribution
from lightning_privacy.gradients.layout import FIRST, Layout, Layouts

__all__ = ["Collector", "Recorder", "Watch"]


class Collector(Protocol):
    """What receives the findings of the sites."""

    def renew(self) -> bool:
        """Called when the network starts to run; returns whether its layers have other sites now."""

    def begin_backward(self) -> None:
        """Called when a gradient arrives, before :meth:`collect`."""

    def collect(self, parameter: nn.Parameter, contribution: Contribution, *, only_use: bool) -> None:
        """Called with each use's contribution to each parameter."""


class Watch(Protocol):
    """What follows parameters that are used outside the layers; see :mod:`lightning_privacy.gradients.functional`."""

    @property
    def active(self) -> bool:
        """Whether calls of functions are followed at the moment."""

    def rest(self) -> bool:
        """Let functions be called unseen from now on to :meth:`wake`; returns False, and does nothing, if it can't."""

    def wake(self) -> None:
        """See calls of functions again."""

    def reset(self) -> None:
        """Called where a micro-batch begins and where it ends."""

    def watching(self, arguments: Any) -> AbstractContextManager[None]:
        """Return a context in which calls of functions are followed; the batch is in ``arguments``."""

    def follows(self, arguments: Any) -> bool:
        """Return whether something in ``arguments`` was made of parameters alone."""

    def without_data(self, arguments: Any) -> bool:
        """Return whether nothing in ``arguments`` was computed from the batch."""

    def only_data(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether arguments hold something computed from the batch, and nothing made of parameters alone."""

    def with_rows(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments of layer ``name``; what was made of parameters alone has a row for each example."""

    def note_output(self, output: Any) -> None:
        """Take note of what a layer returned."""


class Recorder:
    """State that the sites of one network share during a micro-batch.

    Args:
        collector: where findings go.
        views: rows of the batch that belong to one example.
    """

    def __init__(self, collector: Collector, *, views: int = 1) -> None:
        self.collector = collector
        self.views = views
        self.root = torch.zeros((), requires_grad=True)
        self.generation = 0
        self.armed = False
        self.examples: int | None = None
        self.guessed = False
        self.uses: dict[int, int] = {}
        self.calls: dict[str, int] = {}
        self.layouts: Layouts = {}
        self.seen: dict[str, list[torch.Size]] | None = None
        """Where the shapes of outputs are written down instead of being listened to; None in training."""
        self.bypass = False
        self.watch: Watch | None = None

    def start(self, examples: int | None) -> None:
        """Begin a micro-batch of that many examples, or of as many as the network's input has."""
        self.generation += 1
        self.armed = True
        self.examples = examples
        self.guessed = False
        self.uses = {}
        self.calls = {}
        if self.watch is not None:
            self.watch.reset()

    def stop(self) -> None:
        """End it; graphs made during it can't release anything later."""
        self.generation += 1
        self.armed = False
        self.examples = None
        self.uses = {}
        self.calls = {}
        if self.watch is not None:
            self.watch.reset()

    def listening(self) -> bool:
        """Return whether a call that happens now would take part in a backward."""
        return torch.is_grad_enabled() and not self.bypass

    def expected_examples(self, name: str) -> int:
        """Return the number of examples that layer ``name`` must see."""
        if self.examples is None:
            raise ConfigurationError(
                f"layer '{name}' ran before the network itself was called, so the number of examples is unknown; "
                "call the module that was given to the optimizer, not its parts"
            )
        return self.examples

    def expected_rows(self, name: str) -> int:
        """Return the number of rows, views included, that layer ``name`` must see."""
        return self.expected_examples(name) * self.views

    def take_examples(self, rows: int) -> None:
        """Learn the number of examples from the rows of the network's input, where nobody announced it.

        Raises:
            ConfigurationError: the views don't divide the rows.
        """
        if self.examples is not None:
            return
        if rows % self.views:
            raise ConfigurationError(
                f"views={self.views} doesn't divide the batch of {rows} rows; give every example as many rows, next to "
                "each other (x.repeat_interleave(views, 0))"
            )
        self.examples = rows // self.views
        self.guessed = True

    def place(self, name: str, shape: torch.Size, dimensions: int) -> Layout | None:
        """Return where the examples are in an output; None when nobody shall listen to it.

        Args:
            name: the layer.
            shape: of its output.
            dimensions: how many dimensions it has at least, batch included.

        Raises:
            UnsupportedError: they are not where they should be.
        """
        if not self.armed:
            return FIRST
        call = self.calls.get(name, 0)
        self.calls[name] = call + 1
        if self.seen is not None:
            self.seen.setdefault(name, []).append(shape)
            return None
        examples = self.expected_examples(name)
        layout = self._known(name, call)
        if layout is None:
            self._check(name, shape, dimensions, examples * self.views)
            return FIRST
        if layout.dimension is None:
            return FIRST if layout.spread_already(shape, examples * self.views) else layout
        size = shape[layout.dimension] if layout.dimension < len(shape) else 0
        if len(shape) != layout.dimensions or (size != 0 if examples == 0 else size == 0 or size % examples):
            raise UnsupportedError(
                f"layer '{name}' returned shape {tuple(shape)} for {examples} examples, and before training its "
                f"examples were in dimension {layout.dimension} of {layout.dimensions}; every batch must go through "
                "the layers in the same way"
            )
        return layout

    def operand(self, name: str, shape: torch.Size) -> Layout | None:
        """Return where the examples are in an operand of a function; None where no probe found out.

        Args:
            name: of the call and the operand.
            shape: of the operand.
        """
        call = self.calls.get(name, 0)
        self.calls[name] = call + 1
        if self.seen is not None:
            self.seen.setdefault(name, []).append(shape)
            return None
        layout = self._known(name, call)
        if layout is None or layout.dimension is None:
            return layout
        examples = self.expected_examples(name)
        size = shape[layout.dimension] if layout.dimension < len(shape) else 0
        if len(shape) != layout.dimensions or (size != 0 if examples == 0 else size == 0 or size % examples):
            raise UnsupportedError(
                f"{name} has shape {tuple(shape)} for {examples} examples, and before training its examples were in "
                f"dimension {layout.dimension} of {layout.dimensions}; every batch must go the same way"
            )
        return layout

    def _known(self, name: str, call: int) -> Layout | None:
        layouts = self.layouts.get(name)
        if not layouts:
            return None
        if call >= len(layouts) and any(layout.dimension != layouts[0].dimension for layout in layouts):
            raise UnsupportedError(
                f"layer '{name}' is called more often than before training, where its calls differed in where the "
                "examples were; call it as often in every step"
            )
        return layouts[min(call, len(layouts) - 1)]

    def _check(self, name: str, shape: torch.Size, dimensions: int, rows: int) -> None:
        if len(shape) < dimensions or shape[0] != rows:
            hint = (
                " (Their number is that of the first call of the network since the last step: evaluate under "
                "torch.no_grad().)"
            )
            raise UnsupportedError(
                f"layer '{name}' returned shape {tuple(shape)}, but the batch has {rows} examples and must "
                "be the first dimension of every layer with parameters. Keep positions, patches or time steps in "
                "dimensions of their own (no view(batch * steps, ...)), don't concatenate batches, and look positions "
                "up for every example (indices.expand(batch, -1)); or train with DifferentialPrivacy(probe=True), "
                "which finds out where the examples are." + (hint if self.guessed else "")
            )

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Let inner layers run as they are while an outer one is handled as a whole."""
        self.bypass = True
        try:
            yield
        finally:
            self.bypass = False
