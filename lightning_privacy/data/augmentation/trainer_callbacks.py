"""What an AugmentationDataModule hangs on the Trainer that it is given to.

Example:
    >>> from types import SimpleNamespace
    >>> trainer = SimpleNamespace(callbacks=[])
    >>> HookWarning.attach(trainer)
    >>> HookWarning.attach(trainer)
    >>> len(trainer.callbacks)
    1
"""

from __future__ import annotations

import warnings
from typing import Any

from typing_extensions import override

from lightning_privacy._lightning import Callback
from lightning_privacy.data.augmentation.proxy import DataModuleProxy
from lightning_privacy.data.augmentation.workers import EpochClock

__all__ = ["EpochHand", "HookWarning"]


class EpochHand(Callback):
    """Moves the clock that workers look at, before they start on an epoch.

    Args:
        clock: the clock.
    """

    def __init__(self, clock: EpochClock) -> None:
        self.clock = clock

    @classmethod
    def attach(cls, trainer: Any, clock: EpochClock) -> None:
        """Add one to the trainer, unless it moves this clock already."""
        if not any(isinstance(item, cls) and item.clock is clock for item in trainer.callbacks):
            trainer.callbacks = [*trainer.callbacks, cls(clock)]

    @override
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.clock.epoch = trainer.current_epoch


class HookWarning(Callback):
    """Keeps Lightning from warning that it calls the batch hooks of the DataModule only: that calls both.

    From the start of what the trainer does to its end; then the process warns as before.
    """

    def __init__(self) -> None:
        self._filter: Any = None

    @classmethod
    def attach(cls, trainer: Any) -> None:
        """Add one to the trainer, unless it has one."""
        if not any(isinstance(item, cls) for item in trainer.callbacks):
            trainer.callbacks = [*trainer.callbacks, cls()]

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if not isinstance(trainer.datamodule, DataModuleProxy):  # the trainer's next one
            return
        warnings.filterwarnings("ignore", message=r"You have overridden `on_(before|after)_batch_transfer` in both")
        self._filter = warnings.filters[0]

    @override
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._withdraw()

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._withdraw()

    def _withdraw(self) -> None:
        if self._filter in warnings.filters:
            warnings.filters.remove(self._filter)  # type: ignore[attr-defined] # a list, though not declared as one
        self._filter = None
