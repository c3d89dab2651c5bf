"""Where a fit starts: a new run, or the next part of one."""

from __future__ import annotations

import uuid

from lightning_privacy._lightning import Trainer
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.sweep import note_sweep
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks._run_state import RunProgress
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["advance", "refuse_steps_of_others"]


def refuse_steps_of_others(trainer: Trainer, progress: RunProgress | None) -> None:
    """Refuse a trainer that took steps without this callback: they are in the weights and not in the ledger.

    Args:
        trainer: The trainer, in ``on_fit_start``; nothing was resumed.
        progress: Of the callback's fits so far, if there were any.

    Raises:
        ConfigurationError: It has.
    """
    known = 0 if progress is None else progress.trainer_steps
    if trainer.global_step > known:
        raise ConfigurationError(
            f"the trainer has taken {trainer.global_step} steps, and this DifferentialPrivacy knows of {known}: "
            "the others were not private, or of another ledger, so epsilon would be false. Fit with "
            "one callback from the first step on. If those steps used public data only, use a new Trainer"
        )


def advance(
    before: RunProgress | None,
    *,
    trainer: Trainer,
    processes: Processes,
    noise: NoiseSource,
    ledger: PrivacyLedger,
    resumed: bool,
) -> RunProgress:
    """Return where this fit starts, and tell the ledger what its guarantee does not cover from the beginning.

    Args:
        before: Of the callback's fits so far, or of the checkpoint that is resumed.
        trainer: The trainer, in ``on_fit_start``.
        processes: Those that share each step; each must call this.
        noise: Where noise comes from.
        ledger: Gets the caveats.
        resumed: Whether a checkpoint is resumed.

    Raises:
        CheckpointError: The checkpoint's noise has another seed.
    """
    if resumed and before is not None:
        progress = before
        if progress.noise_seed is not None and noise.seeded and progress.noise_seed != noise.seed:
            raise CheckpointError(
                f"the checkpoint's noise has seed {progress.noise_seed}, this run's {noise.seed}: "
                "pass the same seed, or none"
            )
    else:
        # Numbers of draws and noise go on where an earlier fit of this callback ended.
        used = 0 if before is None else before.next_number
        run_id = processes.same(uuid.uuid4().hex if before is None else before.run_id)
        # With manual optimisation the trainer counts the steps of every optimizer, so its number says nothing.
        offset = used - trainer.global_step if trainer.lightning_module.automatic_optimization else 0
        progress = RunProgress(run_id=run_id, step_offset=offset, next_number=used, trainer_steps=trainer.global_step)
    progress.noise_seed = noise.seed
    progress.sampler_seed = noise.bernoulli_seed("sampling") if noise.seeded else None
    if noise.caveat is not None:
        ledger.add_caveat(noise.caveat)
    note_sweep(ledger)
    return progress
