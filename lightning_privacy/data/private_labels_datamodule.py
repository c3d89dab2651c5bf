"""Label privacy around any DataModule: its train labels are randomised once, and kept in checkpoints.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> from lightning_privacy.data.digits import DigitsDataModule
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> digits = PrivateLabelsDataModule(DigitsDataModule(batch_size=64), num_classes=10, epsilon=3.0, ledger=ledger)
    >>> images, labels = next(iter(digits.train_dataloader()))
    >>> images.shape, round(ledger.replace_one_epsilon(), 3)
    (torch.Size([64, 1, 28, 28]), 3.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from typing_extensions import override

from lightning_privacy._lightning import LightningDataModule
from lightning_privacy.accounting import PrivacyLedger, RandomizedResponseRelease
from lightning_privacy.data.augmentation.batches import with_dataset
from lightning_privacy.data.augmentation.datamodule import AugmentationDataModule
from lightning_privacy.data.augmentation.proxy import DataModuleProxy
from lightning_privacy.data.private_labels import PrivateLabels
from lightning_privacy.errors import CheckpointError, ConfigurationError, UnsupportedError
from lightning_privacy.mechanisms import ForwardCorrection, NoiseSource

__all__ = ["PrivateLabelsDataModule"]

_STATE = "private_labels"

# Samplers that know nothing of the examples but their number.
_BLIND = (RandomSampler, SequentialSampler, BatchSampler, type(None))


class PrivateLabelsDataModule(DataModuleProxy):
    """Puts :class:`~lightning_privacy.data.PrivateLabels` in front of the train data; all else is the DataModule's own.

    The labels are drawn when the train loader is first asked for, and a checkpoint has them: a resumed run trains on
    the same. Validation and test data keep their true labels, and are not protected.

    Args:
        datamodule: has one train loader, whose sampler does not look at labels.
        num_classes: number of classes: all there can be, known without looking at the data.
        epsilon: what the labels cost when one is replaced by any other, > 0.
        ledger: charged before anything is drawn, once; may be set later, before the train loader is asked for.
        noise: None for the operating system's randomness; a seeded source makes the labels reproducible and NOT
            PRIVATE.
        label: where in an example its label is: a position, or a name.

    Raises:
        ConfigurationError: an argument is out of range.
        UnsupportedError: when the loader is made: there are several, or its sampler was made from something that may
            have been the true labels.
    """

    own: ClassVar[frozenset[str]] = DataModuleProxy.own | {
        "correction",
        "learns_from_records",
        "ledger",
        "load_state_dict",
        "state_dict",
        "train_dataloader",
    }

    # Randomised labels are releases, which belong into the ledger of private training.
    learns_from_records = True

    def __init__(
        self,
        datamodule: LightningDataModule,
        *,
        num_classes: int,
        epsilon: float,
        ledger: PrivacyLedger | None = None,
        noise: NoiseSource | None = None,
        label: int | str = 1,
    ) -> None:
        if issubclass(type(datamodule), AugmentationDataModule):
            raise ConfigurationError(
                "datamodule must be the one with the labels: put AugmentationDataModule around PrivateLabelsDataModule"
            )
        super().__init__(datamodule)
        release = RandomizedResponseRelease(epsilon, num_classes)  # refuses what is out of range, now
        self._proxy_options: dict[str, Any] = {
            "num_classes": release.num_classes,
            "epsilon": release.epsilon,
            "noise": noise,
            "label": label,
        }
        self._proxy_ledger: PrivacyLedger | None = None
        self._proxy_labels: PrivateLabels | None = None
        self._proxy_state: Mapping[str, Any] | None = None
        self.ledger = ledger

    @property
    def ledger(self) -> PrivacyLedger | None:
        """Where the labels are charged."""
        return self._proxy_ledger

    @ledger.setter
    def ledger(self, ledger: PrivacyLedger | None) -> None:
        if ledger is not None and not isinstance(ledger, PrivacyLedger):
            raise ConfigurationError(f"ledger must be a PrivacyLedger or None, got {ledger!r}")
        if self._proxy_labels is not None and ledger is not self._proxy_ledger:
            raise ConfigurationError(
                "the labels are drawn already, and are in the ledger they were charged to: set ledger before the train "
                "loader is asked for"
            )
        self._proxy_ledger = ledger
        if ledger is not None and hasattr(self.datamodule, "ledger"):
            self.datamodule.ledger = ledger

    def correction(self) -> ForwardCorrection:
        """The forward correction of the loss for these labels; see :class:`~lightning_privacy.ForwardCorrection`."""
        return ForwardCorrection(self._proxy_options["num_classes"], self._proxy_options["epsilon"])

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        loader = self.datamodule.train_dataloader()
        if not isinstance(loader, DataLoader):
            raise UnsupportedError(
                f"train_dataloader must give one DataLoader for PrivateLabelsDataModule, got {type(loader).__name__}: "
                "put PrivateLabels around each data set"
            )
        for sampler in (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)):
            if type(sampler) not in _BLIND:
                raise UnsupportedError(
                    f"the train loader has a {type(sampler).__name__}, which may have been made from the true labels "
                    "and would tell them: make it from PrivateLabels.labels, or leave it out"
                )
        labels = self._proxy_labels
        if labels is None:
            labels = PrivateLabels(
                loader.dataset, ledger=self._proxy_ledger, state=self._proxy_state, **self._proxy_options
            )
            self._proxy_labels = labels
        elif labels.size != len(loader.dataset):  # type: ignore[arg-type]
            raise ConfigurationError(
                f"the train data set had {labels.size} examples when its labels were randomised, and has "
                f"{len(loader.dataset)} now: one whose examples change needs PrivateLabels of its own"  # type: ignore[arg-type]
            )
        return with_dataset(loader, labels.around(loader.dataset))

    @override
    def state_dict(self) -> dict[str, Any]:
        """State of the DataModule, and with it the randomised labels once they are drawn."""
        state: dict[str, Any] = self.datamodule.state_dict()
        own = self._proxy_state if self._proxy_labels is None else self._proxy_labels.state_dict()
        return state if own is None else {**state, _STATE: own}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the labels of the run that is resumed.

        Raises:
            CheckpointError: there are none in the checkpoint: that run was without this DataModule.
        """
        own = state_dict.get(_STATE)
        if own is None:
            raise CheckpointError(
                "the checkpoint has no randomised labels: it is of a run that trained on other labels, perhaps on the "
                "true ones. Start anew, or go on without PrivateLabelsDataModule"
            )
        self.datamodule.load_state_dict({key: value for key, value in state_dict.items() if key != _STATE})
        if self._proxy_labels is None:
            self._proxy_state = own
        else:
            self._proxy_labels.load_state_dict(own)
