"""How a run is trained, so that models to compare it with can be trained in the same way.

Example:
    >>> import lightning_privacy._lightning as L
    >>> from lightning_privacy.callbacks import DifferentialPrivacy
    >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    >>> trainer = L.Trainer(callbacks=[DifferentialPrivacy(delta=1e-5, noise_multiplier=1.5)], max_epochs=3, **quiet)
    >>> own = Recipe.of(trainer).trainer(trainer)
    >>> [callback.noise_multiplier for callback in own.callbacks if isinstance(callback, DifferentialPrivacy)]
    [1.5]
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from lightning_privacy._lightning import Trainer
from lightning_privacy.callbacks.differential_privacy import DifferentialPrivacy
from lightning_privacy.callbacks.run_privacy import privacy_of
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.clipping import ClippingPolicy

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What has to be known of a run before it starts, since private training changes it on the way.

    Attributes:
        accumulate: Batches per optimizer step.
        privacy: What makes the run private; None where nothing does.
        clipping: How it clips, as it was before the first step.
    """

    accumulate: int
    privacy: DifferentialPrivacy | None
    clipping: ClippingPolicy | None

    @classmethod
    def of(cls, trainer: Trainer) -> Recipe:
        """The recipe of a trainer that is about to fit."""
        privacy = privacy_of(trainer)
        clipping = None if privacy is None else copy.deepcopy(privacy._target.clipping)
        return cls(trainer.accumulate_grad_batches, privacy, clipping)

    def batch_size(self, loader: DataLoader[Any]) -> int:
        """Examples of a batch as the user's own loader has it.

        Args:
            loader: That of the run, of which private training has replaced the sampler.

        Raises:
            UnsupportedError: The loader has no batch size.
        """
        settings = None if self.privacy is None else self.privacy._settings
        if settings is not None:
            return max(1, round(settings.expected_batch_size / self.accumulate))
        if loader.batch_size is None:
            raise UnsupportedError(
                "the train loader has no batch_size that reference models could be trained with: give the DataLoader "
                "batch_size in place of batch_sampler"
            )
        return loader.batch_size

    @staticmethod
    def validation(trainer: Trainer) -> Any:
        """The loaders that the learning rate is set by, of a run that sets it by a figure of the validation.

        Args:
            trainer: The run's, which has its optimizers.

        Returns:
            None where nothing of the training follows from the validation, so that it can be left out.
        """
        configs = trainer.lr_scheduler_configs
        # The class is looked at as well, since manual optimization marks none.
        follows = any(config.reduce_on_plateau or isinstance(config.scheduler, ReduceLROnPlateau) for config in configs)
        return trainer.val_dataloaders if follows else None

    def trainer(self, trainer: Trainer) -> Trainer:
        """A trainer that trains as long as another did, with as much noise, and leaves nothing behind.

        Args:
            trainer: The run's, after its training or before.
        """
        steps = trainer.max_steps != -1 and trainer.global_step > 0
        device = trainer.strategy.root_device
        return Trainer(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index],
            max_epochs=-1 if steps else trainer.current_epoch or trainer.max_epochs,
            max_steps=trainer.global_step if steps else -1,
            limit_train_batches=trainer.limit_train_batches,
            limit_val_batches=trainer.limit_val_batches,
            **_validated(trainer),
            num_sanity_val_steps=0,
            accumulate_grad_batches=self.accumulate,
            gradient_clip_val=trainer.gradient_clip_val,
            gradient_clip_algorithm=trainer.gradient_clip_algorithm,
            precision=trainer.precision,
            callbacks=None if self.privacy is None else [self._like(self.privacy)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def _like(self, privacy: DifferentialPrivacy) -> DifferentialPrivacy:
        """Private training with the same noise, whose ledger nobody asks: what it trains is thrown away."""
        target = privacy._target
        return DifferentialPrivacy(
            delta=target.delta,
            epsilon=target.epsilon if privacy.noise_multiplier is None else None,
            noise_multiplier=privacy.noise_multiplier,
            clipping="flat" if self.clipping is None else copy.deepcopy(self.clipping),
            views=target.views,
            public=target.public,
            balance=target.balance,
            probe=False,
        )


def _validated(trainer: Trainer) -> dict[str, Any]:
    """When to validate a reference model: when the run was, where that is not by the clock."""
    # A trainer that validates by the clock has no interval.
    epochs, interval = trainer.check_val_every_n_epoch, getattr(trainer, "val_check_interval", None)
    if epochs is None and isinstance(interval, int):
        return {"check_val_every_n_epoch": None, "val_check_interval": interval}
    # A number of batches within an epoch may be more than an epoch of a reference model has.
    part = interval if epochs is not None and isinstance(interval, float) else 1.0
    return {"check_val_every_n_epoch": epochs or 1, "val_check_interval": part}
