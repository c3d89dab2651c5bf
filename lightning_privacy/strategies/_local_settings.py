"""Settings of the trainer that are about a client's steps; for rounds they would mean something else.

Example:
    >>> from lightning_privacy._lightning import Trainer
    >>> trainer = Trainer(accelerator="cpu", devices=1, logger=False, accumulate_grad_batches=4)
    >>> settings = LocalSettings.borrow(trainer)
    >>> settings.accumulate_grad_batches, trainer.accumulate_grad_batches
    (4, 1)
    >>> settings.give_back(trainer)
    >>> trainer.accumulate_grad_batches
    4
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lightning_privacy.errors import ConfigurationError

__all__ = ["LocalSettings"]

_DEFAULT_LOG_INTERVAL = 50


@dataclass(frozen=True)
class LocalSettings:
    """What the user told the trainer.

    Args:
        accumulate_grad_batches: Batches of a client's step.
        gradient_clip_val: Bound of a client's gradients, or None.
        gradient_clip_algorithm: What the bound is of.
        log_every_n_steps: Steps between two lines of a log; each round, unless the user chose otherwise.
    """

    accumulate_grad_batches: int
    gradient_clip_val: float | None
    gradient_clip_algorithm: str | None
    log_every_n_steps: int

    @classmethod
    def borrow(cls, trainer: Any) -> LocalSettings:
        """Take them from a trainer, which has those of rounds after that.

        Raises:
            ConfigurationError: One of them changes over the fit.
        """
        if any(type(callback).__name__ == "GradientAccumulationScheduler" for callback in trainer.callbacks):
            raise ConfigurationError(
                "GradientAccumulationScheduler changes how many rounds a server step would take: set "
                "Trainer(accumulate_grad_batches=...), which is for the steps of a client"
            )
        settings = cls(
            trainer.accumulate_grad_batches,
            trainer.gradient_clip_val,
            trainer.gradient_clip_algorithm,
            trainer.log_every_n_steps,
        )
        trainer.accumulate_grad_batches = 1
        trainer.gradient_clip_val = None
        if trainer.log_every_n_steps == _DEFAULT_LOG_INTERVAL:
            trainer.log_every_n_steps = 1
        return settings

    def give_back(self, trainer: Any) -> None:
        """Set the trainer as the user had it."""
        for name, value in asdict(self).items():
            setattr(trainer, name, value)
