"""The independence probe: whether the gradient of an example depends on that example alone.

Clipping bounds what one example does only while its gradient is its own. A training step can break that in places
where no layer is to blame: statistics over the batch, MixUp, a loss divided by a count. The probe runs the real step
on a few small batches before the first one that counts, and compares:

1. *Layouts*: batches of two and of three examples tell where the examples are in the output of each layer.
2. *Nothing unexplained*: the gradients of the examples add up to what autograd finds for the whole batch.
3. *Independence*: one example is replaced, by real ones and by extremes; the gradients of the others must stay. What
   draws random numbers is run with several seeds: mixing that happens with probability 1/2 in a batch, with a random
   partner, is missed with probability below 1%, with probability 1/5 in one of six cases.
4. *Length*: a longer example must not change the others through padding.
5. *Scale*: an example has, alone, a gradient larger by the number of examples than in a batch: the loss is a mean.
6. *Memory*: the batch before must not change the gradients.

Nothing is released: no number leaves the probe but where it looks, so it costs no budget. (That it refused, and a
layout, depend on shapes and on code. A step that couples examples only for some data can be missed.)

Example:
    >>> import torch
    >>> from torch import nn
    >>> def step(module, examples, backward):
    ...     x = module(torch.stack(examples))
    ...     loss = (x / x.std(0)).square().mean()
    ...     if backward:
    ...         loss.backward()
    >>> IndependenceProbe(nn.Linear(3, 2), step, list(torch.randn(8, 3))).run()
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.UnsupportedError: the independence probe replaced one example of a small batch, and ...
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_privacy._validate import one_of, positive, positive_int
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.gradients import probe_refusals as refusals
from lightning_privacy.gradients.layout import Layout, Layouts, infer_layout
from lightning_privacy.gradients.probe_examples import Trial, by_variety, lengths_differ, size, trials
from lightning_privacy.gradients.probe_gradients import (
    ExampleGradients,
    example_gradients,
    listening,
    plain_gradients,
)
from lightning_privacy.gradients.probe_randomness import seeded, untouched_generators, without_dropout
from lightning_privacy.gradients.probe_rows import changed_rows, tolerance_for
from lightning_privacy.gradients.probe_trace import Key, Trace, first_change, places_of_examples, traced

__all__ = ["IndependenceProbe", "Step"]

_POOL = 8
"""Examples to choose from."""
_ATTEMPTS = 10
"""Replacements, each with a seed of its own where the step draws random numbers."""
_FULL = 2
"""Replacements in the first batch for which all gradients are compared; for the others it is the values, and what the
loss makes of them."""
_SEED = 20
_WIDER = 20.0
"""Kernels for batches of different sizes round differently, by more than those for one size."""


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
class _Found:
    """Gradients of the examples of one run, and whether the step drew random numbers."""

    gradients: ExampleGradients
    random: bool


class IndependenceProbe:
    """Runs a training step on small batches to tell whether examples influence each other's gradients.

    Args:
        module: the network; the probe may do with it as it likes, so give it a copy. Its parameters stay as they are.
        step: runs the step.
        examples: a few, as the data set returns them, or lists of so many as there are views.
        public: names of parameters whose gradients never depend on private data.
        views: how many rows of a batch belong to one example.
        loss_reduction: what the loss is declared to be over the batch: ``"mean"`` or ``"sum"``.
        dtype: the coarsest type the step computes in.

    Raises:
        ConfigurationError: no example, or a module that can't be copied.
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
    ) -> None:
        one_of(("mean", "sum"), loss_reduction=loss_reduction)
        positive(examples=len(examples))
        self._module = module
        self._step = step
        self._pool = by_variety(examples, _POOL)
        self._public = frozenset(public)
        self._views = positive_int(views=views)
        self._reduction = loss_reduction
        parameters = dict(module.named_parameters())
        self._memo: dict[int, Any] = {id(p): p for p in parameters.values()}
        self._modules = dict(module.named_modules())
        self._layers = {
            name
            for name, layer in self._modules.items()
            if any(p.requires_grad for p in layer.parameters(recurse=False)) or isinstance(layer, nn.MultiheadAttention)
        }
        self._devices = sorted({p.device for p in parameters.values() if p.device.type != "cpu"}, key=str)
        self._tolerance = tolerance_for(dtype)
        self._layouts: Layouts = {}
        self._places: dict[Key, Layout] = {}
        self._random = False

    def run(self) -> Layouts:
        """Run the probe.

        Returns:
            Where the examples are in the outputs of each layer, for :meth:`PrivateGradients.use_layouts`.

        Raises:
            UnsupportedError: the step breaks the guarantee; the message says where and how to mend it.
        """
        with untouched_generators(self._devices):
            tried = trials(self._pool, _ATTEMPTS)
            plain, public = self._plain(tried[0].batch)
            self._find_layouts(tried[0])
            found = self._check_replacements(tried)
            self._check_total(tried[0], plain, found)
            if self._public:
                self._check_public(public, self._plain(tried[0].replaced)[1])
            self._check_more_replacements(tried)
            self._check_length()
            self._check_scale(tried[0], found)
            self._check_memory(tried[0])
        return self._layouts

    # Running the step.

    @contextmanager
    def _ready(self, seed: int, *, steady: bool) -> Iterator[tuple[nn.Module, Any]]:
        """Give a copy of the module in its first state: what a step leaves behind must not reach the next run."""
        try:
            module = copy.deepcopy(self._module, dict(self._memo))
        except Exception as error:
            raise ConfigurationError(
                f"{type(self._module).__name__} can't be copied, which the independence probe needs so as to leave it "
                f"untouched ({type(error).__name__}: {error}): build in setup() or on_train_start what can't be "
                "copied, or switch the probe off with probe=False and see to the independence of examples yourself"
            ) from error
        for parameter in self._memo.values():
            parameter.grad = None
        quiet = without_dropout(module) if steady else nullcontext()
        with seeded(seed, self._devices) as draws, torch.enable_grad(), quiet:
            yield module, draws
        for parameter in self._memo.values():
            parameter.grad = None

    def _call(self, module: nn.Module, examples: Sequence[Any], *, backward: bool = True) -> None:
        rows = examples if self._views == 1 else [view for example in examples for view in example]
        self._step(module, [copy.deepcopy(row) for row in rows], backward)

    def _plain(self, examples: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run the step as it is; whatever is wrong with it comes out here first."""
        with self._ready(_SEED, steady=True) as (module, _), plain_gradients(module, self._public) as gradients:
            try:
                self._call(module, examples)
            except Exception as error:
                error.add_note(
                    f"This happened while the independence probe ran the training step on a batch of {len(examples)} "
                    "examples, before training. The batches of private training have any size."
                )
                raise
        return gradients

    def _gradients(
        self,
        examples: Sequence[Any],
        seed: int = _SEED,
        *,
        steady: bool = True,
        before: Sequence[Any] | None = None,
    ) -> _Found:
        """Run the step, after another batch where one is given, and take the gradients of the examples."""
        with (
            self._ready(seed, steady=steady) as (module, draws),
            self._after(module, before, seed),
            self._per_example(),
            example_gradients(
                module,
                examples=len(examples),
                public=self._public,
                views=self._views,
                layouts=self._layouts,
            ) as gradients,
        ):
            self._call(module, examples)
        return _Found(gradients, draws.used)

    @contextmanager
    def _per_example(self) -> Iterator[None]:
        """Turn what is raised because the layers are listened to into a refusal: the plain step has run."""
        try:
            yield
        except Exception as error:
            shared = [
                name
                for name, known in self._layouts.items()
                if name in self._modules and any(layout.shared for layout in known)
            ]
            if isinstance(error, UnsupportedError) and not shared:
                raise
            raise refusals.fails_per_example(error, shared) from error

    def _trace(
        self, examples: Sequence[Any], seed: int, *, steady: bool, cut: bool, before: Sequence[Any] | None = None
    ) -> tuple[Trace, bool]:
        """Run the step and write down what happens in the modules, after another batch where one is given."""
        with self._ready(seed, steady=steady) as (module, draws):
            places, count = self._places, len(examples)
            with self._after(module, before, seed), traced(module, places, examples=count, cut=cut) as trace:
                self._call(module, examples)
        return trace, draws.used

    @contextmanager
    def _after(self, module: nn.Module, before: Sequence[Any] | None, seed: int) -> Iterator[None]:
        """Let a batch go before, if there is one."""
        if before is None:
            yield
            return
        with traced(module, cut=True):
            self._call(module, before)
        with seeded(seed, self._devices):
            yield

    # Where the examples are.

    def _find_layouts(self, trial: Trial) -> None:
        longest = max(trial.batch, key=size)
        other = next((example for example in trial.batch if example is not longest), longest)
        one: tuple[dict[str, list[torch.Size]], Trace] = ({}, Trace())
        two = one
        for attempt in range(4):  # what drops layers at random may not take the same path at once
            one = self._shapes([longest, other], _SEED + attempt)
            two = self._shapes([longest, other, longest], _SEED + attempt)
            if {name: len(seen) for name, seen in one[0].items()} == {name: len(seen) for name, seen in two[0].items()}:
                break
        layouts: dict[str, list[Layout]] = {}
        for name, shapes in one[0].items():
            others = two[0].get(name, [])
            known = []
            for first, second in zip(shapes, others, strict=False):
                layout = infer_layout(first, second, sizes=(2, 3))
                if layout is None:
                    raise refusals.no_layout(self._modules, name, [tuple(first), tuple(second)])
                known.append(layout)
            if len(shapes) != len(others) and len({layout.dimension for layout in known}) > 1:
                raise refusals.varying_path(self._modules, name)
            if known:
                layouts[name] = known
        self._layouts = layouts
        self._places = places_of_examples(one[1], two[1], sizes=(2, 3))

    def _shapes(self, examples: Sequence[Any], seed: int) -> tuple[dict[str, list[torch.Size]], Trace]:
        with (
            self._ready(seed, steady=False) as (module, _),
            self._per_example(),
            listening(module, ExampleGradients(module, self._public), views=self._views) as recorder,
        ):
            recorder.seen = {}
            recorder.start(len(examples))
            with traced(module) as trace:
                self._call(module, examples, backward=False)
            return recorder.seen, trace

    # Whether they are independent.

    def _check_replacements(self, tried: Sequence[Trial]) -> ExampleGradients:
        """Compare the gradients of the examples beside one that is replaced; returns those of the first batch."""
        first = self._gradients(tried[0].batch)
        self._random = first.random
        alike = [trial for trial in tried if _same(trial.batch, tried[0].batch)]
        for trial in alike[:_FULL]:
            self._compare(trial, first, self._gradients(trial.replaced), _SEED, steady=True)
        return first.gradients

    def _compare(self, trial: Trial, one: _Found, two: _Found, seed: int, *, steady: bool) -> None:
        if bool(self._changed_examples(one, two)[1:].any()):
            raise self._locate(trial, seed, steady=steady)

    def _changed_examples(self, one: _Found, two: _Found, *, wider: float = 1.0) -> Tensor:
        """Return which examples' gradients differ by more than rounding, bool, ``(B,)``."""
        first, second = one.gradients.rows, two.gradients.rows
        total = _lengths(one.gradients if first else two.gradients)
        changed = torch.zeros_like(total, dtype=torch.bool)
        for name in sorted(first.keys() | second.keys()):
            rows, others = first.get(name), second.get(name)
            if rows is None or others is None:  # no gradient at all, in one of the two
                present = others if rows is None else rows
                rows, others = present, None if present is None else torch.zeros_like(present)
            if rows is not None and others is not None:
                tolerance = wider * self._tolerance
                changed |= changed_rows(rows, others, tolerance=tolerance, whole=total).cpu()
        return changed

    def _check_more_replacements(self, tried: Sequence[Trial]) -> None:
        """Compare values and what the loss makes of them, for more replacements and seeds, at a fraction of the work.

        A change is a suspicion; only gradients count.
        """
        steady_traces: list[tuple[Sequence[Any], Trace]] = []
        random = True
        for number, trial in enumerate(tried):
            seed = _SEED + 1 + number if random else _SEED
            reference = None
            if not random:
                reference = next((trace for batch, trace in steady_traces if _same(batch, trial.batch)), None)
            if reference is None:
                reference, random = self._trace(trial.batch, seed, steady=False, cut=True)
                steady_traces.append((trial.batch, reference))
            other, _ = self._trace(trial.replaced, seed, steady=False, cut=True)
            if self._suspicious(reference, other):
                one, two = (self._gradients(batch, seed, steady=False) for batch in (trial.batch, trial.replaced))
                self._compare(trial, one, two, seed, steady=False)

    def _suspicious(self, one: Trace, two: Trace) -> bool:
        return any(
            first_change(one, two, tolerance=self._tolerance, gradients=gradients, only=self._layers) is not None
            for gradients in (False, True)
        )

    def _locate(self, trial: Trial, seed: int, *, steady: bool) -> UnsupportedError:
        """Find out where the examples of a trial meet."""
        one, _ = self._trace(trial.batch, seed, steady=steady, cut=False)
        two, _ = self._trace(trial.replaced, seed, steady=steady, cut=False)
        change = first_change(one, two, tolerance=self._tolerance)
        if change is not None:
            return refusals.mixed_by_layer(self._modules, *change)
        back = first_change(one, two, tolerance=self._tolerance, gradients=True)
        if back is not None and back[1] is not None:
            return refusals.mixed_on_the_way_back(self._modules, back[0])
        return refusals.mixed_by_loss()

    def _check_length(self) -> None:
        """Compare the gradients of short examples next to a short one and next to a longer one."""
        if not lengths_differ(self._pool):
            return
        ordered = sorted(self._pool, key=size)
        short, long = ordered[:3], [*ordered[:2], ordered[-1]]
        one, two = self._gradients(short), self._gradients(long)
        if one.random or two.random:
            return  # other draws for other shapes
        if bool(self._changed_examples(one, two, wider=_WIDER)[:2].any()):
            raise refusals.depends_on_length()

    # Whether all adds up.

    def _check_total(self, trial: Trial, plain: dict[str, Tensor], found: ExampleGradients) -> None:
        """Compare the gradient of the whole batch with the sum over its examples."""
        largest = max((float(gradient.norm()) for gradient in plain.values()), default=0.0)
        differences = {}
        for name in sorted(plain.keys() | found.totals.keys()):
            one, two = plain.get(name), found.totals.get(name)
            if name in self._public:
                continue
            difference = one if two is None else two if one is None else two - one
            scale = max(float(one.norm()) if one is not None else 0.0, 0.01 * largest)
            if difference is not None and not float(difference.norm()) <= _WIDER * self._tolerance * scale:
                differences[name] = float(difference.norm())
        if not differences or not all(bool(gradient.isfinite().all()) for gradient in plain.values()):
            return
        worst = sorted(differences, key=lambda name: -differences[name])[:3]
        layer = self._differing_layer(trial)
        if layer is not None:
            raise refusals.not_per_example(self._modules, layer, worst)
        if self._random:
            return  # the layers that run example by example may have drawn other numbers
        raise refusals.unexplained(worst)

    def _check_public(self, one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
        """Compare the gradients of public parameters next to an example and next to another."""
        for name in sorted(one.keys() | two.keys()):
            first, second = one.get(name), two.get(name)
            if first is None or second is None:
                raise refusals.reaches_public(name)
            rows = first.reshape(1, -1), second.reshape(1, -1)
            if bool(changed_rows(*rows, tolerance=self._tolerance).any()):
                raise refusals.reaches_public(name)

    def _differing_layer(self, trial: Trial) -> str | None:
        """Return the first layer that returns something else when it runs on the examples one by one."""
        one, random = self._trace(trial.batch, _SEED, steady=True, cut=False)
        if random:
            return None
        with self._ready(_SEED, steady=True) as (module, _):
            gradients = example_gradients(
                module, examples=len(trial.batch), public=self._public, views=self._views, layouts=self._layouts
            )
            with gradients, traced(module, self._places, examples=len(trial.batch)) as two:
                self._call(module, trial.batch)
        for key, entry in one.entries.items():
            other = two.entries.get(key)
            if entry.rows is None or other is None or other.rows is None or entry.place == "in":
                continue
            if entry.rows.shape == other.rows.shape and bool(
                changed_rows(entry.rows, other.rows, tolerance=_WIDER * self._tolerance).any()
            ):
                return entry.module
        return None

    def _check_scale(self, trial: Trial, found: ExampleGradients) -> None:
        """Compare the gradient of an example alone with what it is in a batch."""
        count = len(trial.batch)
        ratios: list[float] = []
        for place, example in enumerate(trial.batch):
            if size(example) < max(map(size, trial.batch)):
                continue  # alone it is not padded
            try:
                alone = self._gradients([example])
            except UnsupportedError:
                self._refuse_if_one_fails(example)
                raise
            one, two = _joined(alone.gradients, 0, found), _joined(found, place, found)
            norm = float(two.norm())
            if norm == 0 or not bool(one.isfinite().all() & two.isfinite().all()):
                continue
            ratio = float(one.norm()) / norm
            if not alone.random:
                self._judge_scale(one, two, count)
                return
            ratios.append(ratio)
        if ratios:
            # Random numbers differ between batches of different sizes: the ratio tells 1 from 4, nothing finer.
            middle = sorted(ratios)[len(ratios) // 2]
            summed = middle < count**0.5
            if summed == (self._reduction == "mean"):
                raise refusals.not_a_mean(0 if summed else 1, reduction=self._reduction)

    def _refuse_if_one_fails(self, example: Any) -> None:
        with self._ready(_SEED, steady=True) as (module, _):
            try:
                self._call(module, [example])
            except Exception as error:
                raise refusals.fails_for_one(error) from error

    def _judge_scale(self, alone: Tensor, together: Tensor, count: int) -> None:
        factor = float(alone @ together / (together @ together))
        rest = float((alone - factor * together).norm() / alone.norm()) if float(alone.norm()) > 0 else 1.0
        tolerance = _WIDER * self._tolerance
        if rest > tolerance:
            raise refusals.not_a_mean(None, reduction=self._reduction)
        if abs(factor / count - 1) <= tolerance:
            found = "mean"
        elif abs(factor - 1) <= tolerance:
            found = "sum"
        else:
            found = "other"
        if found != self._reduction:
            raise refusals.not_a_mean({"mean": 1.0, "sum": 0.0}.get(found, 0.5), reduction=self._reduction)

    # Whether one batch leaves something to the next.

    def _check_memory(self, trial: Trial) -> None:
        """Compare the gradients of a batch after one batch and after another."""
        one, two = (
            self._trace(trial.batch, _SEED, steady=True, cut=True, before=before)[0]
            for before in (trial.batch, trial.replaced)
        )
        if not self._suspicious(one, two):
            return
        found = [self._gradients(trial.batch, before=before) for before in (trial.batch, trial.replaced)]
        if bool(self._changed_examples(*found).any()):
            raise refusals.remembers()


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(one is two for one, two in zip(first, second, strict=True))


def _lengths(gradients: ExampleGradients) -> Tensor:
    """Return the length of each example's gradient over all parameters, ``(B,)``."""
    squares = [rows.nan_to_num(0.0, 0.0, 0.0).double().square().sum(1).cpu() for rows in gradients.rows.values()]
    return torch.stack(squares).sum(0).sqrt() if squares else torch.zeros(0)


def _joined(gradients: ExampleGradients, place: int, like: ExampleGradients) -> Tensor:
    """Return what is kept of one example's gradient over all parameters."""
    parts = []
    for name, rows in like.rows.items():
        own = gradients.rows.get(name)
        parts.append(torch.zeros_like(rows[0]) if own is None else own[place])
    return torch.cat(parts) if parts else torch.zeros(1)
