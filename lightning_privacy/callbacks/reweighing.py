"""Reweighing as a callback: under the weights, the label is independent of the group.

Example:
    >>> import torch, warnings, lightning_privacy._lightning as L
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> class Regression(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(1, 2)
    ...     def training_step(self, batch, batch_idx):
    ...         losses = torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1], reduction="none")
    ...         return {"loss": losses.mean(), "losses": losses}
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> labels, groups = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> loader = DataLoader(TensorDataset(torch.ones(8, 1), labels, groups), batch_size=4)
    >>> reweighing = Reweighing(groups=2, labels=1, num_groups=2)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     trainer = L.Trainer(
    ...         max_epochs=1, callbacks=[reweighing], logger=False, accelerator="cpu",
    ...         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ...     )
    ...     trainer.fit(Regression(), loader)
    >>> [[round(weight, 3) for weight in row] for row in reweighing.weights]
    [[0.667, 2.0], [2.0, 0.667]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset
from typing_extensions import override

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy._validate import positive, positive_int
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.audit.slots import CanarySlots
from lightning_privacy.callbacks import _trainer_loader as loading
from lightning_privacy.callbacks._batch_groups import Groups, groups_of
from lightning_privacy.callbacks._objective import ObjectiveCallback
from lightning_privacy.callbacks.differential_privacy import DifferentialPrivacy
from lightning_privacy.callbacks.run_privacy import privacy_of
from lightning_privacy.data.augmentation.batches import KeyedCollate, unproxied
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.fairness.reweighing import cell_counts, reweighing_weights
from lightning_privacy.mechanisms import NoiseSource, private_histogram

__all__ = ["Reweighing"]

# Examples that are in memory at once while they are counted.
_AT_ONCE = 1024


class Reweighing(ObjectiveCallback):
    """Weighs the loss of each example by ``P(group) P(label) / P(group, label)`` (Kamiran and Calders, 2012).

    It lowers the difference between the groups' rates of being predicted a label, for a little accuracy. The module's
    ``training_step`` returns the loss of each example: ``{"loss": losses.mean(), "losses": losses}``, or the vector
    alone; the loss that is trained is ``(weights * losses).mean()``.

    With :class:`~lightning_privacy.DifferentialPrivacy` it is as private as training without it: an example's weight
    is a function of its own group and label and of the counts. Those are of private data, so either they are public
    (``counts=``) or they are counted under noise for ``counts_epsilon``, which the ledger of that callback is charged;
    put this callback before it, so that the noise of training is set by what is left. A weighted gradient is clipped
    as any other: a ``max_grad_norm`` that cuts most gradients takes the weights' effect away.

    Args:
        groups: Where the group of each example is in the batch: a key, a place, or a function of the batch.
        labels: Where the label is, likewise.
        num_groups: How many groups there are.
        num_classes: How many labels there are.
        counts: Number of examples of each group (rows) and label (columns). None counts them in the training data, as
            the data set has them, whatever the loader's sampler draws.
        counts_epsilon: What noisy counts may cost; with differential privacy only.
        noise: Where the noise on the counts comes from; the operating system by default. A seeded source makes the
            counts reproducible and NOT PRIVATE.

    Raises:
        ConfigurationError: An argument is out of range; at the start of a fit, counts that would have to be taken from
            private data without noise; in training, the groups or losses are not there.
        UnsupportedError: Manual optimization.
        PrivacyBudgetExceeded: At the start of a fit: the budget can't pay for the counts.

    Example:
        >>> Reweighing(groups="sex", labels="label", num_groups=2, counts=[[30, 10], [10, 30]]).weights[0][1]
        2.0
    """

    def __init__(
        self,
        *,
        groups: Groups,
        labels: Groups = 1,
        num_groups: int,
        num_classes: int = 2,
        counts: Sequence[Sequence[float]] | None = None,
        counts_epsilon: float | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        super().__init__()
        self._groups, self._labels = groups, labels
        self._shape = (positive_int(num_groups=num_groups), positive_int(num_classes=num_classes))
        if counts is not None and counts_epsilon is not None:
            raise ConfigurationError(
                f"counts_epsilon={counts_epsilon!r} pays for noisy counts, and counts says what they are: give one"
            )
        self._counts_epsilon = None if counts_epsilon is None else positive(counts_epsilon=counts_epsilon)
        self._noise = noise
        self._weights: Tensor | None = None
        self._given = counts is not None
        self._paid_by: PrivacyLedger | None = None
        self._restored = False
        if counts is not None:
            self._weights = self._weights_of(torch.tensor([list(row) for row in counts], dtype=torch.float64))

    @property
    def weights(self) -> list[list[float]] | None:
        """Weight of an example of each group (rows) and label (columns); None before they are known."""
        return None if self._weights is None else self._weights.tolist()

    def _weights_of(self, counts: Tensor) -> Tensor:
        if tuple(counts.shape) != self._shape:
            raise ConfigurationError(
                f"counts must have a row for each of num_groups={self._shape[0]} groups and a column for each of "
                f"num_classes={self._shape[1]} labels, got shape {tuple(counts.shape)}"
            )
        return reweighing_weights(counts)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Before the first release of anybody, wherever this callback stands. A checkpoint may bring the weights.
        if stage == "fit" and trainer.ckpt_path is None:
            self._refuse_counting(trainer)

    def _known(self, trainer: Trainer) -> bool:
        """Whether there are weights already: noisy counts are taken, and paid for, once."""
        privacy = privacy_of(trainer)
        return self._given or self._restored or (privacy is not None and self._paid_by is privacy.ledger)

    def _refuse_counting(self, trainer: Trainer) -> None:
        """Refuse counts that nobody pays for, or that are paid for too late."""
        privacy = privacy_of(trainer)
        if self._known(trainer):
            return
        if privacy is None:
            if self._counts_epsilon is not None:
                raise ConfigurationError(
                    f"counts_epsilon={self._counts_epsilon:g} is charged to the ledger of a DifferentialPrivacy "
                    "callback, and this trainer has none: leave it out"
                )
            return
        if self._counts_epsilon is None:
            raise ConfigurationError(
                "Reweighing would count the groups and labels of private examples without noise: pass counts=[[...]] "
                "that are public, or counts_epsilon=0.05 or so, which is charged to the ledger"
            )
        order: list[Any] = list(getattr(trainer, "callbacks", []))
        if order.index(self) > order.index(privacy):
            raise ConfigurationError(
                "put Reweighing before DifferentialPrivacy in the trainer's callbacks: the counts are paid for first, "
                "and the noise of the steps is set by what is left of epsilon"
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._refuse_counting(trainer)
        privacy = privacy_of(trainer)
        if not self._known(trainer):
            counts = self._count(trainer) if privacy is None else self._count_privately(trainer, privacy)
            # All processes count the same data; the noise must not differ between them.
            self._weights = trainer.strategy.broadcast(self._weights_of(counts))
        self._paid_by = None if privacy is None else privacy.ledger
        self._restored = False

    def _count(self, trainer: Trainer) -> Tensor:
        groups, labels = self._cells(loading.request_train_loader(trainer))
        return cell_counts(groups, labels, num_groups=self._shape[0], num_classes=self._shape[1])

    def _count_privately(self, trainer: Trainer, privacy: DifferentialPrivacy) -> Tensor:
        groups, labels = self._cells(loading.request_train_loader(trainer))
        rows, columns = self._shape
        noisy = private_histogram(
            groups * columns + labels,
            num_classes=rows * columns,
            epsilon=positive(counts_epsilon=self._counts_epsilon),
            ledger=privacy.ledger,
            noise=self._noise,
        )
        return torch.as_tensor(noisy).view(rows, columns)

    def _cells(self, loader: Any) -> tuple[Tensor, Tensor]:
        """Groups and labels of all training examples, in the order of the data set."""
        dataset = getattr(loader, "dataset", None)
        if not isinstance(loader, DataLoader) or isinstance(dataset, IterableDataset):
            raise ConfigurationError(
                "Reweighing counts the examples of one DataLoader over a data set with a length, and this trainer has "
                f"{type(loader).__name__}: count them yourself and pass counts=[[...]]"
            )
        # What an AugmentationDataModule put around them changes neither, and may make several views of an example.
        examples: Any = unproxied(dataset)
        if isinstance(examples, CanarySlots):
            # A canary that is out, or that is a gradient, has no example: what its slot gives is somebody else's.
            examples = Subset(examples, examples.present().tolist())
        collate = loader.collate_fn.collate if isinstance(loader.collate_fn, KeyedCollate) else loader.collate_fn
        groups, labels = [], []
        for batch in DataLoader(examples, batch_size=_AT_ONCE, collate_fn=collate, num_workers=0):
            groups.append(groups_of(batch, self._groups, num_groups=self._shape[0]).cpu())
            labels.append(groups_of(batch, self._labels, num_groups=self._shape[1], argument="labels").cpu())
            due = min(_AT_ONCE, len(examples) - (len(groups) - 1) * _AT_ONCE)
            if not len(groups[-1]) == len(labels[-1]) == due:
                raise ConfigurationError(
                    f"the collate function of the train loader makes {len(groups[-1])} groups and {len(labels[-1])} "
                    f"labels of {due} examples, so an example may count twice or not at all: return one of each for "
                    "every example, or count them yourself and pass counts=[[...]]"
                )
        return torch.cat(groups), torch.cat(labels)

    @override
    def reduce(self, trainer: Trainer, losses: Tensor, batch: Any) -> Tensor:
        groups = groups_of(batch, self._groups, num_groups=self._shape[0])
        labels = groups_of(batch, self._labels, num_groups=self._shape[1], argument="labels")
        if not groups.shape == labels.shape == losses.shape or self._weights is None:
            raise ConfigurationError(
                f"there are {len(groups)} groups and {len(labels)} labels for {len(losses)} losses; there must be one "
                "of each for every example"
            )
        weights = self._weights.to(losses.device, losses.dtype)[groups.to(losses.device), labels.to(losses.device)]
        return (weights * losses).mean()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {} if self._weights is None else {"weights": self._weights.tolist()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        weights = torch.tensor(state_dict.get("weights", []), dtype=torch.float64)
        if tuple(weights.shape) != self._shape:
            raise CheckpointError(
                f"the checkpoint holds weights of shape {tuple(weights.shape)} for num_groups={self._shape[0]} and "
                f"num_classes={self._shape[1]}: resume with what the run was started with"
            )
        if not self._given:
            self._weights, self._restored = weights, True
