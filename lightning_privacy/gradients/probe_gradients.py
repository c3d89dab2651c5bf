"""The gradients of the single examples of a batch, taken as in private training, but neither clipped nor released.

Example:
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Linear(2, 1, bias=False)
    >>> with example_gradients(net, examples=2) as found:
    ...     net(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    >>> found.rows["weight"]
    tensor([[1., 2.],
            [3., 4.]])
    >>> found.totals["weight"]
    tensor([[4., 6.]])
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_privacy.gradients.contributions import Contribution, merge
from lightning_privacy.gradients.interception import release
from lightning_privacy.gradients.layout import Layouts
from lightning_privacy.gradients.precision import full_precision
from lightning_privacy.gradients.probe_rows import rows_of
from lightning_privacy.gradients.probe_updates import PublicUpdates, public_updates
from lightning_privacy.gradients.raw_gradients import refuse_raw_gradient
from lightning_privacy.gradients.recorder import Recorder
from lightning_privacy.gradients.sites import install

__all__ = ["ExampleGradients", "example_gradients", "plain_gradients"]


class ExampleGradients:
    """What the sites of a network find in one step; the :class:`Collector` of a recorder.

    Args:
        module: the network.
        public: names of parameters that autograd trains. A backward in which one gets a gradient is about these, and
            what it finds for others is dropped, as in training.
    """

    def __init__(self, module: nn.Module, public: Collection[str] = ()) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad and name not in public}
        self.public = [p for name, p in module.named_parameters() if p.requires_grad and name in public]
        self.rows: dict[str, Tensor] = {}
        """Of each parameter the gradients of the examples, as :func:`rows_of` keeps them."""
        self.totals: dict[str, Tensor] = {}
        """Of each parameter their sum."""
        self._kept: dict[int, list[Contribution]] = {}
        self._arrived: dict[int, list[Contribution]] = {}
        self._in_backward = False
        self._for_public = False

    def renew(self) -> bool:
        """See :meth:`Collector.renew`; what trains does not change within one step."""
        return False

    def begin_backward(self) -> None:
        """See :meth:`Collector.begin_backward`."""
        if not self._in_backward:
            self._in_backward = True
            torch.autograd.Variable._execution_engine.queue_callback(self._end_backward)

    def collect(self, parameter: nn.Parameter, contribution: Contribution, *, only_use: bool) -> None:
        """See :meth:`Collector.collect`."""
        self._arrived.setdefault(id(parameter), []).append(contribution)

    def guards(self) -> list[RemovableHandle]:
        """Make gradients that reach parameters in the ordinary way known: refused, or taken as those of public ones."""
        refused = [
            refuse_raw_gradient(parameter, name, weakref.WeakMethod(self._drop))
            for name, parameter in self.parameters.items()
        ]
        return [*refused, *(p.register_hook(self._note_public) for p in self.public)]  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Work out rows and totals, one parameter after the other so that few gradients are in memory at a time."""
        for name, parameter in self.parameters.items():
            contributions = self._kept.pop(id(parameter), None)
            if contributions is None:
                continue
            with torch.no_grad(), full_precision(parameter.device.type):
                values = merge(contributions).per_example()
                self.rows[name] = rows_of(values)
                self.totals[name] = values.sum(0)

    def _note_public(self, _gradient: Tensor) -> None:
        self.begin_backward()
        self._for_public = True

    def _drop(self) -> None:
        self._arrived = {}

    def _end_backward(self) -> None:
        arrived, self._arrived = self._arrived, {}
        if not self._for_public:
            for key, contributions in arrived.items():
                self._kept.setdefault(key, []).extend(contributions)
        self._in_backward = self._for_public = False


@contextmanager
def example_gradients(
    module: nn.Module, *, examples: int, public: Collection[str] = (), views: int = 1, layouts: Layouts | None = None
) -> Iterator[ExampleGradients]:
    """Take the gradients of the examples in the backwards that run in the block.

    Args:
        module: the network; nothing is attached to it afterwards.
        examples: number of examples.
        public: names of parameters that are trained by autograd.
        views: rows of each example.
        layouts: where the examples are in the layers' outputs.

    Raises:
        PrivacyViolation: a parameter gets a gradient that no layer explains.
        UnsupportedError: a layer that can't be listened to.
    """
    found = ExampleGradients(module, public)
    with listening(module, found, views=views) as recorder:
        recorder.layouts = layouts or {}
        recorder.start(examples)
        handles = found.guards()
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()
    found.finish()


@contextmanager
def listening(module: nn.Module, collector: ExampleGradients, *, views: int) -> Iterator[Recorder]:
    """Put sites at the layers while in the block."""
    recorder = Recorder(collector, views=views)
    install(module, recorder, {id(parameter) for parameter in collector.parameters.values()})
    try:
        yield recorder
    finally:
        recorder.stop()
        for layer in module.modules():
            release(layer)


class _Sum:
    """Adds up the gradients that reach some parameters, backward by backward."""

    def __init__(self, module: nn.Module, public: Collection[str], updates: PublicUpdates) -> None:
        self.updates = updates
        self.private = [p for name, p in module.named_parameters() if name not in public] if public else []
        self.kept: dict[str, Tensor] = {}
        self.arrived: dict[str, Tensor] = {}
        self.in_backward = self.for_public = False
        self.handles = [
            parameter.register_hook(self.take(name, public=name in public))  # type: ignore[no-untyped-call]
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]

    def take(self, name: str, *, public: bool) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not self.in_backward:
                self.in_backward = True
                torch.autograd.Variable._execution_engine.queue_callback(self.end)
            self.for_public = self.for_public or public
            if public:
                self.updates.add(name, gradient)
                return
            before = self.arrived.get(name)
            self.arrived[name] = gradient.detach().clone() if before is None else before + gradient.detach()

        return hook

    def end(self) -> None:
        for name, gradient in () if self.for_public else self.arrived.items():
            self.kept[name] = gradient if name not in self.kept else self.kept[name] + gradient
        self.arrived = {}
        self.in_backward = self.for_public = False
        for parameter in self.private:
            if parameter.grad is not None:  # in training it is private, and may decide about what is public
                parameter.grad = torch.zeros_like(parameter)


@contextmanager
def plain_gradients(
    module: nn.Module, public: Collection[str] = ()
) -> Iterator[tuple[dict[str, Tensor], PublicUpdates]]:
    """Take the gradients that autograd alone gives the parameters in the block, by name; what public ones get apart.

    Args:
        module: the network.
        public: names of parameters that are trained by autograd; see :class:`ExampleGradients`.
    """
    with public_updates(module, public) as updates:
        total = _Sum(module, public, updates)
        try:
            yield total.kept, updates
        finally:
            for handle in total.handles:
                handle.remove()
