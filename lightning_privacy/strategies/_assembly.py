"""From a strategy's plan to what runs the rounds of a fit."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.callbacks._processes import processes_of
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.local import LocalLoop
from lightning_privacy.strategies._client_step import ClientStep, gradient_clip
from lightning_privacy.strategies._client_stores import ClientStores
from lightning_privacy.strategies._client_trainer import ClientTrainer
from lightning_privacy.strategies._clients import Clients
from lightning_privacy.strategies._example_privacy import private_loop
from lightning_privacy.strategies._federated_checks import check_prepared
from lightning_privacy.strategies._federation import Federation
from lightning_privacy.strategies._local_settings import LocalSettings
from lightning_privacy.strategies._plan import Plan
from lightning_privacy.strategies._vectorized_trainer import VectorizedTrainer

__all__ = ["LocalWork", "assemble"]


@dataclass(frozen=True)
class LocalWork:
    """How long a client trains in a round; one of the two is None.

    Args:
        epochs: Local epochs.
        steps: Optimizer steps.
    """

    epochs: int | None
    steps: int | None


def assemble(
    plan: Plan,
    trainer: Trainer,
    module: LightningModule,
    *,
    model: FlatModel,
    optimizer: Optimizer,
    clients: Clients,
    work: LocalWork,
    settings: LocalSettings,
    cohort_seed: int,
) -> Federation:
    """Put together what runs the rounds.

    Args:
        plan: How.
        trainer: The trainer, in its first round.
        module: The user's.
        model: The module, as a vector.
        optimizer: The clients'.
        clients: Who there is.
        work: Of a client.
        settings: Of a client's steps.
        cohort_seed: Of the cohorts.

    Raises:
        UnsupportedError: The clients' data or the module would void a guarantee.
    """
    check_prepared(getattr(clients.loader, "dataset", None), plan)
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    initial = None if scaler is None else scaler.state_dict()
    loop = LocalLoop(
        ClientStep(trainer, module),
        epochs=work.epochs,
        steps=work.steps,
        accumulate=settings.accumulate_grad_batches,
        clip=gradient_clip(module, settings.gradient_clip_val, settings.gradient_clip_algorithm),
        scaler=scaler,
    )
    reset = None if scaler is None or initial is None else lambda: scaler.load_state_dict(initial)
    parts = (plan, model, optimizer, loop, clients, ClientStores())
    client_trainer: ClientTrainer
    if plan.vectorize > 1:
        client_trainer = VectorizedTrainer(*parts, trainer=trainer, module=module, settings=settings)
    else:
        private = private_loop(plan, trainer, module, clients, loop, settings)
        client_trainer = ClientTrainer(*parts, private, reset)
    return Federation(plan, client_trainer, processes_of(trainer), cohort_seed)
