"""The independence probe: whether the gradient of an example depends on that example alone.

Clipping bounds what one example does only while its gradient is its own. A training step can break that in places
where no layer is to blame: statistics over the batch, MixUp, a loss divided by a count. The probe runs the real step
on a few small batches before the first one that counts, and compares:

1. *Layouts*: batches of two and of three examples tell where the examples are in the output of each layer.
2. *Nothing unexplained*: the gradients of the examples add up to what autograd finds for the whole batch.
3. *Independence*: one example is replaced, at the start, in the middle and at the end of a batch, by real ones and by
   extremes, by values and labels that the data don't have, and next to one of its own class; the gradients of the
   others must stay. What draws random numbers is run with several seeds: mixing that happens with probability 1/2 in
   a batch, with a random partner, is missed with probability below 1%; with probability 1/5 in one case of five.
4. *Elsewhere*: the same in a batch of nine, and at other moments of training: another batch of the epoch, the next
   epoch, the last.
5. *Length*: a longer example must not change the others through padding.
6. *Scale*: an example has, alone, a gradient larger by the number of examples than in a batch: the loss is a mean.
7. *Memory*: the batch before must not change the gradients.
8. *Public parts*: neither an example nor the batch before must change their gradients, or when, how often and with
   which settings an optimizer steps on them.

Nothing that was trained is released, so it costs no budget; that a step was refused can depend on the few examples
that were looked at. A step that couples examples only for some data can be missed.

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

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients import probe_refusals as refusals
from lightning_privacy.gradients.layout import Layouts
from lightning_privacy.gradients.probe_examples import lengths_differ, size
from lightning_privacy.gradients.probe_gradients import (
    ExampleGradients,
    example_gradients,
)
from lightning_privacy.gradients.probe_public import PublicComparison
from lightning_privacy.gradients.probe_randomness import untouched_generators
from lightning_privacy.gradients.probe_rows import changed_rows
from lightning_privacy.gradients.probe_runs import SEED, Moment, Step
from lightning_privacy.gradients.probe_trace import Trace, traced
from lightning_privacy.gradients.probe_trials import Trial, hard_trials, large_trial, same_batch, trials

__all__ = ["IndependenceProbe", "Moment", "Step"]

_ATTEMPTS = 8
"""Replacements, each with a seed of its own where the step draws random numbers; those that are made come on top."""
_LATER = 2
"""Seeds for a larger batch, and for each other moment of training, where the step draws random numbers."""
_LARGE = 9
"""Examples of a larger batch."""
_FULL = 2
"""Replacements in the first batch for which all gradients are compared; for the others it is the values, and what the
loss makes of them."""
_WIDER = 20.0
"""Kernels for batches of different sizes round differently, by more than those for one size."""


class IndependenceProbe(PublicComparison):
    """Runs a training step on small batches to tell whether examples influence each other's gradients.

    Args:
        module: the network; the probe may do with it as it likes, so give it a copy. Its parameters stay as they are.
        step: runs the step.
        examples: a few, as the data set returns them, or lists of so many as there are views.
        public: names of parameters whose gradients never depend on private data.
        views: how many rows of a batch belong to one example.
        loss_reduction: what the loss is declared to be over the batch: ``"mean"`` or ``"sum"``.
        dtype: the coarsest type the step computes in.
        finish: what else happens to the module after a batch, before the next one.
        most: examples of the largest batch that may come; None where any may.
        moments: other times of training, such as later epochs, at which a step may do something else.

    Raises:
        ConfigurationError: no example, or a module that can't be copied.
    """

    def run(self) -> Layouts:
        """Run the probe.

        Returns:
            Where the examples are in the outputs of each layer, for :meth:`PrivateGradients.use_layouts`.

        Raises:
            UnsupportedError: the step breaks the guarantee; the message says where and how to mend it.
        """
        with untouched_generators(self.devices):
            tried = trials(self.pool, _ATTEMPTS)
            plain, public = self.plain(tried[0].batch)
            self.find_layouts(tried[0].batch)
            found = self._check_replacements(tried)
            self._check_total(tried[0], plain, found)
            tried = [*tried, *hard_trials(self.pool)]
            if self.public:
                self.check_public(tried, public)
            self._check_more_replacements(tried)
            self._check_elsewhere(tried[0])
            self._check_length()
            self._check_scale(tried[0], found)
            self._check_memory(tried[0])
        return self.layouts

    # Whether they are independent.

    def _check_replacements(self, tried: Sequence[Trial]) -> ExampleGradients:
        """Compare the gradients of the examples beside one that is replaced; returns those of the first batch."""
        first = self.gradients(tried[0].batch)
        self.random = first.random
        alike = [trial for trial in tried if same_batch(trial.batch, tried[0].batch)]
        for trial in alike[:_FULL]:
            self.compare(trial, first, self.gradients(trial.replaced), SEED, steady=True)
        return first.gradients

    def _check_more_replacements(self, tried: Sequence[Trial]) -> None:
        """Compare values and what the loss makes of them, for more replacements and seeds, at a fraction of the work.

        A change is a suspicion; only gradients count.
        """
        steady_traces: list[tuple[Sequence[Any], Trace]] = []
        random = True
        for number, trial in enumerate(tried):
            seed = SEED + 1 + number if random else SEED
            reference = None
            if not random:
                reference = next((trace for batch, trace in steady_traces if same_batch(batch, trial.batch)), None)
            if reference is None:
                reference, drawn = self.tried(trial, trial.batch, seed)
                if reference is None:
                    continue
                random = drawn
                steady_traces.append((trial.batch, reference))
            other, _ = self.tried(trial, trial.replaced, seed)
            if other is not None and (self.outside_layers or self.suspicious(reference, other, trial.place)):
                one, two = (self.gradients(batch, seed, steady=False) for batch in (trial.batch, trial.replaced))
                self.compare(trial, one, two, seed, steady=False)

    def _check_elsewhere(self, trial: Trial) -> None:
        """Compare in a larger batch, now and at other moments of training."""
        large = large_trial(trial, self.pool, _LARGE if self.most is None else min(_LARGE, self.most))
        moments = [None, *self.moments] if len(large.batch) > len(trial.batch) else self.moments
        for moment in moments:
            with nullcontext() if moment is None else moment.enter():
                try:
                    self._compare_cheaply(large)
                except UnsupportedError as error:
                    error.add_note(
                        f"This was seen in a batch of {len(large.batch)} examples"
                        + (", and not in smaller ones." if moment is None else f" {moment.label}, and not before.")
                    )
                    raise

    def _compare_cheaply(self, trial: Trial) -> None:
        """As :meth:`_check_more_replacements`, for one trial."""
        for number in range(_LATER if self.random else 1):
            seed = SEED + 100 + number
            (one, _), (two, _) = (self.tried(trial, batch, seed) for batch in (trial.batch, trial.replaced))
            if one is None or two is None:
                return
            if self.outside_layers or self.suspicious(one, two, trial.place):
                found, other = (self.gradients(batch, seed, steady=False) for batch in (trial.batch, trial.replaced))
                self.compare(trial, found, other, seed, steady=False)

    def _check_length(self) -> None:
        """Compare the gradients of short examples next to a short one and next to a longer one."""
        if not lengths_differ(self.pool):
            return
        ordered = sorted(self.pool, key=size)
        short, long = ordered[:3], [*ordered[:2], ordered[-1]]
        one, two = self.gradients(short), self.gradients(long)
        if one.random or two.random:
            return  # other draws for other shapes
        if bool(self.changed_examples(one, two, wider=_WIDER)[:2].any()):
            raise refusals.depends_on_length()

    # Whether all adds up.

    def _check_total(self, trial: Trial, plain: dict[str, Tensor], found: ExampleGradients) -> None:
        """Compare the gradient of the whole batch with the sum over its examples."""
        largest = max((float(gradient.norm()) for gradient in plain.values()), default=0.0)
        differences = {}
        for name in sorted(plain.keys() | found.totals.keys()):
            one, two = plain.get(name), found.totals.get(name)
            if name in self.public:
                continue
            difference = one if two is None else two if one is None else two - one
            scale = max(float(one.norm()) if one is not None else 0.0, 0.01 * largest)
            if difference is not None and not float(difference.norm()) <= _WIDER * self.tolerance * scale:
                differences[name] = float(difference.norm())
        if not differences or not all(bool(gradient.isfinite().all()) for gradient in plain.values()):
            return
        worst = sorted(differences, key=lambda name: -differences[name])[:3]
        layer = self._differing_layer(trial)
        if layer is not None:
            raise refusals.not_per_example(self.modules, layer, worst)
        if self.random:
            return  # the layers that run example by example may have drawn other numbers
        raise refusals.unexplained(worst)

    def _differing_layer(self, trial: Trial) -> str | None:
        """Return the first layer that returns something else when it runs on the examples one by one."""
        one, random = self.trace(trial.batch, SEED, steady=True, cut=False)
        if random:
            return None
        with self.ready(SEED, steady=True) as (module, _):
            gradients = example_gradients(
                module, examples=len(trial.batch), public=self.public, views=self.views, layouts=self.layouts
            )
            with gradients, traced(module, self.places, examples=len(trial.batch)) as two:
                self.call(module, trial.batch)
        for key, entry in one.entries.items():
            other = two.entries.get(key)
            if entry.rows is None or other is None or other.rows is None or entry.place == "in":
                continue
            if entry.rows.shape == other.rows.shape and bool(
                changed_rows(entry.rows, other.rows, tolerance=_WIDER * self.tolerance).any()
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
                alone = self.gradients([example])
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
            if summed == (self.reduction == "mean"):
                raise refusals.not_a_mean(0 if summed else 1, reduction=self.reduction)

    def _refuse_if_one_fails(self, example: Any) -> None:
        with self.ready(SEED, steady=True) as (module, _):
            try:
                self.call(module, [example])
            except Exception as error:
                raise refusals.fails_for_one(error) from error

    def _judge_scale(self, alone: Tensor, together: Tensor, count: int) -> None:
        factor = float(alone @ together / (together @ together))
        rest = float((alone - factor * together).norm() / alone.norm()) if float(alone.norm()) > 0 else 1.0
        tolerance = _WIDER * self.tolerance
        if rest > tolerance:
            raise refusals.not_a_mean(None, reduction=self.reduction)
        if abs(factor / count - 1) <= tolerance:
            found = "mean"
        elif abs(factor - 1) <= tolerance:
            found = "sum"
        else:
            found = "other"
        if found != self.reduction:
            raise refusals.not_a_mean({"mean": 1.0, "sum": 0.0}.get(found, 0.5), reduction=self.reduction)

    # Whether one batch leaves something to the next.

    def _check_memory(self, trial: Trial) -> None:
        """Compare the gradients of a batch after one batch and after another."""
        one, two = (
            self.trace(trial.batch, SEED, steady=True, cut=True, before=before)[0]
            for before in (trial.batch, trial.replaced)
        )
        if not self.suspicious(one, two, 0):
            return
        found = [self.gradients(trial.batch, before=before) for before in (trial.batch, trial.replaced)]
        if bool(self.changed_examples(*found).any()):
            raise refusals.remembers()


def _joined(gradients: ExampleGradients, place: int, like: ExampleGradients) -> Tensor:
    """Return what is kept of one example's gradient over all parameters."""
    parts = []
    for name, rows in like.rows.items():
        own = gradients.rows.get(name)
        parts.append(torch.zeros_like(rows[0]) if own is None else own[place])
    return torch.cat(parts) if parts else torch.zeros(1)
