"""What a federated fit can't do, found before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import LBFGS, Optimizer

from lightning_privacy._lightning import LightningDataModule, LightningModule
from lightning_privacy.callbacks._preconditions import check_augmentation, check_data_ledger
from lightning_privacy.callbacks._trainer import starts_copies, synchronises_batch_norm
from lightning_privacy.callbacks.group_dro import GroupDRO
from lightning_privacy.callbacks.reweighing import Reweighing
from lightning_privacy.data.nested import nested
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.inspection import refuse_optimizer
from lightning_privacy.strategies._client_metrics import refuse_persistent
from lightning_privacy.strategies._plan import Plan

__all__ = ["check_fit", "check_launcher", "check_module", "check_optimizers", "check_prepared", "check_private_fit"]

_HOOKS_OF_A_STEP = ("optimizer_step", "backward")


def check_fit(trainer: Any, module: LightningModule) -> None:
    """Refuse what the trainer or the module asks for and rounds don't have.

    Raises:
        UnsupportedError: Naming the argument and the way out.
    """
    check_module(module)
    for callback in trainer.callbacks:
        if isinstance(callback, GroupDRO):
            raise UnsupportedError(
                "GroupDRO follows the losses of groups from step to step, and here every client steps by itself: one "
                "client's losses would weigh the next one's, and depend on who was trained before. Use "
                "aggregator=QFFL(...), which looks after the clients that are worst off, or Reweighing(counts=...)"
            )
        if isinstance(callback, Reweighing) and callback.weights is None:
            raise UnsupportedError(
                "Reweighing would count the groups and labels of all clients in one place, which a federation has not: "
                "give it public counts, Reweighing(counts=[[...]])"
            )
    if synchronises_batch_norm(trainer):
        raise UnsupportedError(
            "Trainer(sync_batchnorm=True) normalises with statistics over all processes, and each of them trains other "
            "clients: remove it; running statistics are averaged over the clients at the end of a round"
        )
    if trainer.overfit_batches > 0:
        raise UnsupportedError(
            f"Trainer(overfit_batches={trainer.overfit_batches}) is not supported by FederatedStrategy: give a small "
            "data set with torch.utils.data.Subset instead"
        )
    if trainer.reload_dataloaders_every_n_epochs:
        raise UnsupportedError(
            "Trainer(reload_dataloaders_every_n_epochs="
            f"{trainer.reload_dataloaders_every_n_epochs}) is not supported by FederatedStrategy: the clients of a run "
            "are fixed when it starts"
        )


def check_module(module: LightningModule) -> None:
    """Refuse a module whose steps are not those of the local loop.

    Raises:
        UnsupportedError: It steps by itself, or overrides a hook that the local loop doesn't call.
    """
    if not module.automatic_optimization:
        raise UnsupportedError(
            "automatic_optimization=False: a client's steps are the strategy's own loop over training_step, so a "
            "module that steps by itself would step the server's optimizer; return the loss from training_step and set "
            "automatic_optimization=True"
        )
    for name in _HOOKS_OF_A_STEP:
        if getattr(type(module), name) is not getattr(LightningModule, name):
            raise UnsupportedError(
                f"{type(module).__name__} overrides {name}, which the local loop of a client does not call; remove the "
                "override, or put what it does in training_step or in the optimizer"
            )


def check_launcher(launcher: object, plan: Plan) -> None:
    """Refuse processes that are copies of the program's, where an account is kept of what they release.

    Raises:
        UnsupportedError: Naming the way out.
    """
    if plan.private and starts_copies(launcher):
        raise UnsupportedError(
            "start_method='fork' or 'spawn' trains in processes whose ledgers end with them, and the program that "
            "started them would report that nothing was released: use start_method='popen', or torchrun"
        )


def check_private_fit(trainer: Any, plan: Plan) -> None:
    """Refuse what would void a guarantee for clients or for their examples.

    Args:
        trainer: The trainer, in ``setup``.
        plan: How rounds go.

    Raises:
        UnsupportedError: Naming the cause and the way out.
    """
    if not plan.private:
        return
    check_augmentation(trainer)
    refuse_persistent(trainer.lightning_module)
    check_prepared(getattr(trainer, "datamodule", None), plan)


def check_prepared(source: Any, plan: Plan) -> None:
    """Refuse data that were prepared at a cost that the guarantee for clients or for their examples does not have.

    Args:
        source: A DataModule, or the data set of a loader, with all that stands behind it; None for none.
        plan: How rounds go.

    Raises:
        UnsupportedError: Naming the cause and the way out.
    """
    if plan.privacy is not None:
        check_data_ledger(source, plan.privacy.ledger, clients=True)
    elif plan.private:
        sources = [source] if isinstance(source, LightningDataModule) else nested(source)
        learning = next((each for each in sources if getattr(each, "learns_from_records", False)), None)
        if learning is not None:
            raise UnsupportedError(
                f"{type(learning).__name__} learns from the records it prepares, and with example_privacy every "
                "client has a ledger of its own, none of which has that: prepare the data before, with public "
                "statistics"
            )


def check_optimizers(
    optimizers: Sequence[Optimizer], schedulers: Sequence[Any], module: LightningModule | None = None
) -> None:
    """Refuse what ``configure_optimizers`` gives and clients can't use.

    Args:
        optimizers: As Lightning found them.
        schedulers: Lightning's configurations of schedulers.
        module: Whose parameters they are for; None where that is known.

    Raises:
        UnsupportedError: Several or no optimizer, one that calls a closure, or a scheduler that counts batches.
        ConfigurationError: It holds a tensor that is no parameter of the module: nobody would put it back for the next
            client.
    """
    if len(optimizers) != 1:
        raise UnsupportedError(
            f"configure_optimizers gives {len(optimizers)} optimizers, and a client trains with exactly one: put all "
            "parameters in one optimizer, with parameter groups where they need different learning rates"
        )
    if isinstance(optimizers[0], LBFGS):
        raise UnsupportedError("LBFGS evaluates its loss several times a step, which the local loop does not do")
    if module is not None:
        refuse_optimizer(optimizers[0], module)
    for config in schedulers:
        if config.interval == "step":
            raise UnsupportedError(
                f"{type(config.scheduler).__name__} has interval='step' and expects one call per batch, but "
                "global_step counts rounds here: a schedule of the clients' learning rate goes by epochs of rounds; "
                "use interval='epoch'"
            )
