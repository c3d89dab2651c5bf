"""What a checkpoint says about a private run, and whether a later run may continue it.

Everything is made of plain Python types, so a checkpoint loads with ``weights_only=True``. No sum of
gradients and no unseeded random state is ever in it: whoever reads a published checkpoint learns
nothing about the noise.

Example:
    >>> settings = RunSettings(
    ...     delta=1e-5, noise_multiplier=1.0, num_examples=100, expected_batch_size=10,
    ...     clipping={"policy": "FlatClipping", "max_grad_norm": 1.0},
    ... )
    >>> RunSettings.from_dict(settings.to_dict()) == settings, settings.sample_rate
    (True, 0.1)
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lightning_privacy.errors import CheckpointError

__all__ = ["RunProgress", "RunSettings", "read_state", "write_state"]

_VERSION = 3
_READS = (2, 3)
_REMEDIES = {
    "delta": "pass the delta of the checkpoint",
    "num_examples": "resume with the data set the run was started with",
    "expected_batch_size": "set batch_size and accumulate_grad_batches so that their product is the same",
    "clipping": "pass the max_grad_norm and clipping of the checkpoint",
    "views": "pass the views of the checkpoint",
    "public": "pass the same public parts",
    "balance": "give the loader the same balanced sampler and pass the same balance",
    "noise_multiplier": "pass the noise_multiplier of the checkpoint, or leave it out when epsilon was given",
}


@dataclass(frozen=True)
class RunSettings:
    """The numbers the guarantee of a run depends on; a resumed run must have the same.

    Args:
        delta: Of the ledger.
        noise_multiplier: Standard deviation of the noise over the clipping norm.
        num_examples: Size of the data set.
        expected_batch_size: Examples of a step on average.
        clipping: Clipping policy, as it describes itself.
        views: Rows of a batch for each example.
        public: Names of parts that never see private data.
        balance: Names, counts (public or noisy), rates and loss weights of the classes that are balanced, as
            ``_balance.settle`` gives them; None where all examples are alike.
    """

    delta: float
    noise_multiplier: float
    num_examples: int
    expected_batch_size: int
    clipping: dict[str, Any]
    views: int = 1
    public: list[str] = field(default_factory=list)
    balance: dict[str, Any] | None = None

    @property
    def sample_rate(self) -> float:
        """Largest probability of any example to be in the batch of a step: what is charged."""
        if self.balance is not None and self.balance["rates"] is not None:
            return float(max(self.balance["rates"]))
        return self.expected_batch_size / self.num_examples

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSettings:
        """The settings :meth:`to_dict` described."""
        given = {"balance": None, **values}  # version 2 had none
        return cls(**{entry.name: given[entry.name] for entry in fields(cls)})

    def check_continues(self, saved: RunSettings) -> None:
        """Raise unless this run has the settings of the saved one.

        Raises:
            CheckpointError: Naming what differs, both values and the way out.
        """
        for entry in fields(self):
            own, before = getattr(self, entry.name), getattr(saved, entry.name)
            if own != before:
                raise CheckpointError(
                    f"the checkpoint's run has {entry.name}={_brief(before)}, this one {_brief(own)}: its ledger would "
                    f"not describe what is trained now. To continue, {_REMEDIES[entry.name]}; otherwise "
                    "start a new run without ckpt_path."
                )


@dataclass
class RunProgress:
    """How far a run is.

    Args:
        run_id: Name of the run, kept over its resumptions.
        step_offset: Added to ``trainer.global_step`` to number draws and noise, so that no number comes
            twice.
        next_number: Number of the draw and noise that comes next.
        epoch_first_step: ``trainer.global_step`` at the start of the present epoch.
        at_step_boundary: Whether the last micro-batch closed a step.
        journal_path: File that knows the steps taken after the last checkpoint, or ``None``.
        noise_seed: The seed of the noise, only if one was passed.
        sampler_seed: The seed of the draws, only if the noise is seeded.
        trainer_steps: ``trainer.global_step`` after the last step this callback knows of.
        clipping_state: What of the clipping policy changed in training.
    """

    run_id: str
    step_offset: int = 0
    next_number: int = 0
    epoch_first_step: int = 0
    at_step_boundary: bool = True
    journal_path: str | None = None
    noise_seed: int | None = None
    sampler_seed: int | None = None
    trainer_steps: int = 0
    clipping_state: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunProgress:
        """The progress ``dataclasses.asdict`` described."""
        return cls(**{entry.name: values[entry.name] for entry in fields(cls)})


def _brief(value: object) -> str:
    return textwrap.shorten(repr(value), 400, placeholder=" ...")


def write_state(ledger: dict[str, Any], settings: RunSettings | None, progress: RunProgress | None) -> dict[str, Any]:
    """The callback's state for a checkpoint; never empty, as Lightning would leave an empty one out."""
    return {
        "version": _VERSION,
        "ledger": ledger,
        "settings": None if settings is None else settings.to_dict(),
        "progress": None if progress is None else asdict(progress),
    }


def read_state(
    state: Mapping[str, Any],
) -> tuple[dict[str, Any], RunSettings | None, RunProgress | None]:
    """Take a saved state apart.

    Returns:
        State of the ledger, settings and progress; the last two are None when nothing had been trained.

    Raises:
        CheckpointError: The state is of another version, or not one at all.
    """
    if state.get("version") not in _READS:
        raise CheckpointError(
            f"the checkpoint's privacy state has version {state.get('version')!r}, this version of "
            f"lightning_privacy reads {_VERSION}: resume with the version that wrote it"
        )
    try:
        ledger, settings, progress = state["ledger"], state["settings"], state["progress"]
        return (
            ledger,
            None if settings is None else RunSettings.from_dict(settings),
            None if progress is None else RunProgress.from_dict(progress),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"the checkpoint's privacy state is damaged ({error!r}): resume from another checkpoint, or "
            "start a new run without ckpt_path"
        ) from error
