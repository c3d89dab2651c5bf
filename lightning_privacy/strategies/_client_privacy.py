"""Client-level privacy in a fit: how many rounds it is planned for, where it is written down, when it stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from lightning_privacy._lightning import Trainer, rank_zero_info, rank_zero_warn
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.sweep import note_sweep
from lightning_privacy.callbacks._monitored_metrics import monitors
from lightning_privacy.callbacks._step_journal import journal_path
from lightning_privacy.callbacks._trainer import training_metrics
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.cohorts import CohortSampler
from lightning_privacy.federated.flat import FlatModel

__all__ = [
    "hint_at_statistics",
    "keep_journal",
    "note_stores",
    "prepare_privacy",
    "stop_when_spent",
    "tell_guarantee",
    "warn_of_monitors",
]

_FREE = (
    "federated/epsilon",
    "federated/example_epsilon",
    "federated/max_delta_norm",
    "federated/bytes",
    "federated/seconds",
)

_FIGURES = (
    "Figures of clients that are logged while training are computed on their data without noise: the train loss, "
    "federated/loss and its spread, federated/cosine, federated/clients, norms of deltas before the noise, and who "
    "took part and failed in the strategy's history. Epsilon is about the model, not about publishing them."
)
_STORES = (
    "Checkpoints hold what clients keep for themselves (personal parameters, moments, errors of compression), without "
    "noise, and thereby who has taken part: keep checkpoints as secret as the data, and publish the weights alone."
)
_SEED = (
    "The seed of the cohorts was given (FederatedStrategy(seed=...)), and epsilon holds against those only who can "
    "neither know nor guess it: leave it out (seed=None), and cohorts are drawn in secret."
)


def prepare_privacy(
    privacy: ClientPrivacy, trainer: Trainer, num_clients: int, cohorts: CohortSampler, *, secret: bool
) -> None:
    """Plan the rounds of a fit.

    Args:
        privacy: The user's.
        trainer: Its limits say how many rounds there will be.
        num_clients: Of the federation.
        cohorts: How they are drawn.
        secret: Whether they are drawn from a seed that nobody knows.

    Raises:
        ConfigurationError: Noise is to be chosen for a fit without an end.
    """
    rounds = trainer.estimated_stepping_batches
    if not privacy.planned and privacy.needs_calibration and math.isinf(rounds):
        raise ConfigurationError(
            "client_privacy has an epsilon and no noise_multiplier, and the trainer has no end (max_epochs=-1): set "
            "max_epochs or max_steps, or give noise_multiplier too, and training stops at epsilon"
        )
    left = 1 if math.isinf(rounds) else max(1, int(rounds) - trainer.global_step)
    privacy.plan(num_clients, cohorts, left)
    privacy.ledger.add_caveat(_FIGURES)
    note_sweep(privacy.ledger)
    if not secret and cohorts.expected_size(num_clients) < num_clients:
        privacy.ledger.add_caveat(_SEED)


def hint_at_statistics(privacy: ClientPrivacy, model: FlatModel) -> None:
    """Warn where running statistics share the clipping norm with the weights, as they mostly use it up."""
    layers = sorted({name.rpartition(".")[0] for name in model.buffer_names})
    if layers:
        rank_zero_warn(
            f"client_privacy clips the running statistics of {', '.join(map(repr, layers[:3]))}"
            f"{' and more' if len(layers) > 3 else ''} together with the weights, to max_delta_norm="
            f"{privacy.max_delta_norm:g}: they often move further than all weights, and get noise as well. Use "
            "GroupNorm, or leave them to the clients with personal=[torch.nn.BatchNorm2d]",
            stacklevel=2,
        )


def keep_journal(privacy: ClientPrivacy, trainer: Trainer) -> None:
    """Write every round down before it happens, from the first checkpoint on, which would not know of it.

    Args:
        privacy: The user's.
        trainer: Says where; every process calls this.
    """
    path = Path(journal_path(trainer.log_dir or trainer.default_root_dir, privacy.run_id))
    if trainer.is_global_zero:
        path.parent.mkdir(parents=True, exist_ok=True)
    trainer.strategy.barrier("federated journal")
    privacy.keep_journal(path, write=trainer.is_global_zero)


def warn_of_monitors(add_caveat: Callable[[str], None], trainer: Trainer, told: set[str]) -> None:
    """Warn of what acts on figures of clients without noise, once each, and note it in the ledger.

    Args:
        add_caveat: Notes a sentence.
        trainer: After the first figures were logged.
        told: Names that were told of; grows.
    """
    watching = monitors(trainer)
    if not watching:
        return
    for metric in training_metrics(trainer):
        watchers = [watcher for key in metric.keys for watcher in watching.get(key, [])]
        if metric.name in told or metric.name in _FREE or not watchers:
            continue
        told.add(metric.name)
        caveat = (
            f"{' and '.join(watchers)} acted on '{metric.name}', a figure of the clients without noise: what that "
            "decided is a release that epsilon does not cover."
        )
        add_caveat(caveat)
        rank_zero_warn(
            f"{caveat} Monitor a metric of a validation set of other people, or decide by a number of rounds.",
            stacklevel=2,
        )


def note_stores(privacy: ClientPrivacy) -> None:
    """Say in the ledger that checkpoints hold what clients keep for themselves."""
    privacy.ledger.add_caveat(_STORES)


def stop_when_spent(privacy: ClientPrivacy, trainer: Trainer) -> None:
    """End training after the round that was the last one within the budget."""
    if privacy.affords_round() or trainer.should_stop:
        return
    if trainer.global_step + 1 < trainer.estimated_stepping_batches:
        rank_zero_info(
            f"client_privacy: the next round would exceed epsilon={privacy.ledger.budget:g}; training stops at "
            f"{_spent(privacy.ledger)}"
        )
    trainer.should_stop = True


def tell_guarantee(privacy: ClientPrivacy) -> None:
    """Say at the end of a fit what holds for the model."""
    ledger = privacy.ledger
    if ledger.history:
        rank_zero_info(
            f"Trained with (epsilon={_spent(ledger)}, delta={ledger.delta:g}) differential privacy per client: "
            f"noise multiplier {privacy.noise_multiplier:.4g}; client_privacy.summary() has the details"
        )


def _spent(ledger: PrivacyLedger) -> str:
    return epsilon_text(ledger.epsilon(exact=True), budget=ledger.budget)
