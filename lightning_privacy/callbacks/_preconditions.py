"""What a trainer and its module must be for the guarantee to hold; everything else is refused by name.

The checks run before anything is attached and before any training step, in the order a user would
meet the causes: how the trainer runs, how it optimises, how it feeds data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from lightning_privacy._lightning import (
    GradientAccumulationScheduler,
    LightningDataModule,
    LightningModule,
    pl,
)
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._precision_support import check_precision
from lightning_privacy.callbacks._strategy_support import check_strategy
from lightning_privacy.callbacks._trainer import is_compiled, uses_dataloader_iter
from lightning_privacy.data.nested import nested, persons_of
from lightning_privacy.data.persona.persons import check_persons
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.gradients.inspection import refuse_optimizer

__all__ = [
    "check_augmentation",
    "check_batches_are_given",
    "check_callbacks",
    "check_data_ledger",
    "check_optimizers",
    "check_trainer_settings",
]

_SEARCHES = (pl.callbacks.LearningRateFinder, pl.callbacks.BatchSizeFinder)


def check_callbacks(trainer: Any) -> None:
    """Refuse callbacks that would train outside of the private loop, or change what a step is.

    Raises:
        UnsupportedError: For a search that trains on the data before the fit, or a changing accumulation.
    """
    for callback in trainer.callbacks:
        name = type(callback).__name__
        if isinstance(callback, _SEARCHES):
            raise UnsupportedError(
                f"{name} trains on the private data to choose a setting, and nobody accounts for it: search "
                "on public data, or compare private runs and count the epsilon of each"
            )
        if isinstance(callback, GradientAccumulationScheduler):
            raise UnsupportedError(
                f"{name} changes the batch of a step during training, and with it the sample rate: remove "
                "it and set Trainer(accumulate_grad_batches=...) to one number"
            )


def check_augmentation(trainer: Any) -> None:
    """Refuse a DataModule that mixes examples, or makes another number of views than are drawn of each.

    A DataModule says so by ``mixes_examples`` (the name of what mixes them, or None) and ``views_per_example``.

    Raises:
        UnsupportedError: It mixes examples.
        ConfigurationError: The numbers of views differ.
    """
    datamodule = getattr(trainer, "datamodule", None)
    mixing = getattr(datamodule, "mixes_examples", None)
    if isinstance(mixing, str):
        raise UnsupportedError(
            f"the DataModule's transform {mixing} mixes examples: the gradient of a mixture belongs to several of "
            "them, so clipping it bounds what none of them does, and epsilon would be false. Take it out; augment each "
            "example by itself (views=... makes several views of it)"
        )
    views = getattr(datamodule, "views_per_example", None)
    drawn = next((item.example_views for item in trainer.callbacks if hasattr(item, "example_views")), None)
    if isinstance(views, int) and drawn is not None and views != drawn:
        raise ConfigurationError(
            f"the DataModule makes views={views} of each example and DifferentialPrivacy draws each views={drawn} "
            "times: give both the same number"
        )


def check_data_ledger(source: Any, ledger: PrivacyLedger, *, clients: bool = False) -> None:
    """Refuse a DataModule that learns from its records outside of the ledger of training, or is not for its unit.

    It says by ``learns_from_records`` that it does, and has the ledger it charges as ``ledger``; so do its data sets,
    whose loaders may be given to a fit without it, and which may stand behind others. By ``max_records_per_person`` it
    says how many records a person may have in it, None where nobody knows; where that is not 1, the ledger gets a
    caveat. It gets those that are in ``preparation_caveats``, too.

    Args:
        source: A DataModule or a data set; None for none.
        ledger: Of the training.
        clients: Whether whole clients are protected, however many records a person has.

    Raises:
        UnsupportedError: What it learned is in no ledger, or in another one.
        PrivacyViolation: The ledger protects people, and a person may have several records.
    """
    if not clients and not isinstance(source, LightningDataModule):
        _check_copies(source, ledger)
    # A DataModule says it itself; what its attributes hold before it is set up is its own affair.
    for each in [source] if isinstance(source, LightningDataModule) else nested(source):
        if not clients and hasattr(each, "max_records_per_person"):
            check_persons(ledger, each.max_records_per_person)
        for caveat in getattr(each, "preparation_caveats", ()):
            ledger.add_caveat(caveat)
        theirs = getattr(each, "ledger", None)
        if not getattr(each, "learns_from_records", False) or theirs is ledger:
            continue
        where = "no ledger" if theirs is None else "another ledger than training"
        raise UnsupportedError(
            f"{type(each).__name__} learns from the records it prepares, and charges {where}: the epsilon of the "
            "run would leave that out. Give it the ledger of training before fit: datamodule.ledger = privacy.ledger, "
            "or one PrivacyLedger as ledger= to both"
        )


def _check_copies(dataset: Any, ledger: PrivacyLedger) -> None:
    """Count the records of a person in a data set that holds others, which don't count their copies.

    Raises:
        PrivacyViolation: The ledger protects people, and there are more of one than the data sets inside say.
    """
    declared = [each.max_records_per_person for each in nested(dataset) if hasattr(each, "max_records_per_person")]
    if not declared or None in declared:
        return  # where nobody knows who a record is about, that is said of the data set inside
    whose = persons_of(dataset)
    most = 0 if whose is None else max(Counter(whose).values())
    if most > max(declared):
        check_persons(ledger, most)


def check_trainer_settings(trainer: Any, module: LightningModule) -> None:
    """Refuse a trainer or module whose training loop can't be made private.

    Args:
        trainer: The trainer, in ``setup``.
        module: Its module.

    Raises:
        UnsupportedError: Naming the setting, its value and what to set instead.
    """
    check_callbacks(trainer)
    check_augmentation(trainer)
    check_strategy(trainer)
    check_precision(trainer)
    if is_compiled(module):
        raise UnsupportedError(
            f"{type(module).__name__} was compiled with torch.compile, which hides its layers from "
            "per-example clipping: give the trainer the uncompiled module"
        )
    if trainer.overfit_batches > 0:
        raise UnsupportedError(
            f"Trainer(overfit_batches={trainer.overfit_batches}) trains on the same few batches over and "
            "over, which no sampling rate describes: remove it; for a quick run use limit_train_batches or "
            "fast_dev_run"
        )
    if trainer.reload_dataloaders_every_n_epochs > 0:
        raise UnsupportedError(
            f"Trainer(reload_dataloaders_every_n_epochs={trainer.reload_dataloaders_every_n_epochs}) may "
            "change the data set during training, while the accounting is for one: remove it"
        )


def check_batches_are_given(trainer: Any) -> None:
    """Refuse a ``training_step`` that fetches its batches itself; call once the train loader is set up.

    Raises:
        UnsupportedError: The step takes a ``dataloader_iter``.
    """
    if uses_dataloader_iter(trainer):
        raise UnsupportedError(
            "training_step takes dataloader_iter and fetches batches itself, so that nobody knows which batch a "
            "gradient belongs to: let it take batch"
        )


def check_optimizers(optimizers: Sequence[Optimizer], module: LightningModule, *, whole_data: bool) -> None:
    """Refuse optimizers that would step on something else than the module's private gradient.

    Args:
        optimizers: What ``configure_optimizers`` made.
        module: The module that is trained.
        whole_data: Whether every batch is the whole data set in one piece, so that a second gradient of the same
            batch costs what a gradient of the next one would.

    Raises:
        UnsupportedError: One that evaluates its closure more than once, with batches that are random.
        ConfigurationError: One that holds a tensor that is no parameter of the module.
    """
    for optimizer in optimizers:
        refuse_optimizer(optimizer, module, releases_again=whole_data)
