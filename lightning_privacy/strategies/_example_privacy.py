"""Example-level privacy inside clients in a fit: what it refuses, what it is planned for, when it ends."""

from __future__ import annotations

from pathlib import Path

from lightning_privacy._lightning import LightningModule, Trainer, rank_zero_info
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.sweep import SWEEP_CAVEAT, running_sweep
from lightning_privacy.callbacks._epoch_batches import largest_microbatch
from lightning_privacy.callbacks._probing import probe_training_step
from lightning_privacy.callbacks._processes import processes_of
from lightning_privacy.callbacks._step_journal import journal_path
from lightning_privacy.data.nested import is_resampled
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.federated.example_privacy import ExamplePrivacy
from lightning_privacy.federated.local import LocalLoop
from lightning_privacy.federated.private_local import PrivateLocalLoop
from lightning_privacy.strategies._client_step import ClientStep, gradient_clip
from lightning_privacy.strategies._clients import Clients, SiloClients
from lightning_privacy.strategies._local_settings import LocalSettings
from lightning_privacy.strategies._plan import Plan

__all__ = ["keep_example_journal", "private_loop", "stop_when_all_spent", "tell_example_guarantee"]

_FIGURES = (
    "Figures of clients that are logged while training (the train loss, federated/loss and its spread, per client in "
    "the strategy's history) are computed on their examples without noise. Epsilon is about what clients send of the "
    "model, not about publishing them."
)


def private_loop(
    plan: Plan, trainer: Trainer, module: LightningModule, clients: Clients, loop: LocalLoop, settings: LocalSettings
) -> PrivateLocalLoop | None:
    """The local loop of private examples, planned and probed; None where there is no example privacy.

    Args:
        plan: How rounds go.
        trainer: The trainer, in its first round.
        module: The user's.
        clients: Who there is.
        loop: The local loop without privacy, which knows how many steps a client takes.
        settings: Of a client's steps.

    Raises:
        UnsupportedError: The module or the precision would void the guarantee, or the loader can't be drawn from.
        ConfigurationError: The object is in use for other clients.
    """
    privacy = plan.example_privacy
    if privacy is None:
        return None
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise UnsupportedError(
            f"example_privacy with precision={trainer.precision!r}: the loss scale of half precision follows overflows "
            "of private gradients; use precision='bf16-mixed' or 32"
        )
    rows = clients.batch_size
    if isinstance(clients, SiloClients):
        sizes = processes_of(trainer).gather(rows)
        if len(set(sizes)) > 1:
            raise UnsupportedError(
                f"example_privacy needs one batch size for all silos, whose loaders have {sizes}: each would be "
                "charged at the rate of another one; give the loaders the same batch_size"
            )
    if is_resampled(getattr(clients.loader, "dataset", None)):
        raise UnsupportedError(
            "the data set was resampled, so that an example may be in it several times, and epsilon would be that of "
            "one: leave resample out with example_privacy"
        )
    steps = [
        plan.algorithm.trainings * loop.num_steps(clients.batches_per_epoch(client)) for client in range(clients.count)
    ]
    privacy.plan(
        [clients.num_examples(client) for client in range(clients.count)],
        batch_size=rows * settings.accumulate_grad_batches,
        steps=steps,
        clients=clients.describe(),
    )
    privacy.add_caveat(_FIGURES)
    if running_sweep():
        privacy.add_caveat(SWEEP_CAVEAT)
    made = PrivateLocalLoop(
        ClientStep(trainer, module),
        module,
        privacy,
        most_rows=largest_microbatch(rows),
        trainings=plan.algorithm.trainings,
        clip=gradient_clip(module, settings.gradient_clip_val, settings.gradient_clip_algorithm),
    )
    if privacy.probe:
        made.use_layouts(probe_training_step(trainer, module, clients.loader))
    return made


def keep_example_journal(privacy: ExamplePrivacy, trainer: Trainer) -> None:
    """Write every round down before it happens, from the first checkpoint on, which would not know of it."""
    path = Path(journal_path(trainer.log_dir or trainer.default_root_dir, privacy.run_id))
    if trainer.is_global_zero:
        path.parent.mkdir(parents=True, exist_ok=True)
    trainer.strategy.barrier("journal of private steps")
    privacy.keep_journal(path, write=trainer.is_global_zero)


def stop_when_all_spent(privacy: ExamplePrivacy, trainer: Trainer) -> None:
    """End training after the round after which no client can pay for another."""
    if trainer.should_stop or not privacy.exhausted():
        return
    if trainer.global_step + 1 < trainer.estimated_stepping_batches:
        rank_zero_info(
            f"example_privacy: no client can pay for another round within epsilon={privacy.budget:g}; training stops"
        )
    trainer.should_stop = True


def tell_example_guarantee(privacy: ExamplePrivacy) -> None:
    """Say at the end of a fit what holds for the examples."""
    if privacy.clients:
        epsilon = epsilon_text(privacy.epsilon(exact=True), budget=privacy.budget)
        rank_zero_info(
            f"Trained with (epsilon={epsilon}, delta={privacy.delta:g}) differential privacy per example inside "
            "each client, at the most; example_privacy.summary() has the details"
        )
