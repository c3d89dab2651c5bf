"""Finds metrics of training examples that are logged, and what acts on them: no ledger entry covers such releases.

The noisy gradients are accounted for; the loss and the accuracy of the drawn batches are not. Who sees them, or sees
when they ended training, which checkpoint they chose or when they lowered the learning rate, learns about the
examples from something that was neither bounded nor noised. Metrics of a validation set of other people are no
concern of this guarantee; where examples of it are trained on, as far as data sets inside of data sets show, they are
told like those of training. Copies of the data, and other records of the same people, can't be told here.

Example:
    >>> from types import SimpleNamespace
    >>> plateau = SimpleNamespace(reduce_on_plateau=True, monitor="train_loss", scheduler=object())
    >>> trainer = SimpleNamespace(callbacks=[], lr_scheduler_configs=[plateau])
    >>> monitors(trainer)
    {'train_loss': ['object']}
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol, runtime_checkable

from lightning_privacy._lightning import Trainer
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._fairness_alignment import loader_at
from lightning_privacy.callbacks._trainer import training_metrics, validation_metrics
from lightning_privacy.callbacks._training_rows import gives_training_rows

__all__ = ["MonitoredMetrics", "ReportsFigures", "monitors"]

_SEE_EXAMPLES = ("training_step", "on_before_backward", "on_train_batch_end", "on_train_epoch_end")
"""Hooks from which a metric of the examples is logged. Gradients are private where hooks can see them, so that
``on_after_backward`` and ``on_before_optimizer_step``, where their norms are logged, are not among them."""

_OWN = "privacy/epsilon"


@runtime_checkable
class ReportsFigures(Protocol):
    """A callback that itself tells the ledger what its figures release."""

    def loader_of(self, metric: str) -> int | None:
        """Number of the loader that a metric which this callback logs is of; None for one that it does not log."""

    @property
    def charges(self) -> bool:
        """Whether its figures have noise, and are charged."""


def monitors(trainer: Any) -> dict[str, list[str]]:
    """What acts on a metric in training: callbacks with a ``monitor`` and schedulers that reduce on a plateau.

    Args:
        trainer: The trainer, with its optimizers set up.

    Returns:
        For each name of a metric the class names of what watches it.
    """
    watching: dict[str, list[str]] = {}
    for callback in trainer.callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str):
            watching.setdefault(monitor, []).append(type(callback).__name__)
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and isinstance(config.monitor, str):
            watching.setdefault(config.monitor, []).append(type(config.scheduler).__name__)
    return watching


class MonitoredMetrics:
    """Writes a caveat for the training metrics that are logged, and warns of those that something acts on.

    Args:
        trainer: The trainer of the fit.
        ledger: Where caveats are added, each once.
    """

    def __init__(self, trainer: Trainer, ledger: PrivacyLedger) -> None:
        self._trainer = trainer
        self._ledger = ledger
        self._looked_at = 0
        self._told: set[str] = set()
        self._told_of_validation: set[str] = set()
        self._trained_on: set[int] | None = None

    def look(self) -> None:
        """Tell of what was logged since the last call; costs nothing while no new name appears."""
        metrics = training_metrics(self._trainer)
        if len(metrics) == self._looked_at:
            return
        self._looked_at = len(metrics)
        logged = {
            metric.name: metric.keys
            for metric in metrics
            if metric.hook in _SEE_EXAMPLES and metric.name != _OWN and metric.name not in self._told
        }
        if not logged:
            return
        self._told.update(logged)
        watching = monitors(self._trainer)
        for name, keys in logged.items():
            self._tell_acted_on(name, [watcher for key in keys for watcher in watching.get(key, [])])
        self._ledger.add_caveat(
            f"Logged while training: {', '.join(sorted(logged))}. What such a metric takes from the training examples "
            "is neither bounded nor noised, so epsilon does not cover publishing it."
        )

    def look_at_validation(self) -> None:
        """Tell of what was logged in validations on examples that are trained on; call at the end of each."""
        if self._trained_on is None:  # a private fit has the same loaders to its end
            self._trained_on = self._loaders_of_training_rows()
        if not self._trained_on:
            return
        reporting = [each for each in self._trainer.callbacks if isinstance(each, ReportsFigures)]  # type: ignore[attr-defined] # set by Lightning
        watching = monitors(self._trainer)
        logged: set[str] = set()
        for metric in validation_metrics(self._trainer):
            if metric.name == _OWN or metric.name in self._told_of_validation:
                continue
            reporter = next((each for each in reporting if each.loader_of(metric.name) is not None), None)
            loader = metric.loader if reporter is None else reporter.loader_of(metric.name)
            if loader is not None and loader not in self._trained_on:
                continue
            self._told_of_validation.add(metric.name)
            if reporter is None:
                logged.add(metric.name)
            elif reporter.charges:
                continue
            self._tell_acted_on(metric.name, [watcher for key in metric.keys for watcher in watching.get(key, [])])
        if logged:
            self._ledger.add_caveat(
                f"Logged while validating: {', '.join(sorted(logged))}. These are figures of rows that are trained on, "
                "without noise, so epsilon does not cover publishing them."
            )

    def _loaders_of_training_rows(self) -> set[int]:
        """The numbers of the validation loaders that are known to give them."""
        trainer = self._trainer
        loaders = {number: loader_at(trainer.val_dataloaders, number) for number in range(len(trainer.num_val_batches))}
        train = trainer.train_dataloader
        return {number for number, loader in loaders.items() if gives_training_rows(loader, train)}

    def _tell_acted_on(self, name: str, watchers: list[str]) -> None:
        if not watchers:
            return
        verb = "acts" if len(watchers) == 1 else "act"
        caveat = (
            f"{' and '.join(watchers)} {verb} on '{name}', a metric of the training examples without noise: what it "
            "decides is a release that epsilon does not cover."
        )
        self._ledger.add_caveat(caveat)
        warnings.warn(
            f"{caveat} Monitor a metric of a validation set of other people, or decide by a number of steps.",
            UserWarning,
            stacklevel=2,
        )
