"""A fairness table at the end of every validation, for any module.

Example:
    >>> import lightning_privacy._lightning as L, torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> class Model(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(3, 2)
    ...     def forward(self, x):
    ...         return self.layer(x)
    ...     def validation_step(self, batch, batch_idx):
    ...         pass
    >>> rows = TensorDataset(torch.randn(80, 3), torch.randint(2, (80,)), torch.arange(80) % 2)
    >>> fairness = GroupFairness(groups={"sex": 2}, group_names=["female", "male"], show=False, write=False)
    >>> trainer = L.Trainer(
    ...     callbacks=[fairness], logger=False, accelerator="cpu", enable_progress_bar=False,
    ...     enable_model_summary=False, enable_checkpointing=False,
    ... )
    >>> metrics, = trainer.validate(Model(), DataLoader(rows, batch_size=20), verbose=False)
    >>> fairness.tables[0].figures["n"].tolist(), 0 <= metrics["fairness/demographic_parity_difference"] <= 1
    ([40.0, 40.0], True)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from lightning_privacy._lightning import Callback, LightningModule, Trainer, check_trainer
from lightning_privacy._validate import non_negative_int, one_of, positive, positive_int, within_open_unit
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._fairness_alignment import RowOrder, loader_at
from lightning_privacy.callbacks._fairness_attributes import attributes_of
from lightning_privacy.callbacks._fairness_columns import GroupColumns
from lightning_privacy.callbacks._fairness_files import keep_records
from lightning_privacy.callbacks._fairness_predictions import Reading
from lightning_privacy.callbacks._fairness_release import ledger_for, note_training_rows
from lightning_privacy.callbacks._fairness_rows import Rows
from lightning_privacy.callbacks._fairness_tables import released, scalars_of, tables_of
from lightning_privacy.callbacks._logger_files import log_table
from lightning_privacy.callbacks._processes import processes_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.batch_groups import Groups
from lightning_privacy.fairness.disparities import METHODS
from lightning_privacy.fairness.display import print_tables
from lightning_privacy.fairness.table import FairnessTable
from lightning_privacy.mechanisms import NoiseSource

__all__ = ["GroupFairness"]

_TITLES = {"val": "Validation", "test": "Test"}
_SUFFIXES = {"val": "", "test": "/test"}


class GroupFairness(Callback):
    """Reports how the model treats groups, at the end of every validation and test; the module stays as it is.

    For each group: its size, base rate, selection rate, accuracy, true and false positive and negative rates,
    precision, and with probabilities AUROC, log-loss and calibration error. Between groups: differences and ratios of
    demographic parity, equal opportunity, equalised odds, predictive parity and accuracy, and the accuracy of the worst
    group. With several attributes also for their intersections. What is undefined, such as the true positive rate of a
    group without positives, is NaN. Logged as ``fairness/<criterion>_difference``, ``fairness/accuracy/<group>`` and so
    on (in a test ``fairness/test/...``; with several attributes ``fairness/<attribute>/...``), printed, and written as
    CSV to the folder ``fairness`` of the run; loggers of TensorBoard, Weights & Biases and MLflow get the table too.
    Every process must validate; rows that a ``DistributedSampler`` gives twice count once.

    Predictions are looked for in what ``validation_step`` returns, a dictionary with one of the keys ``"probs"``
    (probabilities), ``"logits"`` or ``"preds"`` (classes); else ``forward`` is run once more on the batch's input (its
    first part, or its entry ``"x"``, ``"input"``, ``"image"``, ...), which costs another forward pass for every batch.
    Labels are ``batch[1]``, or an entry ``"target"``, ``"label"``, ``"y"`` or the plural of the batch or of what the
    step returns.

    Figures of a validation set tell something of the people in it. If they are to be protected, ``private_epsilon``
    releases the counts of group, label and prediction with noise, once per table and charged to the ledger; figures of
    scores are left out then. People who are only in the validation set have a ledger of their own; for people who are
    trained on too, take that of the training, and enough of a budget: every validation is charged. With another one,
    both get a caveat where a validation during training is known to have rows in common with it.

    Args:
        groups: Where the groups are: a key or a place in the batch (a key may also be an attribute of the data set,
            with one entry for each row); a function of the batch; an array with one entry for each row of the data set,
            whose loader must not shuffle; a list of keys, or a mapping from the names of attributes to any of these.
            Groups are whole numbers or texts.
        num_groups: Number of groups, numbered from 0; with several attributes a mapping. None: the values that are met.
        group_names: Names of the groups, in the order of their numbers; with several attributes a mapping.
        missing_groups: Name of the group of rows whose group is not known; a mapping where it differs by attribute.
            An attribute of which no other group occurs, as where a table lacks the column, is left out, and a line says
            so.
        num_classes: Number of classes; None to take it from the predictions.
        positive_class: With more than two classes, the one to take against the rest. By default each is, and the worst
            counts.
        predict: A function of the module and a batch that returns predictions, in place of the above.
        prediction_kind: What predictions without a key are: ``"probs"``, ``"logits"`` or ``"preds"``. Needed where
            there is one number per example.
        target: A key, a place or a function of the batch for the labels.
        threshold: Above which probability class 1 is predicted, where there are two classes.
        method: ``"between_groups"`` or ``"to_overall"``: what a group is compared with.
        min_group_size: Groups with fewer rows are marked and left out of differences and ratios.
        bootstrap: Bootstrap samples for confidence intervals, in the table and the file; 0 for none.
        confidence: Of the intervals.
        name: What logged names begin with; another one for each of several of these callbacks.
        show: Whether to print the table; ``"test"`` for that of a test alone.
        write: Whether to write CSV files; or the folder to write them to.
        private_epsilon: What the counts of one table cost; None for exact figures. The groups must be given.
        ledger: Where that is charged; by default the ledger of the trainer's ``DifferentialPrivacy``.
        noise: Where noise comes from; the operating system by default.

    Raises:
        ConfigurationError: An argument is out of range; in a validation: groups, labels or predictions are not where
            they are looked for, a group is not known, or an array can't be matched with the rows.
        PrivacyBudgetExceeded: At the end of a validation: the ledger can't pay for the table.

    Example:
        >>> fairness = GroupFairness(groups=["sex", "race"], num_groups={"sex": 2, "race": 5}, bootstrap=200)
        >>> fairness.tables
        ()
    """

    def __init__(
        self,
        *,
        groups: Any,
        num_groups: int | Mapping[str, int] | None = None,
        group_names: Any = None,
        missing_groups: str | Mapping[str, str] | None = "unknown",
        num_classes: int | None = None,
        positive_class: int | None = None,
        predict: Callable[[LightningModule, Any], Any] | None = None,
        prediction_kind: str | None = None,
        target: Groups | None = None,
        threshold: float = 0.5,
        method: str = "between_groups",
        min_group_size: int = 30,
        bootstrap: int = 0,
        confidence: float = 0.95,
        name: str = "fairness",
        show: bool | str = True,
        write: bool | str | Path = True,
        private_epsilon: float | None = None,
        ledger: PrivacyLedger | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        super().__init__()
        self._attributes = attributes_of(
            groups, num_groups=num_groups, group_names=group_names, missing_groups=missing_groups
        )
        self._reading = Reading(predict, prediction_kind, target)
        self._num_classes = None if num_classes is None else positive_int(num_classes=num_classes)
        if not 0.0 <= threshold <= 1.0:
            raise ConfigurationError(f"threshold must be in 0 to 1, got {threshold!r}")
        self._threshold = threshold
        one_of(METHODS, method=method)
        self._table_options: dict[str, Any] = {
            "positive_class": None if positive_class is None else non_negative_int(positive_class=positive_class),
            "method": method,
            "min_group_size": non_negative_int(min_group_size=min_group_size),
        }
        self._bootstrap = non_negative_int(bootstrap=bootstrap)
        self._confidence = within_open_unit(confidence=confidence)
        self.name = name
        if show not in (True, False, "test"):
            raise ConfigurationError(f"show must be True, False or 'test', got {show!r}")
        self._show = show
        self._write = write
        self._private_epsilon = None if private_epsilon is None else positive(private_epsilon=private_epsilon)
        self._ledger = ledger
        self._noise = noise
        if self._private_epsilon is not None:
            open_ended = [attribute.name for attribute in self._attributes if attribute.names is None]
            if open_ended:
                raise ConfigurationError(
                    f"private_epsilon needs num_groups or group_names for {', '.join(open_ended)}: which groups there "
                    "are in private data is not to be read from them"
                )
        elif ledger is not None:
            raise ConfigurationError(
                "ledger is charged only where private_epsilon is given: set it, or leave ledger out"
            )
        self._rows: dict[int, Rows] = {}
        self._columns = GroupColumns()
        self._tables: tuple[FairnessTable, ...] = ()

    @property
    def ledger(self) -> PrivacyLedger | None:
        """The ledger given, which is charged; None where there is none, or that of the training is."""
        return self._ledger

    @property
    def tables(self) -> tuple[FairnessTable, ...]:
        """The tables of the last validation or test: one for each loader and attribute, intersections last."""
        return self._tables

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # an attribute of every trainer
            if isinstance(callback, GroupFairness) and callback is not self and callback.name == self.name:
                raise ConfigurationError(
                    f"two GroupFairness callbacks log as {self.name!r}: give one of them another name="
                )
        if self._private_epsilon is not None:
            ledger_for(trainer, self._ledger)

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start()

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start()

    def _start(self) -> None:
        self._rows, self._columns = {}, GroupColumns()

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Also in the sanity check: that is where to learn that groups or labels are not found, not after an epoch.
        self._collect(trainer, pl_module, outputs, batch, dataloader_idx, trainer.val_dataloaders)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collect(trainer, pl_module, outputs, batch, dataloader_idx, trainer.test_dataloaders)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            self._start()
        else:
            self._report(trainer, pl_module, "val", trainer.val_dataloaders, len(trainer.num_val_batches))

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module, "test", trainer.test_dataloaders, len(trainer.num_test_batches))

    def loader_of(self, metric: str) -> int | None:
        """Number of the loader that a logged figure of this callback is of; None for a metric of another's."""
        found = re.match(rf"{re.escape(self.name)}/(?:dataloader_(\d+)/)?", metric)
        return None if found is None else int(found[1] or 0)

    @property
    def charges(self) -> bool:
        """Whether figures have noise, and are charged to a ledger."""
        return self._private_epsilon is not None

    def _collect(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, position: int, loaders: Any
    ) -> None:
        """Keep what a batch says."""
        rows = self._rows.get(position)
        loader = loader_at(loaders, position)
        if rows is None:
            rows = Rows(
                self._attributes,
                RowOrder.of(loader),
                num_classes=self._num_classes,
                threshold=self._threshold,
            )
            self._rows[position] = rows
        target = self._reading.target(outputs, batch)
        predictions = self._reading.predictions(outputs, batch, module, trainer.precision_plugin.val_step_context)
        places = rows.order.next(len(target))
        values = [
            self._columns.values(attribute, batch, loader=loader, position=position, places=places, order=rows.order)
            for attribute in self._attributes
        ]
        rows.add(predictions, target, values, places)

    def _report(self, trainer: Trainer, module: LightningModule, stage: str, loaders: Any, count: int) -> None:
        """Put together what all processes have seen, and tell it."""
        processes = processes_of(trainer)
        folder = trainer.log_dir or trainer.default_root_dir  # asks all processes, so not only the first
        tables: list[FairnessTable] = []
        records: list[dict[str, Any]] = []
        step = trainer.global_step
        options = self._table_options | {"epsilon": self._private_epsilon}
        if self._private_epsilon is None and processes.leads:  # the others show no intervals
            options |= {"replicates": self._bootstrap, "confidence": self._confidence}
        for position in range(count):
            rows = self._rows.get(position) or Rows(
                self._attributes, RowOrder(None), num_classes=self._num_classes, threshold=self._threshold
            )
            gathered = rows.gather(processes, device=module.device, leave_out=self._private_epsilon is None)
            if gathered is None:
                continue
            if self._private_epsilon is not None:
                paying = ledger_for(trainer, self._ledger)
                note_training_rows(trainer, loader_at(loaders, position), paying)
                gathered = released(
                    gathered,
                    attributes=self._attributes,
                    epsilon=self._private_epsilon,
                    ledger=paying,
                    noise=self._noise,
                    processes=processes,
                    num_classes=self._num_classes,
                    min_group_size=self._table_options["min_group_size"],
                )
            elif trainer.state.fn == "fit":
                note_training_rows(trainer, loader_at(loaders, position))
            left_out = gathered.left_out
            names = [attribute.name for attribute in self._attributes if attribute.name not in left_out]
            found = tables_of(gathered, names=names, options=options)
            tables += found
            if not trainer.barebones:
                base = self.name + (f"/dataloader_{position}" if count > 1 else "") + _SUFFIXES[stage]
                scalars = scalars_of(found, base, several=len(self._attributes) > 1)
                # Equal in all processes, so that an average over them changes nothing; Lightning asks for one.
                module.log_dict(scalars, on_step=False, on_epoch=True, sync_dist=processes.several)
            about = {"stage": stage, "epoch": trainer.current_epoch, "step": step, "dataloader": position}
            records += [about | record for table in found for record in table.records()]
            if self._show in (True, stage) and processes.leads:
                loader = f", loader {position}" if count > 1 else ""
                print_tables(found, title=f"{_TITLES[stage]} after {step} steps{loader}", left_out=left_out)
        self._start()
        self._tables = tuple(tables)
        if records and processes.leads and not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by Lightning
            log_table(trainer.loggers, f"{self.name}/{stage}", records, step=step)
            # A trainer with barebones has no run folder.
            where = None if trainer.barebones else folder
            keep_records(self._write, where, self.name, f"{stage}-step={step}", records)
