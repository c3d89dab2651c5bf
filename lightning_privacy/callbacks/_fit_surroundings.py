"""What a private fit needs of its trainer before it starts, and gives back when it ends.

The loader must come undivided and untouched until the fit has looked at it; and a checkpoint must be complete or not
there, since it says what was spent.

Example:
    >>> import lightning_privacy._lightning as L
    >>> trainer = L.Trainer(logger=False, accelerator="cpu", barebones=True)
    >>> before, surroundings = trainer.strategy.checkpoint_io, FitSurroundings()
    >>> surroundings.set_up(trainer)
    >>> type(trainer.strategy.checkpoint_io).__name__
    'AtomicCheckpointIO'
    >>> surroundings.take_back(trainer)
    >>> trainer.strategy.checkpoint_io is before
    True
"""

from __future__ import annotations

from lightning_privacy._lightning import TorchCheckpointIO, Trainer
from lightning_privacy.callbacks import _trainer_loader as loading
from lightning_privacy.callbacks._train_loader import undivided
from lightning_privacy.plugins.atomic_checkpoint_io import AtomicCheckpointIO

__all__ = ["FitSurroundings"]


class FitSurroundings:
    """Replaces parts of a trainer for one fit; each method does nothing where there is nothing to do."""

    def __init__(self) -> None:
        self._checkpoint_io: TorchCheckpointIO | None = None
        self._shield: loading.LoaderShield | None = None

    def set_up(self, trainer: Trainer) -> None:
        """Shield the train loader, and save checkpoints whole.

        Args:
            trainer: In ``setup`` of a fit.
        """
        processes = trainer.world_size
        self._shield = loading.shield_train_loader(trainer, lambda loader: undivided(loader, processes=processes))
        # Lightning's own plugin gives a bare pickle error for a damaged file, and may swallow a failed save.
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self._checkpoint_io = trainer.strategy.checkpoint_io
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def lift_shield(self, trainer: Trainer) -> None:
        """Let others have the train loader, once the private one is installed."""
        if self._shield is not None:
            loading.lift_shield(trainer, self._shield)
            self._shield = None

    def take_back(self, trainer: Trainer) -> None:
        """Leave the trainer as it was."""
        self.lift_shield(trainer)
        if self._checkpoint_io is not None:
            trainer.strategy.checkpoint_io = self._checkpoint_io
            self._checkpoint_io = None
