"""From what the user asked for to the numbers of a fit: noise, sample rate, and what a checkpoint says of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

from lightning_privacy._lightning import Trainer
from lightning_privacy._validate import positive, positive_int
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.calibration import calibrate_noise
from lightning_privacy.accounting.pld import composed
from lightning_privacy.accounting.target import caveat_of_delta, check_target, ledger_for
from lightning_privacy.callbacks._balance_cost import unaffordable
from lightning_privacy.callbacks._parts import releases_per_step
from lightning_privacy.callbacks._run_state import RunSettings
from lightning_privacy.callbacks._schedule import StepSchedule
from lightning_privacy.callbacks._train_loader import LoaderFacts
from lightning_privacy.callbacks.private_balance import PrivateBalance
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.gradients.clipping import ClippingPolicy

__all__ = ["Target", "plan_settings", "steps_to_limits"]

# With less of epsilon left than this share, the noise would drown whatever is learned.
_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Target:
    """What the user asked for; see :class:`DifferentialPrivacy` for the meaning.

    Args:
        delta: In (0, 1).
        epsilon: Above 0, or None.
        noise_multiplier: At least 0, or None.
        clipping: A clipping policy.
        views: At least 1.
        public: Names of parts that never see private data.
        balance: How classes are balanced where the loader's sampler asks for it; None for the defaults.

    Raises:
        ConfigurationError: A number is out of range, or there is no target, or one that can't be met.

    Example:
        >>> from lightning_privacy.gradients.clipping import FlatClipping
        >>> Target(delta=1e-5, epsilon=None, noise_multiplier=1.0, clipping=FlatClipping(1.0)).delta
        1e-05
    """

    delta: float
    epsilon: float | None
    noise_multiplier: float | None
    clipping: ClippingPolicy
    views: int = 1
    public: tuple[str, ...] = ()
    balance: PrivateBalance | None = None

    def __post_init__(self) -> None:
        check_target(
            delta=self.delta,
            epsilon=self.epsilon,
            noise_multiplier=self.noise_multiplier,
            steps="the trainer's epochs or steps",
        )
        positive_int(views=self.views)
        if self.balance is not None and not isinstance(self.balance, PrivateBalance):
            raise ConfigurationError(f"balance must be a PrivateBalance or None, got {self.balance!r}")

    def ledger(self, given: object) -> PrivacyLedger:
        """The user's ledger when it agrees with this target, or a new one when there is none."""
        return ledger_for(given, delta=self.delta, epsilon=self.epsilon, unit="example")


def plan_settings(
    target: Target,
    facts: LoaderFacts,
    *,
    trainer: Trainer,
    schedule: StepSchedule,
    ledger: PrivacyLedger,
    before: RunSettings | None,
    balance: dict[str, Any] | None = None,
) -> RunSettings:
    """Numbers of the fit that is about to start.

    Args:
        target: What the user asked for.
        facts: Numbers of the train loader.
        trainer: Its limits bound the steps.
        schedule: Steps of an epoch.
        ledger: What was spent counts.
        before: Settings of the checkpoint that is resumed; they stay, and what differs is refused.
        balance: Rates or weights of the classes, as ``_balance.settle`` gives them.

    Raises:
        ConfigurationError: Epsilon can't be met with the trainer's limits, or not with full balance.
        PrivacyBudgetExceeded: Too little is left of it.
        CheckpointError: The checkpoint's run has other settings.
    """
    too_large = caveat_of_delta(target.delta, facts.num_examples, "example")
    if too_large is not None:
        ledger.add_caveat(too_large)
        warnings.warn(f"{too_large} Use a smaller delta.", UserWarning, stacklevel=2)
    settings = RunSettings(
        delta=target.delta,
        noise_multiplier=target.noise_multiplier or 0.0,
        num_examples=facts.num_examples,
        expected_batch_size=facts.expected_batch_size,
        clipping=target.clipping.describe(),
        views=target.views,
        public=list(target.public),
        balance=balance,
    )
    if target.noise_multiplier is None:
        sigma = before.noise_multiplier if before is not None else 0.0
        if before is None:
            sigma = _calibrated(target, settings.sample_rate, trainer, schedule, ledger)
        settings = replace(settings, noise_multiplier=sigma)
    if settings.noise_multiplier == 0:
        warnings.warn(
            "noise_multiplier=0: training adds no noise and is NOT PRIVATE; epsilon will be infinite",
            UserWarning,
            stacklevel=2,
        )
    if before is not None:
        settings.check_continues(before)
    else:
        _check_balance(target, settings, steps=steps_to_limits(trainer, schedule), trainer=trainer, ledger=ledger)
    return settings


def steps_to_limits(trainer: Trainer, schedule: StepSchedule) -> int | None:
    """Steps until the trainer's ``max_epochs`` or ``max_steps`` ends training; None where it has neither."""
    return schedule.steps_left(
        max_epochs=-1 if trainer.max_epochs is None else trainer.max_epochs,
        max_steps=trainer.max_steps,
        epochs_done=trainer.current_epoch,
        steps_done=trainer.global_step,
    )


def _check_balance(
    target: Target, settings: RunSettings, *, steps: int | None, trainer: Trainer, ledger: PrivacyLedger
) -> None:
    """Refuse balance that the budget doesn't pay for, and say how much of it does."""
    balance, asked = settings.balance, target.balance or PrivateBalance()
    if balance is None or balance["rates"] is None or target.epsilon is None or steps is None:
        return
    if target.noise_multiplier is None:
        most = asked.max_noise_multiplier
        if most is None or settings.noise_multiplier <= most:
            return
    elif asked.max_sample_rate is None:
        most = target.noise_multiplier
    else:
        return  # training stops at epsilon, as it does without balance
    releases = max(1, steps) * releases_per_step(trainer.optimizers)

    if ledger.affords(target.clipping.release(most, settings.sample_rate), releases):
        return

    def epsilon_at(rate: float, interval: float) -> float:
        counts = dict(ledger.groups)
        step = target.clipping.release(most, rate)
        counts[step] = counts.get(step, 0) + releases
        return float(composed(tuple(counts.items()), interval=interval).get_epsilon_for_delta(target.delta))

    raise ConfigurationError(
        unaffordable(
            balance,
            epsilon_at=epsilon_at,
            expected_batch_size=settings.expected_batch_size,
            noise_multiplier=most,
            steps=releases,
            epsilon=target.epsilon,
        )
    )


def _calibrated(
    target: Target, sample_rate: float, trainer: Trainer, schedule: StepSchedule, ledger: PrivacyLedger
) -> float:
    """The least noise with which the steps that are left cost what is left of epsilon."""
    epsilon = positive(epsilon=target.epsilon)
    steps = steps_to_limits(trainer, schedule)
    if steps is None:
        raise ConfigurationError(
            f"epsilon={epsilon:g} alone can't set the noise for a trainer without an end (max_epochs=-1, "
            "max_steps=-1): set max_epochs or max_steps, or pass noise_multiplier too, and training stops at "
            "epsilon"
        )
    spent = ledger.epsilon(exact=True)
    if spent > (1 - _LEAST_SHARE) * epsilon:
        raise PrivacyBudgetExceeded(
            f"the budget of epsilon={epsilon:g} at delta={target.delta:g} is spent up to {spent:.6g}, too much to "
            "train on: use a larger epsilon, or a new ledger for new data"
        )
    return calibrate_noise(
        epsilon=epsilon,
        delta=target.delta,
        sample_rate=sample_rate,
        steps=max(1, steps) * releases_per_step(trainer.optimizers),
        spent=ledger,
    )
