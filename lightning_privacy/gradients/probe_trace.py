"""What went into every module of a network in one step, what came out, and which gradients came back.

The independence probe compares two traces to tell whether examples influence each other, and where first. Entries are
in the order of time: what a module is given, the same of its parts, what these return, what it returns itself.

Example:
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    >>> with traced(net) as trace:
    ...     _ = net(torch.zeros(4, 2))
    >>> [(entry.module, entry.place, tuple(entry.shape)) for entry in trace.entries.values()][1:3]
    [('0', 'in', (4, 2)), ('0', 'out', (4, 3))]
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_privacy.gradients.interception import grow_root
from lightning_privacy.gradients.layout import Layout, infer_layout
from lightning_privacy.gradients.probe_rows import changed_rows, rows_of, split_rows, without_row

__all__ = ["Entry", "Trace", "first_change", "places_of_examples", "traced"]

Key = tuple[str, int, str, int]
"""Name of the module, number of the call, ``"in"`` or ``"out"``, number of the tensor."""
Places = Mapping[Key, Layout]


@dataclass
class Entry:
    """One tensor.

    Args:
        module: name of the module.
        place: ``"in"`` or ``"out"``.
        shape: its shape.
        rows: what is compared of the examples' values; None where it is not known where they are.
        gradient: the same of the gradient; None where none came back.
        shared: whether it is one for all examples.
    """

    module: str
    place: str
    shape: torch.Size
    rows: Tensor | None = None
    gradient: Tensor | None = None
    shared: bool = False


@dataclass
class Trace:
    """The entries of one step."""

    entries: dict[Key, Entry] = field(default_factory=dict)


class _Tracer:
    """Hooks of one step."""

    def __init__(self, places: Places, examples: int, *, cut: bool) -> None:
        self.trace = Trace()
        self.places = places
        self.examples = examples
        self.cut = cut
        self.calls: dict[str, int] = {}
        self.root = torch.zeros((), requires_grad=True)

    def enter(self, name: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.is_grad_enabled():
            return
        self.calls[name] = self.calls.get(name, 0) + 1
        if not self.cut:
            self.note(name, "in", (args, kwargs))

    def leave(self, name: str, module: nn.Module, _args: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        cuts = self.cut and any(True for _ in module.parameters(recurse=False))
        if cuts:
            output = tree_map(self.separate, output)
        self.note(name, "out", output)
        return output if cuts else None

    def separate(self, leaf: Any) -> Any:
        """Return the tensor without its history, so that backward ends here."""
        if not isinstance(leaf, Tensor) or not leaf.requires_grad:
            return leaf
        return grow_root(self.root, leaf.detach().clone())

    def note(self, name: str, place: str, values: Any) -> None:
        for number, leaf in enumerate(tree_leaves(values)):
            if not isinstance(leaf, Tensor) or leaf.is_complex() or leaf.dim() == 0:
                continue
            key = (name, self.calls[name], place, number)
            entry = self.trace.entries[key] = Entry(name, place, leaf.shape)
            layout = self.places.get(key)
            if layout is not None and layout.shared and not leaf.requires_grad and place == "out":
                continue  # a metric of the batch
            if layout is None or not _fits(layout, leaf.shape, self.examples):
                continue
            entry.shared = layout.shared
            entry.rows = rows_of(split_rows(leaf, layout, self.examples))
            if leaf.requires_grad and not layout.shared:
                leaf.register_hook(partial(self.take, entry, layout))  # type: ignore[no-untyped-call]

    def take(self, entry: Entry, layout: Layout, gradient: Tensor) -> None:
        entry.gradient = rows_of(split_rows(gradient, layout, self.examples))


def _fits(layout: Layout, shape: torch.Size, examples: int) -> bool:
    if len(shape) != layout.dimensions:
        return False
    return layout.dimension is None or (shape[layout.dimension] > 0 and shape[layout.dimension] % examples == 0)


@contextmanager
def traced(module: nn.Module, places: Places | None = None, *, examples: int = 0, cut: bool = False) -> Iterator[Trace]:
    """Write down what happens in the modules of a network that runs on its own weights.

    Args:
        module: the network.
        places: where the examples are in each tensor; without, shapes alone are noted.
        examples: number of examples, where ``places`` are given.
        cut: let backward end at the first layer with parameters that it meets: what the loss does is seen, and most
            of the work is not done. What modules are given is not noted then.
    """
    tracer = _Tracer(places or {}, examples, cut=cut)
    handles = []
    for name, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(partial(tracer.enter, name), with_kwargs=True))
        handles.append(part.register_forward_hook(partial(tracer.leave, name)))
    try:
        yield tracer.trace
    finally:
        for handle in handles:
            handle.remove()


def places_of_examples(first: Trace, second: Trace, *, sizes: tuple[int, int]) -> dict[Key, Layout]:
    """Return where the examples are in the tensors of two traces, of batches of two sizes.

    Args:
        first: of a batch of ``sizes[0]`` examples.
        second: of a batch of ``sizes[1]``.
        sizes: the two numbers of examples.
    """
    found = {}
    for key, entry in first.entries.items():
        other = second.entries.get(key)
        layout = None if other is None else infer_layout(entry.shape, other.shape, sizes=sizes)
        if layout is not None:
            found[key] = layout
    return found


def first_change(
    first: Trace,
    second: Trace,
    *,
    tolerance: float,
    gradients: bool = False,
    only: Container[str] | None = None,
    place: int = 0,
) -> tuple[Key, Key | None] | None:
    """Return the first tensor in which other rows than the replaced one differ, and the last one before that did not.

    Args:
        first: trace of a batch.
        second: trace of the batch with another example at ``place``.
        tolerance: see :func:`changed_rows`.
        gradients: compare the gradients, in the order in which backward meets them.
        only: names of the modules to look at; by default all.
        place: of the example that is another one.
    """
    keys = list(first.entries)
    before: Key | None = None
    for key in reversed(keys) if gradients else keys:
        one, two = first.entries[key], second.entries.get(key)
        if two is None or (only is not None and key[0] not in only):
            continue
        rows, others = (one.gradient, two.gradient) if gradients else (one.rows, two.rows)
        if rows is None and others is None:
            continue
        if rows is None or others is None:  # no gradient came back, in one of the two
            if gradients:
                return key, before
            continue
        if rows.shape != others.shape:
            return key, before
        if not one.shared:  # the rows that must stay are measured by each other: what was put in may be huge
            rows, others = without_row(rows, place), without_row(others, place)
        if bool(changed_rows(rows, others, tolerance=tolerance).any()):
            return key, before
        before = key
    return None
