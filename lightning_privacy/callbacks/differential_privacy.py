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
    ...         max_epochs=1, callbacks=[privacy], logger=False, accelerator="cpu",
    ...         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ...     )
    ...     trainer.fit(Regression(), loader)
    >>> trainer.global_step, 2.9 < privacy.ledger.epsilon(exact=True) <= 3.0
    (8, True)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer
from typing_extensions import override

from lightning_privacy._lightning import (
    Callback,
    LightningModule,
    Trainer,
    check_trainer,
    rank_zero_info,
)
from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.callbacks import _trainer_loader as loading
from lightning_privacy.callbacks._agreement import agree
from lightning_privacy.callbacks._balance import balance_of_run, settled_text, wanted_balance
from lightning_privacy.callbacks._balance_cost import CellCost, cell_costs, costs_text
from lightning_privacy.callbacks._epoch_batches import largest_microbatch
from lightning_privacy.callbacks._fit_surroundings import FitSurroundings
from lightning_privacy.callbacks._handover import Address, Parcel
from lightning_privacy.callbacks._parts import releases_per_step
from lightning_privacy.callbacks._planning import Target, plan_settings, steps_to_limits
from lightning_privacy.callbacks._preconditions import (
    check_batches_are_given,
    check_data_ledger,
    check_optimizers,
    check_trainer_settings,
)
from lightning_privacy.callbacks._private_plan import PrivatePlan, Spending
from lightning_privacy.callbacks._private_run import PrivateRun
from lightning_privacy.callbacks._processes import processes_of
from lightning_privacy.callbacks._resume import refuse_unknown_past, restore
from lightning_privacy.callbacks._run_start import advance, refuse_steps_of_others
from lightning_privacy.callbacks._run_state import RunProgress, RunSettings, read_state, write_state
from lightning_privacy.callbacks._schedule import StepSchedule
from lightning_privacy.callbacks._step_journal import LOST, StepJournal, journal_of_run
from lightning_privacy.callbacks._strategy_support import check_optimizers_keep_step
from lightning_privacy.callbacks._train_loader import examine, sampler_of
from lightning_privacy.callbacks.private_balance import PrivateBalance
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.clipping import ClippingPolicy, clipping_policy
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["DifferentialPrivacy"]


class DifferentialPrivacy(Callback):
    """Trains with differential privacy; the module, its optimizer, its loss and its data stay as they are.

    A step's expected batch is the loader's ``batch_size`` times ``accumulate_grad_batches``, and an epoch has
    as many steps as without privacy. ``trainer.global_step`` counts noisy steps. Epsilon is shown in the
    progress bar and logged as ``privacy/epsilon``. Checkpoints carry what was spent; a run resumed from one
    is charged for the steps that were lost and are done again.

    With several processes (``strategy="ddp"``, ``"ddp_spawn"``, torchrun, SLURM; one or more nodes) the loader's
    ``batch_size`` is that of the whole step and is shared out, where Lightning alone gives each process a batch of
    its own: the number of processes changes the speed and not epsilon, the noise or the number of steps. Every
    process must be given the whole data set in the same order, and see the run folder. A sum of the clipped gradients
    over the processes takes the place of DDP's average, and one process adds the noise.

    The loss must be the mean over the batch of one loss per example: with a mean weighted by what the batch holds, an
    example changes what the others add, and epsilon is not what is reported. A sum would clip gradients that are larger
    by the number of examples drawn. The probe looks for both, in what a few examples show. Training metrics that are
    logged get a caveat in the ledger, and so do those of a validation set that shares examples with the training
    set; of a copy of the data, or of other records of the same people, they are as private, which can't be told here.

    Args:
        delta: Probability with which the guarantee may fail, in (0, 1); below 1 / number of examples.
        epsilon: What all steps together may cost. Alone, it sets the noise for the trainer's epochs or steps.
        noise_multiplier: Standard deviation of the noise over ``max_grad_norm``. Alone, training runs as long
            as the trainer says. With ``epsilon``, it stops before epsilon would be passed. 0 is not private.
        max_grad_norm: Bound on the norm of one example's gradient, over all trainable parameters. With
            ``clipping="per_layer"`` also one bound for each layer, or a mapping from names of parts (or patterns of
            parameter names) to the bounds of these groups.
        clipping: ``"flat"``: one norm over all parameters; ``"per_layer"``; ``"automatic"`` (Bu et al. 2022, AUTO-S):
            every gradient scaled to about the bound, which then only scales the learning rate; ``"adaptive"`` (Andrew
            et al. 2021): the bound follows the median norm, whose count gets noise too; ``"global_adapt"`` (Esipova et
            al. 2023): all gradients are scaled alike, which treats groups more alike; or a
            :class:`~lightning_privacy.ClippingPolicy`.
        views: Augmentation multiplicity (De et al. 2022): each example that is drawn is fetched this many times, one
            after the other, so that a data set that augments at random gives as many views of it. Their gradients
            are averaged before clipping. Batches have ``batch_size`` rows at most as before.
        public: Names of submodules (or parameters, or patterns) whose losses never depend on the private data, such as
            the generator of a GAN of which only the discriminator sees data. They are trained without clipping and
            noise, and cost nothing. That the data doesn't reach them is checked before training.
        balance: How the classes or groups are balanced that the train loader's
            :class:`~lightning_privacy.BalancedSampler` asks for: see :class:`PrivateBalance`. By default rare ones are
            drawn at a higher rate, which is charged, and how many there are of each is counted privately, for 5% of
            epsilon.
        probe: Run ``training_step`` on a few small batches before the first step, on a copy of the module that leaves
            no traces, and refuse where an example changes what another contributes, where the loss is not a mean, or
            where a gradient comes from no example. It also finds out where the examples are in the outputs of layers
            that don't have them in the first dimension. Costs no budget, and seconds: 25 to 45 runs of the step, in
            batches of up to nine examples, now and as in later epochs. What it does to the module, its buffers,
            attributes, metrics and the random generators is undone; what it does elsewhere (a file, a global, an
            attribute of a class, something with a ``__deepcopy__`` that shares) is not. A learning rate that your code
            sets from the loss it sees, such as a plateau scheduler stepped by hand, is not noticed. Without the probe
            all of that is your own promise.
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
        max_grad_norm: float | Sequence[float] | Mapping[str, float] = 1.0,
        clipping: str | ClippingPolicy = "flat",
        views: int = 1,
        public: Sequence[str] = (),
        balance: PrivateBalance | None = None,
        probe: bool = True,
        ledger: PrivacyLedger | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        super().__init__()
        self._target = Target(
            delta=delta,
            epsilon=epsilon,
            noise_multiplier=noise_multiplier,
            clipping=clipping_policy(clipping, max_grad_norm),
            views=views,
            public=(public,) if isinstance(public, str) else tuple(public),
            balance=balance,
        )
        self._ledger = self._target.ledger(ledger)
        if noise is not None and not isinstance(noise, NoiseSource):
            raise ConfigurationError(f"noise must be a NoiseSource, got {noise!r}")
        self._noise = NoiseSource() if noise is None else noise
        self._probe = probe
        self._probe_due = False
        self._settings: RunSettings | None = None
        self._balance: dict[str, Any] | None = None
        self._progress: RunProgress | None = None
        self._run: PrivateRun | None = None
        self._ended: PrivateRun | None = None
        self._plan: PrivatePlan | None = None
        self._make_plan: Callable[[], PrivatePlan] | None = None
        self._fitting = False
        self._resumed = False
        self._journal: StepJournal | None = None
        self._surroundings = FitSurroundings()
        self._address = Address(self._take_over)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._address.moved(self._take_over)

    @property
    def ledger(self) -> PrivacyLedger:
        """What was released so far, and what it cost."""
        return self._ledger

    @property
    def noise_multiplier(self) -> float | None:
        """The noise multiplier in use; None before the first fit of a callback that was given epsilon alone."""
        return self._target.noise_multiplier if self._settings is None else self._settings.noise_multiplier

    def cell_costs(self) -> list[CellCost]:
        """What the run so far costs an example of each class that is balanced by sampling; empty for any other run.

        An epsilon of this list holds against one who asks whether an example known to be of that class was used. Where
        the class itself is to stay secret, the guarantee is the ledger's epsilon, charged at the largest rate.
        """
        if self._settings is None:
            return []
        return cell_costs(self._settings, self._ledger, self._target.clipping)

    @property
    def plan(self) -> PrivatePlan | None:
        """What the present fit set out to do and to spend; None outside of a fit, and before it was planned.

        Ask first in ``on_train_start`` or later: before, a run that is resumed does not know where it goes on.
        """
        if self._plan is None and self._make_plan is not None:
            self._plan = self._make_plan()
        return self._plan

    @property
    def example_views(self) -> int:
        """How many rows of a train batch are views of one example, next to each other."""
        return self._target.views

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        self._fitting = stage == "fit"
        self._resumed = False
        if not self._fitting:
            return
        check_trainer_settings(trainer, pl_module)
        check_data_ledger(getattr(trainer, "datamodule", None), self._ledger)
        self._surroundings.set_up(trainer)
        if internals.launches_elsewhere(trainer):
            internals.hand_over_results(trainer, lambda: Parcel(self._address.number, self.state_dict()))

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._run is not None:
            self._run.compare_state()  # a checkpoint is about to be made: its caveats must be in it
        if self._progress is not None:
            self._progress.clipping_state = self._target.clipping.state_dict()
        return write_state(self._ledger.state_dict(), self._settings, self._progress)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning restores callbacks for validate and test too: an older checkpoint must not make this
        # ledger forget what was spent since.
        if not self._fitting:
            return
        self._settings, self._progress = restore(state_dict, self._ledger, own=self._progress)
        self._resumed = self._settings is not None
        if self._progress is not None:
            self._target.clipping.load_state_dict(self._progress.clipping_state)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # From now on there is something to resume from, and what happens after it must be known.
        if self._journal is not None:
            self._journal.open(self._ledger)
            if self._run is None:
                self._journal.close()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._resumed:
            refuse_unknown_past(internals.loaded_checkpoint(trainer), trainer.ckpt_path)
            refuse_steps_of_others(trainer, self._progress)
        if trainer.limit_train_batches == 0:
            return
        processes = processes_of(trainer)
        loader = loading.request_train_loader(trainer)
        check_data_ledger(getattr(loader, "dataset", None), self._ledger)
        facts = examine(loader, accumulate=trainer.accumulate_grad_batches)
        schedule = StepSchedule(
            loading.count_loader_batches(trainer, facts.loader_batches), trainer.accumulate_grad_batches
        )
        check_batches_are_given(trainer)
        wanted = wanted_balance(sampler_of(loader), self._target.balance, num_examples=facts.num_examples)
        # Rates of a balance may be below 1 although the batch is as large as the data.
        whole = facts.batch_size == facts.num_examples and wanted is None
        check_optimizers(trainer.optimizers, pl_module, whole_data=whole)
        check_optimizers_keep_step(trainer.optimizers, processes)
        agree(
            processes,
            trainer,
            pl_module,
            facts=facts,
            dataset=loader.dataset,
            target=self._target,
            ledger=self._ledger,
            noise=self._noise,
            progress=self._progress,
            wanted=wanted,
        )
        self._balance = balance_of_run(
            wanted,
            self._target.balance,
            epsilon=self._target.epsilon,
            expected_batch_size=facts.expected_batch_size,
            ledger=self._ledger,
            noise=self._noise,
            processes=processes,
            known=self._settings.balance if self._resumed and self._settings is not None else self._balance,
            resumed=self._resumed,
        )
        settings = plan_settings(
            self._target,
            facts,
            trainer=trainer,
            schedule=schedule,
            ledger=self._ledger,
            before=self._settings if self._resumed else None,
            balance=self._balance,
        )
        # Calibration on another machine may end in another last digit.
        self._settings = settings = RunSettings.from_dict(processes.same(settings.to_dict()))
        self._progress = advance(
            self._progress,
            trainer=trainer,
            processes=processes,
            noise=self._noise,
            ledger=self._ledger,
            resumed=self._resumed,
        )
        self._journal = None  # that of an earlier fit may be in another folder
        self._journal = journal_of_run(trainer, self._progress, self._ledger, processes)
        if self._journal is not None and self._resumed:
            self._journal.open(self._ledger)
        self._run = PrivateRun(
            trainer,
            pl_module,
            settings=settings,
            progress=self._progress,
            schedule=schedule,
            loader=loader,
            noise=self._noise,
            ledger=self._ledger,
            record=self._record,
            processes=processes,
            policy=self._target.clipping,
            cells=None if wanted is None else wanted.cells,
        )
        if settings.balance is not None:
            size = settings.expected_batch_size
            rank_zero_info(f"DifferentialPrivacy: {settled_text(settings.balance, expected_batch_size=size)}")
        self._run.refuse_without_budget()
        self._make_plan = partial(self._planned, trainer, settings, schedule, loader.batch_size or 1)
        self._run.attach()
        self._probe_due = self._probe
        self._surroundings.lift_shield(trainer)

    def _planned(self, trainer: Trainer, settings: RunSettings, schedule: StepSchedule, rows: int) -> PrivatePlan:
        """What is told of the fit that is about to start; no figure of the guarantee is taken from it."""
        each, steps = releases_per_step(trainer.optimizers), steps_to_limits(trainer, schedule)
        release = self._target.clipping.release(settings.noise_multiplier, settings.sample_rate)
        return PrivatePlan(
            settings,
            Spending(self._ledger, release, None if steps is None else steps * each),
            releases_per_step=each,
            steps_before=trainer.global_step,
            steps_per_epoch=schedule.steps_per_epoch,
            largest_batch=min(settings.num_examples * settings.views, largest_microbatch(rows)),
        )

    def _record(self, release: Release) -> None:
        """Write down that a step is about to happen, before it does."""
        if self._journal is not None:
            self._journal.before(release, self._ledger)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._run is None:
            return
        if self._probe_due:  # not earlier: on_train_epoch_start may make what the step needs
            self._probe_due = False
            self._run.probe(batch_idx)
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
            if self._ledger.budget is not None:  # which no charge has passed, whatever the figure is rounded up to
                epsilon = min(epsilon, self._ledger.budget)
            pl_module.log("privacy/epsilon", epsilon, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Figures of the validation may have been charged to the same ledger.
        if self._run is not None and not trainer.sanity_checking:
            self._run.end_validation()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None:
            self._run.compare_state()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = self._run
        self._close(trainer)
        settings = self._settings
        if self._ended is not None and settings is not None:
            release = self._target.clipping.release(settings.noise_multiplier, settings.sample_rate)
            steps = self._ledger.count(release)
            epsilon = epsilon_text(self._ledger.epsilon(exact=True), budget=self._ledger.budget)
            lost = sum(count for made, count, label in self._ledger.history if made == release and label == LOST)
            of_them = f", {lost} of them {LOST}" if lost else ""
            rank_zero_info(
                f"Trained with (epsilon={epsilon}, delta={self._target.delta:g}) "
                f"differential privacy per {self._ledger.unit}: {steps} steps{of_them}, noise multiplier "
                f"{settings.noise_multiplier:.4g}, sample rate {settings.sample_rate:.4g}"
                + "".join(f"\n* {caveat}" for caveat in self._ledger.caveats)
            )
            if trainer.is_global_zero and (costs := self.cell_costs()):
                spent, budget = self._ledger.epsilon(exact=True), self._ledger.budget
                rank_zero_info(f"Balance by sampling: {costs_text(costs, epsilon=spent, budget=budget)}")

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.state.fn == "fit" and not self._fitting and internals.launches_elsewhere(trainer):
            self._ledger.add_caveat(
                "Training ran in processes that ended with an error, and what they spent is not counted here: resume "
                "from the last checkpoint to count it."
            )
        self._ended = None  # where on_fit_end of another one raised
        self._close(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close(trainer)
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.compare_state()  # the module's own on_fit_end comes after that of callbacks
        self._fitting = False

    def _take_over(self, state: dict[str, Any]) -> None:
        """Continue where the processes that this one has started ended."""
        saved, self._settings, self._progress = read_state(state)
        self._ledger.load_state_dict(saved)

    def _close(self, trainer: Trainer) -> None:
        """Take everything off the trainer and its module again."""
        self._plan = self._make_plan = None
        run, self._run = self._run, None
        if run is not None:
            run.close()
        self._surroundings.take_back(trainer)
        if self._journal is not None:
            self._journal.close()
        if run is not None:
            run.compare_state()
