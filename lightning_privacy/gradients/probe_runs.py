"""The runs of the independence probe: the same step, from the same state and with the same draws, seen in three ways.

Example:
    >>> import torch
    >>> from torch import nn
    >>> def step(module, examples, backward):
    ...     loss = module(torch.stack(examples)).mean()
    ...     if backward:
    ...         loss.backward()
    >>> runs = ProbeRuns(nn.Linear(3, 1), step, list(torch.ones(4, 3)))
    >>> runs.find_layouts(list(torch.ones(4, 3)))
    >>> [layout.dimension for layout in runs.layouts["Linear"]]
    [0]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_privacy._validate import one_of, positive, positive_int
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.gradients import probe_refusals as refusals
from lightning_privacy.gradients.layout import Layout, Layouts, infer_layout
from lightning_privacy.gradients.probe_examples import by_variety, detached, size
from lightning_privacy.gradients.probe_gradients import (
    ExampleGradients,
    example_gradients,
    listening,
    plain_gradients,
)
from lightning_privacy.gradients.probe_randomness import seeded, untouched_generators, without_dropout
from lightning_privacy.gradients.probe_rows import tolerance_for
from lightning_privacy.gradients.probe_trace import Key, Trace, places_of_examples, traced
from lightning_privacy.gradients.probe_trials import trials
from lightning_privacy.gradients.probe_updates import PublicUpdates

__all__ = ["SEED", "Found", "Moment", "ProbeRuns", "Step"]

_POOL = 8
"""Examples to choose from."""
SEED = 20
"""Of the runs that are to see the same draws."""


class Step(Protocol):
    """Runs the user's step."""

    def __call__(self, module: Any, examples: Sequence[Any], backward: bool) -> None:
        """Make a batch of the examples, run the step and its backward.

        Args:
            module: the network: the one that the probe was given, or a copy of it.
            examples: as the data set returns them.
            backward: whether backward is to be run; without, the loss may have no gradient.
        """


@dataclass(frozen=True)
class Moment:
    """A time of training.

    Args:
        label: in words, such as ``"in epoch 3"``.
        enter: returns a context in which the step runs as it would then.
    """

    label: str
    enter: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Found:
    """Gradients of the examples of one run, and whether the step drew random numbers."""

    gradients: ExampleGradients
    random: bool


class ProbeRuns:
    """Runs a step on small batches, each time from the state the module is in.

    Arguments as of :class:`~lightning_privacy.gradients.probe.IndependenceProbe`.
    """

    def __init__(
        self,
        module: nn.Module,
        step: Step,
        examples: Sequence[Any],
        *,
        public: Collection[str] = (),
        views: int = 1,
        loss_reduction: str = "mean",
        dtype: torch.dtype = torch.float32,
        finish: Callable[[Any], None] | None = None,
        most: int | None = None,
        moments: Sequence[Moment] = (),
    ) -> None:
        one_of(("mean", "sum"), loss_reduction=loss_reduction)
        positive(examples=len(examples))
        self.module = module
        self.step = step
        self.pool = [detached(example) for example in by_variety(examples, _POOL)]
        self.public = frozenset(public)
        self.views = positive_int(views=views)
        self.reduction = loss_reduction
        parameters = dict(module.named_parameters())
        self.memo: dict[int, Any] = {id(p): p for p in parameters.values()}
        self.modules = dict(module.named_modules())
        self.layers = {
            name
            for name, layer in self.modules.items()
            if any(p.requires_grad for p in layer.parameters(recurse=False)) or isinstance(layer, nn.MultiheadAttention)
        }
        self.devices = sorted({p.device for p in parameters.values() if p.device.type != "cpu"}, key=str)
        self.tolerance = tolerance_for(dtype)
        self.layouts: Layouts = {}
        self.places: dict[Key, Layout] = {}
        self.random = False
        self.finish = finish
        self.most = most
        self.moments = list(moments)

    @property
    def outside_layers(self) -> bool:
        """Whether parameters are used in functions as well, of which a trace of the layers knows nothing."""
        own = [name for name, p in self.module.named_parameters(recurse=False) if p.requires_grad]
        operands = (", operand ", " as input of layer ")
        return any(name not in self.public for name in own) or any(
            mark in name for name in self.layouts for mark in operands
        )

    def in_single_precision(self) -> bool:
        """Return whether the step runs, and no layer returns half precision."""
        seen: list[torch.dtype] = []

        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.extend(leaf.dtype for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

        batch = trials(self.pool, 1)[0].batch
        with untouched_generators(self.devices):
            try:
                with self.ready(SEED, steady=True) as (module, _):
                    handles = [layer.register_forward_hook(note) for layer in module.modules()]
                    try:
                        self.call(module, batch)
                    finally:
                        for handle in handles:
                            handle.remove()
            except Exception:  # noqa: BLE001 - it runs in its own precision, or says there what is wrong
                return False
        return not {torch.float16, torch.bfloat16} & set(seen)

    @contextmanager
    def ready(self, seed: int, *, steady: bool) -> Iterator[tuple[nn.Module, Any]]:
        """Give a copy of the module in its first state: what a step leaves behind must not reach the next run."""
        try:
            module = copy.deepcopy(self.module, dict(self.memo))
        except Exception as error:
            raise ConfigurationError(
                f"{type(self.module).__name__} can't be copied, which the independence probe needs so as to leave it "
                f"untouched ({type(error).__name__}: {error}): build in setup() or on_train_start what can't be "
                "copied, or switch the probe off with probe=False and see to the independence of examples yourself"
            ) from error
        for parameter in self.memo.values():
            parameter.grad = None
        quiet = without_dropout(module, recurrent_only=not steady)
        with seeded(seed, self.devices) as draws, torch.enable_grad(), quiet:
            yield module, draws
        for parameter in self.memo.values():
            parameter.grad = None

    def call(self, module: nn.Module, examples: Sequence[Any], *, backward: bool = True) -> None:
        """Run the step on copies of the examples, which it may change."""
        rows = examples if self.views == 1 else [view for example in examples for view in example]
        self.step(module, [copy.deepcopy(row) for row in rows], backward)

    def plain(
        self, examples: Sequence[Any], *, before: Sequence[Any] | None = None
    ) -> tuple[dict[str, Tensor], PublicUpdates]:
        """Run the step as it is, after another batch where one is given; whatever is wrong with it comes out here."""
        with (
            self.ready(SEED, steady=True) as (module, _),
            self._after(module, before, SEED),
            plain_gradients(module, self.public) as gradients,
        ):
            try:
                self.call(module, examples)
            except Exception as error:
                error.add_note(
                    f"This happened while the independence probe ran the training step on a batch of {len(examples)} "
                    "examples, before training. The batches of private training have any size."
                )
                raise
        return gradients

    def gradients(
        self,
        examples: Sequence[Any],
        seed: int = SEED,
        *,
        steady: bool = True,
        before: Sequence[Any] | None = None,
    ) -> Found:
        """Run the step, after another batch where one is given, and take the gradients of the examples."""
        with (
            self.ready(seed, steady=steady) as (module, draws),
            self._after(module, before, seed),
            self.per_example(),
            example_gradients(
                module,
                examples=len(examples),
                public=self.public,
                views=self.views,
                layouts=self.layouts,
            ) as gradients,
        ):
            self.call(module, examples)
        return Found(gradients, draws.used)

    @contextmanager
    def per_example(self) -> Iterator[None]:
        """Turn what is raised because the layers are listened to into a refusal: the plain step has run."""
        try:
            yield
        except Exception as error:
            shared = [
                name
                for name, known in self.layouts.items()
                if name in self.modules and any(layout.shared for layout in known)
            ]
            if isinstance(error, UnsupportedError) and not shared:
                raise
            raise refusals.fails_per_example(error, shared) from error

    def trace(
        self, examples: Sequence[Any], seed: int, *, steady: bool, cut: bool, before: Sequence[Any] | None = None
    ) -> tuple[Trace, bool]:
        """Run the step and write down what happens in the modules, after another batch where one is given."""
        with self.ready(seed, steady=steady) as (module, draws):
            places, count = self.places, len(examples)
            with self._after(module, before, seed), traced(module, places, examples=count, cut=cut) as trace:
                self.call(module, examples)
        return trace, draws.used

    @contextmanager
    def _after(self, module: nn.Module, before: Sequence[Any] | None, seed: int) -> Iterator[None]:
        """Let a batch go before, if there is one."""
        if before is None:
            yield
            return
        with traced(module, cut=True):
            self.call(module, before)
            if self.finish is not None:
                self.finish(module)
        with seeded(seed, self.devices):
            yield

    def find_layouts(self, batch: Sequence[Any]) -> None:
        """Find out where the examples are, from two of those of a batch."""
        longest = max(batch, key=size)
        other = next((example for example in batch if example is not longest), longest)
        one: tuple[dict[str, list[torch.Size]], Trace] = ({}, Trace())
        two = one
        for attempt in range(4):  # what drops layers at random may not take the same path at once
            one = self._shapes([longest, other], SEED + attempt)
            two = self._shapes([longest, other, longest], SEED + attempt)
            if {name: len(seen) for name, seen in one[0].items()} == {name: len(seen) for name, seen in two[0].items()}:
                break
        layouts: dict[str, list[Layout]] = {}
        for name, shapes in one[0].items():
            others = two[0].get(name, [])
            known = []
            for first, second in zip(shapes, others, strict=False):
                layout = infer_layout(first, second, sizes=(2, 3))
                if layout is None:
                    raise refusals.no_layout(self.modules, name, [tuple(first), tuple(second)])
                known.append(layout)
            if len(shapes) != len(others) and len({layout.dimension for layout in known}) > 1:
                raise refusals.varying_path(self.modules, name)
            if known:
                layouts[name] = known
        self.layouts = layouts
        self.places = places_of_examples(one[1], two[1], sizes=(2, 3))

    def _shapes(self, examples: Sequence[Any], seed: int) -> tuple[dict[str, list[torch.Size]], Trace]:
        with (
            self.ready(seed, steady=False) as (module, _),
            self.per_example(),
            listening(module, ExampleGradients(module, self.public), views=self.views) as recorder,
        ):
            recorder.seen = {}
            recorder.start(len(examples))
            with traced(module) as trace:
                self.call(module, examples, backward=False)
            return recorder.seen, trace
