"""What the independence probe compares: two runs of a step that differ in one example.

Example:
    >>> import torch
    >>> from torch import nn
    >>> def step(module, examples, backward):
    ...     x = module(torch.stack(examples))
    ...     loss = (x / x.std(0)).square().mean()
    ...     if backward:
    ...         loss.backward()
    >>> examples = list(torch.randn(8, 3))
    >>> comparison = ProbeComparison(nn.Linear(3, 2), step, examples)
    >>> one, two = comparison.gradients(examples[:4]), comparison.gradients([examples[5], *examples[1:4]])
    >>> comparison.changed_examples(one, two)
    tensor([True, True, True, True])
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients import probe_refusals as refusals
from lightning_privacy.gradients.probe_gradients import ExampleGradients
from lightning_privacy.gradients.probe_indices import CheckedValues
from lightning_privacy.gradients.probe_rows import changed_rows, in_other_order, without_row
from lightning_privacy.gradients.probe_runs import Found, ProbeRuns
from lightning_privacy.gradients.probe_trace import Trace, first_change
from lightning_privacy.gradients.probe_trials import Trial

__all__ = ["ProbeComparison"]


class ProbeComparison(ProbeRuns):
    """Tells whether what the replaced example changed was its own alone, and finds out where if not."""

    def compare(self, trial: Trial, one: Found, two: Found, seed: int, *, steady: bool) -> None:
        """Refuse the step if gradients changed of examples that were not replaced."""
        if bool(without_row(self.changed_examples(one, two), trial.place).any()):
            raise self._locate(trial, seed, steady=steady)

    def changed_examples(self, one: Found, two: Found, *, wider: float = 1.0) -> Tensor:
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
                tolerance = wider * self.tolerance
                changed |= changed_rows(rows, others, tolerance=tolerance, whole=total).cpu()
        return changed

    def tried(self, trial: Trial, batch: Sequence[Any], seed: int) -> tuple[Trace | None, bool]:
        """Trace a batch of a trial; None where the step can't take the values that were made for it."""
        if not trial.made:
            return self.trace(batch, seed, steady=False, cut=True)
        try:
            with CheckedValues() if self.devices else nullcontext():
                return self.trace(batch, seed, steady=False, cut=True)
        except Exception:  # noqa: BLE001 - whatever it raises, training would have stopped there too
            return None, False

    def suspicious(self, one: Trace, two: Trace, place: int) -> bool:
        """Return whether values changed of examples beside the one at ``place``, or what the loss makes of them."""
        return any(
            first_change(one, two, tolerance=self.tolerance, gradients=gradients, only=self.layers, place=place)
            is not None
            for gradients in (False, True)
        )

    def _locate(self, trial: Trial, seed: int, *, steady: bool) -> UnsupportedError:
        """Find out where the examples of a trial meet."""
        one, _ = self.trace(trial.batch, seed, steady=steady, cut=False)
        two, _ = self.trace(trial.replaced, seed, steady=steady, cut=False)
        change = first_change(one, two, tolerance=self.tolerance, place=trial.place)
        if change is not None:
            rows, others = (found.entries[change[0]].rows for found in (one, two))
            if rows is not None and others is not None and in_other_order(rows, others, tolerance=self.tolerance):
                return refusals.other_order(self.modules, change[0])
            return refusals.mixed_by_layer(self.modules, *change)
        back = first_change(one, two, tolerance=self.tolerance, gradients=True, place=trial.place)
        if back is not None and back[1] is not None:
            return refusals.mixed_on_the_way_back(self.modules, back[0])
        return refusals.mixed_by_loss()


def _lengths(gradients: ExampleGradients) -> Tensor:
    """Return the length of each example's gradient over all parameters, ``(B,)``."""
    squares = [rows.nan_to_num(0.0, 0.0, 0.0).double().square().sum(1).cpu() for rows in gradients.rows.values()]
    return torch.stack(squares).sum(0).sqrt() if squares else torch.zeros(0)
