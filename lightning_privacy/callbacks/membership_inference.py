"""Membership inference as a callback: after training, attack the model and say what came of it.

Example:
    >>> import functools, warnings, torch, lightning_privacy._lightning as L
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from lightning_privacy.models import MLP, Classifier
    >>> _ = torch.manual_seed(0)
    >>> people = TensorDataset(torch.randn(120, 10), torch.randint(2, (120,)))  # nothing to learn but by heart
    >>> train, holdout = torch.utils.data.random_split(people, [60, 60])
    >>> adam = functools.partial(torch.optim.Adam, lr=0.01)
    >>> module = Classifier(MLP(in_features=10, num_classes=2), num_classes=2, optimizer=adam)
    >>> attack = MembershipInference(reference_models=4, holdout=holdout, show=False, seed=0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     trainer = L.Trainer(
    ...         max_epochs=30, callbacks=[attack], logger=False, accelerator="cpu",
    ...         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ...     )
    ...     trainer.fit(module, DataLoader(train, batch_size=20, shuffle=True))
    >>> attack.report.attacks["lira"].auc > 0.75
    True
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset
from typing_extensions import override

from lightning_privacy._lightning import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    check_trainer,
    rank_zero_info,
)
from lightning_privacy._validate import one_of, positive_int
from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.audit.halves import random_halves
from lightning_privacy.audit.lira import STATISTICS
from lightning_privacy.audit.membership import MembershipReport, measure_membership
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.callbacks._example_losses import LossOf, example_columns, example_losses
from lightning_privacy.callbacks._privacy_audit_report import show_audit
from lightning_privacy.callbacks._reference_models import drawn_anew, losses_of_models
from lightning_privacy.callbacks._reference_recipe import Recipe
from lightning_privacy.callbacks.differential_privacy import DifferentialPrivacy
from lightning_privacy.callbacks.privacy_audit import PrivacyAudit
from lightning_privacy.callbacks.run_privacy import privacy_of
from lightning_privacy.data.augmentation import AugmentationDataModule
from lightning_privacy.errors import ConfigurationError, LightningPrivacyError, UnsupportedError
from lightning_privacy.fairness.batch_groups import Groups
from lightning_privacy.gradients.probe_randomness import untouched_generators

__all__ = ["MembershipInference"]

_DATA_HOOKS = {
    name: getattr(LightningDataModule, name)
    for name in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
}


class MembershipInference(Callback):
    """Measures how well an attacker can tell who was in the training data, when training has ended.

    The attacks are the loss threshold, LiRA and RMIA. The last two compare with reference models: the same module,
    trained from new initial weights on random halves of the training data and the held-out data together. Training each
    takes about half as long as the run itself, or more where much is held out. With :class:`DifferentialPrivacy` on the
    trainer they get one of the same noise multiplier and clipping. Where a ``ReduceLROnPlateau`` sets the learning
    rate, they are validated with the run's validation loaders, as it is. The module, the run and its ledger are left as
    they are; nothing of the reference models is kept.

    The held-out examples stand for those that were not in the training data: where they were not chosen at random but
    are of another kind, the attack also tells the kinds apart; where a data module divides its data anew whenever it is
    set up, some of them were trained on and the attack looks weaker than it is. For figures that mean something choose
    the split at random, once, and don't tune anything on the held-out examples.

    The figures are computed from private examples without noise, are not private themselves, and are not charged: they
    are for whoever holds the data.

    Args:
        reference_models: How many; 16 are enough to see a leak, 0 is for the loss threshold alone.
        holdout: Examples that are not trained on; None takes those of the data module's test loader, or of the
            validation loader where there is none.
        parts: Where in a batch to find the value of what is reported part by part, such as
            ``{"class": 1, "gender": "gender"}``: a key, a place, or a function of the batch.
        losses: Maps the module and a batch to the loss of each example; None has the module's training step say.
        random_split: Whether chance alone decided which examples are held out, once. Only then an attack that finds
            more than epsilon allows is a broken promise; otherwise it may tell one kind of examples from another.
        statistic: What LiRA looks at: ``"logit"`` of the confidence for cross-entropies, ``"loss"`` for other losses.
        make_trainer: Makes the trainer of a reference model; None makes one with the limits of the run's own. Needed
            where other callbacks or a strategy are part of how the module is trained.
        show: Print the result on the terminal.
        folder: Where ``audit_membership.json`` is written; None for nowhere, as with ``fast_dev_run``.
        seed: Of the halves and the reference models' initial weights; None draws them anew.

    Raises:
        ConfigurationError: An argument is out of range; at the start of ``fit``, there are no held-out examples, or the
            loss of a single one can't be had.
        UnsupportedError: At the start of ``fit``: there are several processes, a ``PrivacyAudit`` beside it, or the
            data module changes batches on their way to the module, as ``AugmentationDataModule`` does.

    Example:
        >>> MembershipInference(reference_models=8, parts={"class": 1}).report is None
        True
    """

    def __init__(
        self,
        *,
        reference_models: int = 16,
        holdout: Dataset[Any] | None = None,
        parts: Mapping[str, Groups] | None = None,
        losses: LossOf | None = None,
        random_split: bool = False,
        statistic: str = "logit",
        make_trainer: Callable[[], Trainer] | None = None,
        show: bool = True,
        folder: str | os.PathLike[str] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        one_of(tuple(STATISTICS), statistic=statistic)
        if reference_models != 0 and positive_int(reference_models=reference_models) < 4:
            raise ConfigurationError(
                f"reference_models must be 0 or at least 4, so that there are two without each example, got "
                f"{reference_models}"
            )
        self.report: MembershipReport | None = None
        self.result: AuditResult | None = None
        self._references = reference_models
        self._holdout = holdout
        self._parts = dict(parts or {})
        self._losses = losses
        self._random_split = random_split
        self._statistic = statistic
        self._make_trainer = make_trainer
        self._show = show
        self._folder = None if folder is None else Path(folder)
        self._seed = seed
        self._template: LightningModule | None = None
        self._recipe: Recipe | None = None
        self._outside: Dataset[Any] | None = None
        self._validation: Any = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        if stage != "fit":
            return
        if trainer.world_size > 1 or internals.launches_elsewhere(trainer):
            raise UnsupportedError(
                f"MembershipInference trains reference models in the process it is made in, and this run trains in "
                f"{trainer.world_size} of {type(trainer.strategy).__name__}: set devices=1 and strategy='auto'"
            )
        # Before anything is hooked into it or trained.
        self._template = copy.deepcopy(pl_module)
        self._recipe = Recipe.of(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(isinstance(callback, PrivacyAudit) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise UnsupportedError(
                "MembershipInference would take the canaries of PrivacyAudit for examples that were trained on, also "
                "those that were left out, and find less than there is: attack a run without canaries"
            )
        # Now and not at the end, where a run that has cost something would fail for want of them.
        loader = _train_loader(trainer)
        _check_data_hooks(getattr(trainer, "datamodule", None))
        self._outside = _held_out(trainer) if self._holdout is None else self._holdout
        self._validation = Recipe.validation(trainer)
        if self._template is not None:
            self._rehearse(trainer, pl_module, self._template, loader, self._outside)
            if self._references:
                times = self._references / 2 * (1 + _length(self._outside) / _length(loader.dataset))
                rank_zero_info(
                    f"MembershipInference: {self._references} reference models will be trained after this run, which "
                    f"takes about {times:.0f} times as long as it; reference_models=0 leaves them out"
                )

    def _rehearse(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        template: LightningModule,
        loader: DataLoader[Any],
        holdout: Dataset[Any],
    ) -> None:
        """Ask about a few examples what will be asked about all."""
        few: Dataset[Any] = ConcatDataset([Subset(loader.dataset, [0]), Subset(holdout, [0])])
        devices = [] if pl_module.device.type == "cpu" else [pl_module.device]
        with untouched_generators(devices):
            try:
                target = _as_trained(trainer, pl_module, template)
                example_losses(target, few, losses=self._losses, collate_fn=loader.collate_fn)
                example_columns(few, self._parts, collate_fn=loader.collate_fn)
            except LightningPrivacyError:
                raise
            except Exception as error:
                raise ConfigurationError(
                    f"MembershipInference can't get the loss of single examples from {type(pl_module).__name__} "
                    f"({type(error).__name__}: {error}): see that held-out examples are like those of the training "
                    "and that the training step needs neither its trainer nor batches of one size; or pass losses=, a "
                    "function of the module and a batch that gives the loss of each example"
                ) from error

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # At the start Lightning has no loaders yet where it validates for the first time in a later epoch.
        if self._validation is None:
            self._validation = Recipe.validation(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        template, recipe, self._template, self._recipe = self._template, self._recipe, None, None
        outside, self._outside = self._outside, None
        validation, self._validation = self._validation, None
        if template is None or recipe is None or outside is None:
            return  # nothing was trained
        with torch.random.fork_rng(devices=[]):  # loaders and seeds draw from it, and what follows a fit may too
            self._attack(trainer, pl_module, template, recipe, outside, validation)

    def _attack(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        template: LightningModule,
        recipe: Recipe,
        holdout: Dataset[Any],
        validation: Any,
    ) -> None:
        loader = _train_loader(trainer)
        examples: Dataset[Any] = ConcatDataset([loader.dataset, holdout])
        inside = np.arange(_length(examples)) < _length(loader.dataset)

        def made() -> LightningModule:
            return drawn_anew(copy.deepcopy(template))

        target = _as_trained(trainer, pl_module, template)
        losses = example_losses(target, examples, losses=self._losses, collate_fn=loader.collate_fn)
        reference_losses = halves = None
        if self._references:
            halves = random_halves(self._references, len(inside), seed=self._seed)
            reference_losses = losses_of_models(
                made,
                examples,
                halves,
                make_trainer=self._make_trainer or partial(recipe.trainer, trainer),
                batch_size=recipe.batch_size(loader),
                collate_fn=loader.collate_fn,
                losses=self._losses,
                seed=self._seed,
                validation=validation,
                progress=trainer.progress_bar_callback is not None,
            )
        self.report = measure_membership(
            losses,
            inside,
            reference_losses,
            halves,
            parts=example_columns(examples, self._parts, collate_fn=loader.collate_fn),
            statistic=self._statistic,
        )
        epsilon, delta = _promised(privacy_of(trainer))
        self.result = self.report.result(epsilon=epsilon, delta=delta, random_split=self._random_split)
        if self._show:
            show_audit(self.result, title="Membership inference")
        if self._folder is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by Lightning
            self.result.write(self._folder)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._template = self._recipe = self._outside = self._validation = None


def _as_trained(trainer: Trainer, module: LightningModule, template: LightningModule) -> LightningModule:
    """The module with its present weights and without what was hooked into it, attached to no trainer."""
    target = copy.deepcopy(template)
    target.trainer = trainer
    try:
        target.setup("fit")  # layers may be made there
        target.configure_model()
    finally:
        target.trainer = None
    target.load_state_dict(module.state_dict())
    return target.to(module.device)


def _check_data_hooks(datamodule: Any) -> None:
    """Refuse a data module that changes batches, as reference models are trained and asked without it."""
    changing = [name for name in _DATA_HOOKS if getattr(type(datamodule), name, None) is not _DATA_HOOKS[name]]
    if isinstance(datamodule, AugmentationDataModule) or (datamodule is not None and changing):
        raise UnsupportedError(
            f"{type(datamodule).__name__} changes batches on their way to the module, and reference models would be "
            "trained without that: attack the same run without augmentation, or change the examples in the data set or "
            "in the LightningModule's own transfer hooks"
        )


def _held_out(trainer: Trainer) -> Dataset[Any]:
    """The examples of the test loader, or of the validation loader."""
    datamodule = getattr(trainer, "datamodule", None)
    loaders: list[Any] = []
    if datamodule is not None:
        for name in ("test_dataloader", "val_dataloader"):
            if getattr(type(datamodule), name) is not getattr(LightningDataModule, name):
                datamodule.setup("test" if name == "test_dataloader" else "validate")
                loaders += _as_list(getattr(datamodule, name)())
    loaders += _as_list(trainer.val_dataloaders)
    found = next((loader.dataset for loader in loaders if isinstance(loader, DataLoader)), None)
    if found is None:
        raise ConfigurationError(
            "there are no held-out examples to compare the training examples with: pass holdout=, a data set that is "
            "not trained on, or train with a data module that has a test loader"
        )
    dataset: Dataset[Any] = found
    return dataset


def _as_list(loaders: Any) -> list[Any]:
    return loaders if isinstance(loaders, list) else [] if loaders is None else [loaders]


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]


def _train_loader(trainer: Trainer) -> DataLoader[Any]:
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader):
        raise UnsupportedError(
            f"MembershipInference needs one DataLoader to know who is in the training, got {type(loader).__name__}"
        )
    if isinstance(loader.dataset, IterableDataset) or not isinstance(loader.dataset, Sized):
        raise UnsupportedError(
            "MembershipInference asks about the examples of a data set one by one, and "
            f"{type(loader.dataset).__name__} has no length or places: use a map-style data set"
        )
    return loader


def _promised(privacy: DifferentialPrivacy | None) -> tuple[float | None, float]:
    """What the ledger says, where it is about examples."""
    if privacy is None or privacy.ledger.unit != "example":
        return None, 0.0
    return privacy.ledger.epsilon(exact=True), privacy.ledger.delta
