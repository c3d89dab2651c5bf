"""What a fit promises its clients and their examples: planned, written down, watched, told at the end."""

from __future__ import annotations

import secrets

from lightning_privacy._lightning import Trainer
from lightning_privacy.callbacks._processes import processes_of
from lightning_privacy.strategies._client_privacy import (
    hint_at_statistics,
    keep_journal,
    note_stores,
    prepare_privacy,
    stop_when_spent,
    tell_guarantee,
    warn_of_monitors,
)
from lightning_privacy.strategies._example_privacy import (
    keep_example_journal,
    stop_when_all_spent,
    tell_example_guarantee,
)
from lightning_privacy.strategies._federation import Federation
from lightning_privacy.strategies._plan import Plan

__all__ = ["Guarantees"]

_SECRET_BITS = 127


class Guarantees:
    """Client privacy and example privacy in one fit; either may be missing.

    Args:
        plan: How rounds go.
        secret_cohorts: Whether cohorts are drawn from a seed that nobody knows.
    """

    def __init__(self, plan: Plan, *, secret_cohorts: bool) -> None:
        self._plan = plan
        self._secret_cohorts = secret_cohorts
        self._journals_kept = False
        self._told: set[str] = set()

    def cohort_seed(self, trainer: Trainer) -> int:
        """Of the cohorts of this fit, the same on every process: a secret, where privacy counts on it."""
        if not self._secret_cohorts:
            return self._plan.seed
        return processes_of(trainer).same(secrets.randbits(_SECRET_BITS))

    def prepare(self, trainer: Trainer, federation: Federation) -> None:
        """Plan the rounds of the fit; before a state is loaded."""
        privacy = self._plan.privacy
        if privacy is not None:
            prepare_privacy(privacy, trainer, federation.clients.count, self._plan.cohorts, secret=self._secret_cohorts)
            hint_at_statistics(privacy, federation.model)

    def begin(self, trainer: Trainer, *, resumed: bool, keeps: bool) -> None:
        """Start to write down; after a state was loaded.

        Args:
            trainer: The trainer.
            resumed: Whether there was a state.
            keeps: Whether checkpoints hold something of single clients beside what the plan says.
        """
        plan = self._plan
        if resumed or trainer.checkpoint_callbacks:
            self.keep_journals(trainer)
        if plan.privacy is not None and (keeps or plan.persistent_optimizer or plan.transforms or plan.keeps_memory):
            note_stores(plan.privacy)

    def keep_journals(self, trainer: Trainer) -> None:
        """Write every round down before it happens; from the first checkpoint on."""
        if self._journals_kept:
            return
        if self._plan.privacy is not None:
            keep_journal(self._plan.privacy, trainer)
        if self._plan.example_privacy is not None:
            keep_example_journal(self._plan.example_privacy, trainer)
        self._journals_kept = True

    def stop_when_spent(self, trainer: Trainer) -> None:
        """End training after the last round that a budget pays for."""
        if self._plan.privacy is not None:
            stop_when_spent(self._plan.privacy, trainer)
        if self._plan.example_privacy is not None:
            stop_when_all_spent(self._plan.example_privacy, trainer)

    def watch(self, trainer: Trainer) -> None:
        """Warn of what acts on figures of clients; after they were logged."""
        if self._plan.privacy is not None:
            warn_of_monitors(self._plan.privacy.ledger.add_caveat, trainer, self._told)
        if self._plan.example_privacy is not None:
            warn_of_monitors(self._plan.example_privacy.add_caveat, trainer, self._told)

    def tell(self) -> None:
        """Say at the end of a fit what holds."""
        if self._plan.privacy is not None:
            tell_guarantee(self._plan.privacy)
        if self._plan.example_privacy is not None:
            tell_example_guarantee(self._plan.example_privacy)
