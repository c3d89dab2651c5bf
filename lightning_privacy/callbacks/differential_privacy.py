"""Private training as one callback on a trainer that already works.

Each optimizer step becomes a release of the sampled Gaussian mechanism (DP-SGD: Abadi et al., "Deep
Learning with Differential Privacy", 2016): every example enters the step's batch independently with the
same probability, its gradient is clipped, the sum gets Gaussian noise, and the ledger is charged
before. All of it happens inside backward, so what optimizers, loggers and other callbacks see is
already private.

Example:
    >>> import lightning_privacy._lightning as L, torch, warnings
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> class Regression(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(3, 1)
    ...     def training_step(self, batch, batch_idx):
    ...         return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> loader = DataLoader(TensorDataset(torch.randn(64, 3), torch.randn(64, 1)), batch_size=8)
    >>> privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-3)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     trainer = L.Trainer(
    ...         max_epochs=1, callbacks=[privacy], logger=False, accelerator="cpu", barebones=False,
    ...         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ...     )
    ...     trainer.fit(Regression(), loader)
    >>> trainer.global_step, 2.9 < privacy.ledger.epsilon(exact=True) <= 3.0
    (8, True)
"""

from __future__ import annotations

import uuid
import warnings
from typing import Any

from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_privacy._lightning import (
    Callback,
    LightningModule,
    TorchCheckpointIO,
    Trainer,
    check_trainer,
    rank_zero_info,
)
from lightning_privacy._validate import non_negative, one_of, positive, within_open_unit
from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.accounting.calibration import calibrate_noise
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.callbacks._preconditions import (
    check_callbacks,
    check_optimizers,
    check_trainer_settings,
)
from lightning_privacy.callbacks._private_run import PrivateRun
from lightning_privacy.callbacks._run_state import RunProgress, RunSettings, read_state, write_state
from lightning_privacy.callbacks._schedule import StepSchedule
from lightning_privacy.callbacks._train_loader import LoaderFacts, examine
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.mechanisms.noise import NoiseSource
from lightning_privacy.plugins.atomic_checkpoint_io import AtomicCheckpointIO

__all__ = ["DifferentialPrivacy"]


class DifferentialPrivacy(Callback):
    """Trains with differential privacy; the module, its optimizer, its loss and its data stay as they are.

    A step's expected batch is the loader's ``batch_size`` times ``accumulate_grad_batches``, and an epoch has
    as many steps as without privacy. ``trainer.global_step`` counts noisy steps. Epsilon is shown in the
    progress bar and logged as ``privacy/epsilon``. Checkpoints carry what was spent; a run resumed from one
    is charged for the steps that were lost and are done again.

    Args:
        delta: Probability with which the guarantee may fail, in (0, 1); below 1 / number of examples.
        epsilon: What all steps together may cost. Alone, it sets the noise for the trainer's epochs or steps.
        noise_multiplier: Standard deviation of the noise over ``max_grad_norm``. Alone, training runs as long
            as the trainer says. With ``epsilon``, it stops before epsilon would be passed. 0 is not private.
        max_grad_norm: Bound on the norm of one example's gradient, over all trainable parameters.
        clipping: ``"flat"``: one norm over all parameters.
        ledger: Keeps account; one of its own by default. A ledger that is passed has its own delta and
            budget, which must agree with ``delta`` and ``epsilon``, and may hold earlier releases, which
            count.
        noise: Where noise comes from; the operating system by default. A seeded source makes the run
            reproducible and NOT PRIVATE.

    Raises:
        ConfigurationError: An argument is out of range, arguments contradict each other, or (at the start of
            ``fit``) the trainer's limits and epsilon can't be met.
        UnsupportedError: At the start of ``fit``: something in the trainer, the data or the module would void
            the guarantee.
        CheckpointError: At the start of ``fit``: the checkpoint to resume from is damaged, or of a run
            without privacy or with other settings.
        PrivacyBudgetExceeded: At the start of ``fit``: nothing of the budget is left.
        PrivacyViolation: During training: something tried to train in a way the guarantee does not cover.

    Example:
        >>> callback = DifferentialPrivacy(delta=1e-5, epsilon=3.0)
        >>> callback.ledger.budget
        3.0
    """

    def __init__(
        self,
        *,
        delta: float,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        max_grad_norm: float = 1.0,
        clipping: str = "flat",
        ledger: PrivacyLedger | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        super().__init__()
        self._delta = within_open_unit(delta=delta)
        self._epsilon = None if epsilon is None else positive(epsilon=epsilon)
        self._noise_multiplier = None if noise_multiplier is None else non_negative(noise_multiplier=noise_multiplier)
        self._max_grad_norm = positive(max_grad_norm=max_grad_norm)
        one_of(("flat",), clipping=clipping)
        self._clipping = clipping
        self._check_target()
        self._ledger = self._own_ledger() if ledger is None else self._agreed(ledger)
        if noise is not None and not isinstance(noise, NoiseSource):
            raise ConfigurationError(f"noise must be a NoiseSource, got {noise!r}")
        self._noise = NoiseSource() if noise is None else noise
        self._settings: RunSettings | None = None
        self._progress: RunProgress | None = None
        self._run: PrivateRun | None = None
        self._fitting = False
        self._resumed = False
        self._checkpoint_io: TorchCheckpointIO | None = None

    def _check_target(self) -> None:
        if self._epsilon is None and self._noise_multiplier is None:
            raise ConfigurationError(
                "neither epsilon nor noise_multiplier was given: pass epsilon for a target to reach with "
                "the trainer's epochs or steps, noise_multiplier for a fixed amount of noise, or both to "
                "stop at epsilon"
            )
        if self._epsilon is not None and self._noise_multiplier == 0:
            raise ConfigurationError(
                f"noise_multiplier=0 can't keep epsilon={self._epsilon:g}: without noise epsilon is "
                "infinite. Pass a noise_multiplier above 0, or leave epsilon out for a run without privacy"
            )

    def _own_ledger(self) -> PrivacyLedger:
        return PrivacyLedger(delta=self._delta, budget=self._epsilon)

    def _agreed(self, ledger: PrivacyLedger) -> PrivacyLedger:
        if not isinstance(ledger, PrivacyLedger):
            raise ConfigurationError(f"ledger must be a PrivacyLedger, got {ledger!r}")
        if ledger.delta != self._delta:
            raise ConfigurationError(
                f"delta={self._delta:g} differs from the ledger's delta={ledger.delta:g}: pass the same to both"
            )
        if self._epsilon is not None and ledger.budget != self._epsilon:
            raise ConfigurationError(
                f"epsilon={self._epsilon:g} differs from the ledger's budget={ledger.budget}: make the "
                f"ledger with budget={self._epsilon:g}, or pass epsilon={ledger.budget}"
            )
        return ledger

    @property
    def ledger(self) -> PrivacyLedger:
        """What was released so far, and what it cost."""
        return self._ledger

    @property
    def noise_multiplier(self) -> float | None:
        """The noise multiplier in use; None before the first fit of a callback that was given epsilon alone."""
        return self._noise_multiplier if self._settings is None else self._settings.noise_multiplier

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        self._fitting = stage == "fit"
        self._resumed = False
        if not self._fitting:
            return
        check_callbacks(trainer)
        # Lightning's own plugin gives a bare pickle error for a damaged file, and may swallow a failed save.
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self._checkpoint_io = trainer.strategy.checkpoint_io
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    @override
    def state_dict(self) -> dict[str, Any]:
        return write_state(self._ledger.state_dict(), self._settings, self._progress)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning restores callbacks for validate and test too: an older checkpoint must not make this
        # ledger forget what was spent since.
        if not self._fitting:
            return
        ledger, settings, progress = read_state(state_dict)
        self._resumed = True
        known = self._progress is not None and progress is not None and progress.run_id == self._progress.run_id
        if not known:
            here = self._ledger.history
            self._ledger.load_state_dict(ledger)
            for release, count, label in here:
                self._ledger.charge(release, count, label)
        self._settings, self._progress = settings, progress

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_trainer_settings(trainer, pl_module)
        check_optimizers(trainer.optimizers, pl_module)
        self._check_checkpoint(trainer)
        if trainer.limit_train_batches == 0:
            return
        loader = internals.request_train_loader(trainer)
        facts = examine(loader, accumulate=trainer.accumulate_grad_batches)
        self._warn_about_delta(facts)
        schedule = StepSchedule(
            internals.count_loader_batches(trainer, facts.loader_batches), trainer.accumulate_grad_batches
        )
        settings = self._decide(trainer, facts, schedule)
        progress = self._advance(trainer)
        self._settings, self._progress = settings, progress
        self._start(trainer, pl_module, schedule, loader)

    def _check_checkpoint(self, trainer: Trainer) -> None:
        """Refuse to continue a run whose past is unknown."""
        checkpoint = internals.loaded_checkpoint(trainer)
        if not checkpoint or self._resumed or not checkpoint.get("global_step"):
            return
        raise CheckpointError(
            f"the checkpoint {trainer.ckpt_path} has {checkpoint['global_step']} training steps and no "
            "state of DifferentialPrivacy: they were not private, or only weights were saved, so an epsilon "
            "for the whole would be false. Resume from a checkpoint of a private run. If those steps used "
            "public data only, load the weights into the model (load_from_checkpoint) and start without "
            "ckpt_path."
        )

    def _warn_about_delta(self, facts: LoaderFacts) -> None:
        if self._delta * facts.num_examples >= 1:
            warnings.warn(
                f"delta={self._delta:g} is not below 1/{facts.num_examples}, one over the number of "
                "examples: at this delta a mechanism that publishes one random example in full counts as "
                "private. Use a smaller delta.",
                UserWarning,
                stacklevel=2,
            )

    def _decide(self, trainer: Trainer, facts: LoaderFacts, schedule: StepSchedule) -> RunSettings:
        """The numbers of this fit: those of the checkpoint, or new ones for what is left to do."""
        before = self._settings if self._resumed else None
        if before is None:
            sigma = self._choose_noise(trainer, facts, schedule)
        else:
            sigma = before.noise_multiplier if self._noise_multiplier is None else self._noise_multiplier
        settings = RunSettings(
            delta=self._delta,
            noise_multiplier=sigma,
            num_examples=facts.num_examples,
            expected_batch_size=facts.expected_batch_size,
            max_grad_norm=self._max_grad_norm,
            clipping=self._clipping,
        )
        if before is not None:
            settings.check_continues(before)
        if sigma == 0:
            warnings.warn(
                "noise_multiplier=0: training adds no noise and is NOT PRIVATE; epsilon will be infinite",
                UserWarning,
                stacklevel=2,
            )
        return settings

    def _choose_noise(self, trainer: Trainer, facts: LoaderFacts, schedule: StepSchedule) -> float:
        if self._noise_multiplier is not None:
            return self._noise_multiplier
        epsilon = positive(epsilon=self._epsilon)
        steps = schedule.steps_left(
            max_epochs=-1 if trainer.max_epochs is None else trainer.max_epochs,
            max_steps=trainer.max_steps,
            epochs_done=trainer.current_epoch,
            steps_done=trainer.global_step,
        )
        if steps is None:
            raise ConfigurationError(
                f"epsilon={epsilon:g} alone can't set the noise for a trainer without an end (max_epochs=-1, "
                "max_steps=-1): set max_epochs or max_steps, or pass noise_multiplier too, and training "
                "stops at epsilon"
            )
        try:
            return calibrate_noise(
                epsilon=epsilon,
                delta=self._delta,
                sample_rate=facts.sample_rate,
                steps=max(1, steps),
                spent=self._ledger,
            )
        except ConfigurationError as error:
            if not self._ledger.history:
                raise
            raise PrivacyBudgetExceeded(
                f"the budget of epsilon={epsilon:g} is spent up to {self._ledger.epsilon(exact=True):.6g}, "
                f"and what is left is not enough for {steps} more steps: {error}"
            ) from error

    def _advance(self, trainer: Trainer) -> RunProgress:
        """Where this fit starts: a new run, or the next part of one."""
        if self._resumed and self._progress is not None:
            progress = self._progress
            if progress.noise_seed is not None and self._noise.seeded and progress.noise_seed != self._noise.seed:
                raise CheckpointError(
                    f"the checkpoint's noise has seed {progress.noise_seed}, this run's {self._noise.seed}: "
                    "pass the same seed, or none"
                )
        else:
            # Numbers of draws and noise go on where an earlier fit of this callback ended.
            used = 0 if self._progress is None else self._progress.next_number
            run_id = uuid.uuid4().hex if self._progress is None else self._progress.run_id
            progress = RunProgress(run_id=run_id, step_offset=used - trainer.global_step)
        seeded = self._noise.seeded
        progress.noise_seed = self._noise.seed
        progress.sampler_seed = self._noise.bernoulli_seed("sampling") if seeded else None
        if self._noise.caveat is not None:
            self._ledger.add_caveat(self._noise.caveat)
        return progress

    def _start(
        self,
        trainer: Trainer,
        module: LightningModule,
        schedule: StepSchedule,
        loader: DataLoader[Any],
    ) -> None:
        if self._settings is None or self._progress is None:
            raise ConfigurationError("a private run needs settings before it starts")
        self._run = PrivateRun(
            trainer,
            module,
            settings=self._settings,
            progress=self._progress,
            schedule=schedule,
            loader=loader,
            noise=self._noise,
            ledger=self._ledger,
            record=self._record,
        )
        self._run.refuse_without_budget()
        self._run.attach()

    def _record(self) -> None:
        """Write down that a step is about to happen, before it does."""

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._run is not None:
            self._run.start_batch(batch_idx)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._run is not None:
            self._run.check_optimizer(optimizer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._run is not None and self._run.end_batch() and not trainer.barebones:
            epsilon = self._ledger.epsilon()
            pl_module.log("privacy/epsilon", epsilon, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        finished = self._run is not None
        self._close(trainer)
        settings = self._settings
        if finished and settings is not None:
            steps = self._ledger.count(SampledGaussian(settings.noise_multiplier, settings.sample_rate))
            rank_zero_info(
                f"Trained with (epsilon={self._ledger.epsilon(exact=True):.4g}, delta={self._delta:g}) "
                f"differential privacy per {self._ledger.unit}: {steps} steps, noise multiplier "
                f"{settings.noise_multiplier:.4g}, sample rate {settings.sample_rate:.4g}"
                + "".join(f"; {caveat}" for caveat in self._ledger.caveats)
            )

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close(trainer)

    def _close(self, trainer: Trainer) -> None:
        """Take everything off the trainer and its module again."""
        if self._run is not None:
            self._run.close()
            self._run = None
        if self._checkpoint_io is not None:
            trainer.strategy.checkpoint_io = self._checkpoint_io
            self._checkpoint_io = None
