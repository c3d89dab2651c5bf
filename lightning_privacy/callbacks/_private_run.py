"""One private fit: what is attached to the trainer and its module, and what happens at each batch.

A :class:`PrivateRun` exists from ``on_fit_start`` to the end of the fit and takes everything off again.
The optimizers, the loss and the module's class stay as they are: the gradient is private before
anybody sees it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.audit.slots import CanarySlots
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.callbacks import _trainer_loader as loading
from lightning_privacy.callbacks._budget_pace import BudgetPace
from lightning_privacy.callbacks._epoch_batches import (
    EpochBatches,
    example_weights,
    largest_microbatch,
    private_sampler,
)
from lightning_privacy.callbacks._monitored_metrics import MonitoredMetrics
from lightning_privacy.callbacks._parts import public_parameters, releases_per_step
from lightning_privacy.callbacks._precision_support import LossScale
from lightning_privacy.callbacks._privacy_audit_draws import AuditedDraws
from lightning_privacy.callbacks._probing import probe_training_step
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks._run_state import RunProgress, RunSettings
from lightning_privacy.callbacks._schedule import StepSchedule, accumulation_value
from lightning_privacy.callbacks._step_guard import StepGuard
from lightning_privacy.callbacks._step_meeting import Place, StepMeeting
from lightning_privacy.callbacks._train_loader import with_batch_sampler
from lightning_privacy.callbacks._untrained_state import UntrainedState
from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.clipping import ClippingPolicy
from lightning_privacy.gradients.engine import PrivateGradients
from lightning_privacy.mechanisms.noise import NoiseSource
from lightning_privacy.sampling.microbatch import Microbatch

__all__ = ["PrivateRun"]


class PrivateRun:
    """Attaches private gradients, sampling and guards to one fit.

    Args:
        trainer: The trainer, in ``on_fit_start``.
        module: Its module.
        settings: Numbers of the guarantee.
        progress: Where the run is; kept up to date.
        schedule: Steps of an epoch and validation in the user's units.
        loader: The user's train loader.
        noise: Where noise comes from.
        ledger: Where each step is charged.
        record: Called before each charge, to write down that a step is about to happen.
        processes: Those that share each step.
        policy: How gradients are clipped.
        cells: Number of the class of each example, where classes are balanced.

    Raises:
        UnsupportedError: The module has a layer that voids the guarantee.
        ConfigurationError: The module has no trainable parameter.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        *,
        settings: RunSettings,
        progress: RunProgress,
        schedule: StepSchedule,
        loader: DataLoader[object],
        noise: NoiseSource,
        ledger: PrivacyLedger,
        record: Callable[[Release], None],
        processes: Processes,
        policy: ClippingPolicy,
        cells: NDArray[np.int64] | None = None,
    ) -> None:
        self._trainer = trainer
        self._automatic = module.automatic_optimization
        self._per_step = releases_per_step(trainer.optimizers)
        self._public = public_parameters(module, settings.public)
        self._public_parameters = [module.get_parameter(name) for name in self._public]
        self._processes = processes
        self._meeting = StepMeeting(trainer, processes, by_hand=not module.automatic_optimization)
        self._views = settings.views
        self._progress = progress
        self._schedule = schedule
        self._ledger = ledger
        self._record = record
        policy.prepare(settings.expected_batch_size)
        self._release = policy.release(settings.noise_multiplier, settings.sample_rate)
        self._pace = BudgetPace(trainer, ledger, self._release, per_step=self._per_step, schedule=schedule)
        self._released_before = 0
        self._entry: Microbatch | None = None
        self._closed = False
        self._accumulate = trainer.accumulate_grad_batches
        self._validation_interval = internals.validation_interval(trainer)
        self._engine = PrivateGradients(
            module,
            max_grad_norm=1.0,  # the policy knows better
            noise_multiplier=settings.noise_multiplier,
            expected_batch_size=settings.expected_batch_size,
            clipping=policy,
            views=settings.views,
            public=self._public,
            noise=noise,
            charge=self._charge,
            reduce=self._add_up if processes.several else None,
            leader=processes.leads,
        )
        sampler = private_sampler(settings, cells=cells, seed=progress.sampler_seed, processes=processes)
        dataset = loader.dataset
        self._audited = AuditedDraws(sampler, dataset) if isinstance(dataset, CanarySlots) else None
        self._loader = loader
        # Manual optimisation steps once for each batch it is given, so a draw must not be cut; otherwise hardly more
        # rows than the user's own batches have are in memory at once.
        rows = largest_microbatch(loader.batch_size or 1)
        size = max(1, rows // settings.views) if self._automatic else settings.num_examples
        self._batches = EpochBatches(
            sampler if self._audited is None else self._audited,
            microbatch_size=size,
            views=settings.views,
            weights=example_weights(settings, cells),
        )
        self._loss_scale = LossScale(trainer, rows)
        self._guard = StepGuard(self._engine)
        self._untrained = UntrainedState(module, ledger)
        self._metrics = MonitoredMetrics(trainer, ledger)
        self._installed: loading.InstalledLoader | None = None

    def attach(self) -> None:
        """Start: from here on the module's gradients are private and the trainer samples."""
        internals.unwrap_model(self._trainer.strategy)
        self._loss_scale.fix()
        self._engine.attach()
        if self._audited is not None:
            self._audited.place(self._engine)
        self._guard.watch(self._trainer.optimizers)
        private_loader = with_batch_sampler(self._loader, self._batches)
        self._installed = loading.install_train_loader(self._trainer, private_loader, user_loader=self._loader)
        self._batches.on_epoch_start(self._begin_epoch)

    @property
    def steps_taken(self) -> int:
        """Steps of the trainer's fits so far; with manual optimisation the batches, whatever was stepped in them."""
        if self._automatic:
            return self._trainer.global_step
        return self._progress.next_number - self._progress.step_offset

    def _charge(self) -> None:
        self._record(self._release)
        self._ledger.charge(self._release, label="training")

    def refuse_without_budget(self) -> None:
        """Raise at the start where not even one step could be paid.

        Raises:
            PrivacyBudgetExceeded: The budget is spent.
        """
        self._pace.refuse_without_budget()

    def _begin_epoch(self) -> None:
        """Plan the epoch Lightning is about to run, or what is left of the one it resumes."""
        trainer, progress = self._trainer, self._progress
        self._engine.discard()
        position = internals.epoch_position(trainer)
        done = self.steps_taken - progress.epoch_first_step if position.continues else 0
        offset = position.batches_done if position.continues else 0
        if not position.continues:
            progress.epoch_first_step = self.steps_taken
        remaining = self._pace.steps_of_epoch(done)
        self._batches.plan(self.steps_taken + progress.step_offset, remaining, offset)
        if position.continues:
            self._place_in_epoch(offset, done)
        else:
            # After a checkpoint at the last batch of an epoch, Lightning starts the next one only where the number
            # of batches says that the last is finished; the first batch sets it right.
            internals.set_epoch_batches(trainer, 1 if position.finished else len(self._batches))
        loading.start_iterating(trainer)

    def _place_in_epoch(self, offset: int, done: int) -> None:
        """Show Lightning the counts it had at the checkpoint, so that it goes on from there."""
        trainer, at_boundary = self._trainer, self._progress.at_step_boundary
        # While the number of batches is open, Lightning neither takes the epoch for finished nor warns that
        # the loader can't be resumed: it can, as the rest of the epoch was just planned.
        internals.set_epoch_batches(trainer, float("inf"))
        trainer.accumulate_grad_batches = accumulation_value(offset, closes_step=at_boundary)
        if self._validation_interval is not None:
            internals.set_validation_due(trainer, due=at_boundary and self._validates_after(done))

    def probe(self, batch_idx: int) -> None:
        """Check on a copy of the module that examples don't change what others contribute.

        Args:
            batch_idx: Number of the batch that is about to be trained on.

        Raises:
            UnsupportedError: The step breaks the guarantee; the message says where and how to mend it.
        """
        layouts = probe_training_step(
            self._trainer,
            self._trainer.lightning_module,
            self._loader,
            public=self._public,
            views=self._views,
            batch_idx=batch_idx,
        )
        self._engine.use_layouts(layouts)

    def start_batch(self, batch_idx: int) -> None:
        """Prepare for the micro-batch that was just fetched.

        Args:
            batch_idx: Its number in the epoch.
        """
        trainer = self._trainer
        entry = self._batches.entry(batch_idx)
        internals.set_epoch_batches(trainer, len(self._batches))
        trainer.accumulate_grad_batches = accumulation_value(batch_idx + 1, closes_step=entry.closes_step)
        if self._validation_interval is not None:
            steps = self.steps_taken - self._progress.epoch_first_step + 1
            internals.set_validation_due(trainer, due=entry.closes_step and self._validates_after(steps))
        self._guard.watch(trainer.optimizers)  # a callback may have put another in place of the first
        self._entry, self._released_before = entry, self._engine.released
        self._progress.next_number = entry.step + 1
        self._engine.arm(
            batch_size=entry.size,
            step=entry.step,
            loss_scale=self._loss_scale.value / trainer.accumulate_grad_batches,
            gradient_scale=self._loss_scale.value,
            closes_step=entry.closes_step,
            empty=entry.empty,
            again=self._per_step > 1,
            example_weights=self._batches.weights(batch_idx),
            entries=None if self._audited is None else self._audited.entries(entry, self._engine),
        )

    def _validates_after(self, steps: int) -> bool:
        """Whether validation is due after the given number of steps of the present epoch."""
        if self._validation_interval is None:
            return False
        across = self._trainer.check_val_every_n_epoch is None
        count = steps + self._progress.epoch_first_step if across else steps
        return self._schedule.validates_after(count, interval=self._validation_interval, across_epochs=across)

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Refuse a step on anything but the private gradient, whichever optimizer Lightning uses by now."""
        self._guard.check(optimizer)
        if self._audited is not None:
            self._audited.observe(self._engine)
        if self._public:
            self._meeting.at(Place.OPTIMIZER_STEP)
            held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            self._processes.average_gradients(p for p in self._public_parameters if id(p) in held and p.requires_grad)

    def end_batch(self) -> bool:
        """Check that the micro-batch did what was planned, and stop where the budget ends.

        Returns:
            Whether a step was completed.

        Raises:
            PrivacyViolation: No backward happened, or not exactly one release at the end of a step.
        """
        entry = self._entry
        if entry is None:
            return False
        released = self._engine.released - self._released_before
        self._meeting.at(Place.BATCH_END)
        if self._automatic or released:
            self._guard.check_backward()
        else:
            self._skip()
        if self._per_step == 1 and released != int(entry.closes_step) and (self._automatic or released):
            raise PrivacyViolation(
                f"{released} gradients were released in a batch that "
                f"{'ends' if entry.closes_step else 'does not end'} a step: a hook or an override of "
                "optimizer_step called the closure several times or not at all"
            )
        if released and not self._guard.stepped:
            self._ledger.add_caveat(
                "A private gradient was made that no optimizer stepped on. Where that depends on the loss or the "
                "batch, it says something about the examples that epsilon does not cover."
            )
        self._untrained.look()
        self._metrics.look()
        self._progress.at_step_boundary = entry.closes_step
        self._progress.trainer_steps = self._trainer.global_step
        if entry.closes_step:
            self._pace.step_taken()
        return entry.closes_step

    def end_validation(self) -> None:
        """Tell of figures of training examples, and stop where what others have charged leaves nothing for a step."""
        self._metrics.look_at_validation()
        self._pace.look_again()

    def _add_up(self, flat: Tensor) -> None:
        self._meeting.at(Place.RELEASE)
        self._processes.add_up(flat)

    def _skip(self) -> None:
        """Go on after a batch of manual optimisation that trained nothing private."""
        self._engine.discard()
        self._ledger.add_caveat(
            "Some batches made no private step. Where that depends on what is in them, it says something about the "
            "examples that epsilon does not cover."
        )

    def compare_state(self) -> None:
        """Tell of what no gradient trains and yet holds something else than before; not for every step."""
        self._untrained.compare()

    def close(self) -> None:
        """Take everything off the trainer and its module again; does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        self._batches.on_epoch_start(None)
        self._guard.remove()
        self._engine.detach()
        self._loss_scale.restore()
        if self._installed is not None:
            loading.uninstall_train_loader(self._trainer, self._installed)
        self._trainer.accumulate_grad_batches = self._accumulate
        internals.set_epoch_batches(self._trainer, self._schedule.loader_batches)
        if self._validation_interval is not None:
            internals.restore_validation_interval(self._trainer, self._validation_interval)
        self._pace.undo()
        self._metrics.look()  # what was logged at the end of the last epoch
