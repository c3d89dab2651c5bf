"""Whether private data reach what is declared public: by a batch, by the batch before, now and at other moments.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.gradients.probe_trials import trials
    >>> module = nn.ModuleDict({"public": nn.Linear(2, 1), "private": nn.Linear(2, 1)})
    >>> module.mean = torch.zeros(2)
    >>> def step(module, examples, backward):
    ...     module["public"](module.mean).sum().backward()
    ...     module.mean = torch.stack(examples).mean(0)
    >>> examples = list(torch.randn(8, 2))
    >>> probe = PublicComparison(module, step, examples, public=["public.weight", "public.bias"])
    >>> probe.check_public(trials(examples, 2), probe.plain(examples[:4])[1])
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.UnsupportedError: the independence probe replaced an example, and ...
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients import probe_refusals as refusals
from lightning_privacy.gradients.probe_comparison import ProbeComparison
from lightning_privacy.gradients.probe_indices import CheckedValues
from lightning_privacy.gradients.probe_trials import Trial, same_batch
from lightning_privacy.gradients.probe_updates import PublicUpdates

__all__ = ["PublicComparison"]


class PublicComparison(ProbeComparison):
    """Compares what public parameters get next to an example and next to others, and after it and after others."""

    def check_public(self, tried: Sequence[Trial], first: PublicUpdates) -> None:
        """Compare in all trials, then what batches leave behind, then both at other moments of training.

        Args:
            tried: the trials; those with the wildest values come last.
            first: of the batch of the first one.

        Raises:
            UnsupportedError: an example changes how a public parameter is trained.
        """
        known: list[tuple[Sequence[Any], PublicUpdates]] = [(tried[0].batch, first)]
        for trial in tried:
            found = next((updates for batch, updates in known if same_batch(batch, trial.batch)), None)
            if found is None:
                found = self._updates(trial, trial.batch)
                if found is None:
                    continue
                known.append((trial.batch, found))
            self._compare(found, self._updates(trial, trial.replaced))
        self._check_memory_of_public(tried[0], tried[-1])
        for moment in self.moments:
            with moment.enter():
                try:
                    self._check_at_moment(replace(tried[0], made=True))  # a step need not run at all times
                except UnsupportedError as error:
                    error.add_note(f"This was seen {moment.label}, and not before.")
                    raise

    def _check_memory_of_public(self, *tried: Trial) -> None:
        """Compare after one batch and after another: what is remembered need not touch any example's own gradient."""
        batch = tried[0].batch
        for trial in tried:
            one, two = (self._updates(trial, batch, before=before) for before in (trial.batch, trial.replaced))
            self._compare(one, two)

    def _check_at_moment(self, trial: Trial) -> None:
        one = self._updates(trial, trial.batch, before=trial.batch)
        for batch, before in ((trial.batch, trial.replaced), (trial.replaced, trial.batch)):
            self._compare(one, self._updates(trial, batch, before=before))

    def _updates(
        self, trial: Trial, batch: Sequence[Any], *, before: Sequence[Any] | None = None
    ) -> PublicUpdates | None:
        """Run a batch of a trial; None where the step can't take the values that were made for it."""
        if not trial.made:
            return self.plain(batch, before=before)[1]
        try:
            with CheckedValues() if self.devices else nullcontext():
                return self.plain(batch, before=before)[1]
        except Exception:  # noqa: BLE001 - whatever it raises, training would have stopped there too
            return None

    def _compare(self, one: PublicUpdates | None, two: PublicUpdates | None) -> None:
        if one is None or two is None:
            return
        name = one.changed(two, tolerance=self.tolerance)
        if name is not None:
            raise refusals.reaches_public(name)
