"""An audit of a run by the run itself: canaries in the training, and a lower bound of epsilon at its end.

Some examples are canaries, each in the training or out of it by a coin of the operating system. At the end the coins
are guessed from the model, and how often that works says how private the training was at most (Steinke, Nasr and
Jagielski, "Privacy Auditing with One (1) Training Run", 2023). One run is enough, and it may be the real one: with
differential privacy a canary is one more example, whose slot is drawn, charged and divided by whether it is in or out.

Example:
    >>> import lightning_privacy._lightning as L, torch, warnings
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> class Classifier(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(3, 2)
    ...     def training_step(self, batch, batch_idx):
    ...         return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> data = TensorDataset(torch.randn(64, 3), torch.arange(64) % 2)
    >>> audit = PrivacyAudit(num_canaries=20, show=False, write=False)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     trainer = L.Trainer(
    ...         max_epochs=1, callbacks=[audit], logger=False, accelerator="cpu",
    ...         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ...     )
    ...     trainer.fit(Classifier(), DataLoader(data, batch_size=8))
    >>> audit.result.verdict, audit.bounds.num_canaries
    ('measured', 20)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset
from typing_extensions import override

from lightning_privacy._lightning import Callback, LightningModule, Trainer, check_trainer
from lightning_privacy._validate import positive_int, within_open_unit
from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.audit.canaries import CanaryMaker, MislabelledCanaries, canary_maker
from lightning_privacy.audit.canary_audit import Planted, canary_result
from lightning_privacy.audit.epsilon_bounds import EpsilonBounds, bounds_of_scores
from lightning_privacy.audit.gradient_canaries import GradientCanaries
from lightning_privacy.audit.slots import CanarySlots, ClientCanaries
from lightning_privacy.callbacks._privacy_audit_checks import check_audit, declared_maker, promise_of
from lightning_privacy.callbacks._privacy_audit_loader import check_audited_loader, loader_over
from lightning_privacy.callbacks._privacy_audit_losses import losses_of
from lightning_privacy.callbacks._privacy_audit_plan import CanaryPlan, gradients_of, plant_clients, plant_examples
from lightning_privacy.callbacks._privacy_audit_report import log_bounds, note_broken, show_audit, write_audit
from lightning_privacy.callbacks._trainer_rounds import replace_train_loader
from lightning_privacy.callbacks.run_privacy import federation_of, privacy_of, protects
from lightning_privacy.errors import CheckpointError, PrivacyViolation, UnsupportedError

__all__ = ["PrivacyAudit"]

_GRADIENTS = "gradients"
_EXAMPLES_OF_A_CLIENT = 64
_VERSION = 2
# Of what a million gradients show, the bound for any mechanism sees nothing: delta counts for each of them.
_CURVE_SHARE = 0.95


class PrivacyAudit(Callback):
    """Plants canaries in the training set and reports at the end of ``fit`` which epsilon they prove.

    With :class:`DifferentialPrivacy` or ``FederatedStrategy(client_privacy=...)`` the lower bound is compared with the
    ledger's epsilon: a run that is *broken* says so in red, gets a caveat in its ledger, and with ``strict`` an error.
    A correct run is called broken with a probability of at most 1 - confidence. Without either, what was measured is
    reported. In a federated run whole clients are the canaries.

    The audit costs no budget: it looks at the model, or at gradients that are private already, and at nothing else. But
    **its result is not private**: it says how the model does on canaries made of training examples, and which of those
    were trained on. Keep it with the data. Checkpoints hold the coins, too.

    It costs accuracy. ``mislabelled`` canaries take the place of training examples, as the same person must not be in
    the training twice, and half of them are trained on with a wrong label; the others are added where nothing is
    promised. In a private run all but gradients take an example's place, and each is made of that example alone. The
    share is reported.

    An audit that finds nothing proves nothing: black-box bounds are far below what a better attacker could show.

    Args:
        num_canaries: How many; the more, the larger the bound can be. 1,000 and 95% prove no more than about 5.
        canaries: ``"mislabelled"``, ``"blank"`` (blank images), ``"noise"``, or a
            :class:`~lightning_privacy.audit.CanaryMaker` such as :class:`~lightning_privacy.audit.TokenCanaries`: seen
            through the loss that ``training_step`` gives before and after the training. ``"gradients"``: entries of the
            private gradient, seen in every step; needs :class:`DifferentialPrivacy`, and proves most.
        num_classes: How many classes there can be, known without a look at the data: ``mislabelled`` canaries have
            another of these. None: the attribute ``num_classes`` of the module or the data module in a private run,
            which needs one; otherwise the labels of the other canaries.
        delta: Of the bound; the ledger's by default, or 1e-5 where there is none.
        confidence: Probability with which the bounds hold, at least, in (0, 1).
        strict: Raise :class:`~lightning_privacy.errors.PrivacyViolation` at the end of a fit that is broken.
        show: Print the result on the terminal.
        write: Write ``audit_canaries.json`` to the folder of the run, or to the folder that is given. Nothing is
            written with the trainer's ``fast_dev_run``, and with its ``barebones`` only to a folder that is given.

    Attributes:
        bounds: What the canaries say; None before the end of a fit.
        result: The same in words and curves, as it is written.
        scores: Of each canary, higher where it looks as if it was in, shape ``(num_canaries,)``.
        coins: Which canaries were in, shape ``(num_canaries,)``.

    Raises:
        ConfigurationError: An argument is out of range, or (in ``fit``) there are more canaries than examples.
        UnsupportedError: In ``fit``: several processes, or a train loader that canaries can't be added to.
        PrivacyViolation: At the end of ``fit``, with ``strict``: less private than promised.
        CheckpointError: A checkpoint to resume from has other canaries.

    Example:
        >>> PrivacyAudit(num_canaries=0)
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.ConfigurationError: num_canaries must be a whole number >= 1, got 0
    """

    def __init__(
        self,
        *,
        num_canaries: int = 1000,
        canaries: str | CanaryMaker = "mislabelled",
        num_classes: int | None = None,
        delta: float | None = None,
        confidence: float = 0.95,
        strict: bool = False,
        show: bool = True,
        write: bool | str | Path = True,
    ) -> None:
        super().__init__()
        self._num_canaries = positive_int(num_canaries=num_canaries)
        self._maker = None if canaries == _GRADIENTS else canary_maker(canaries, num_classes=num_classes)
        self._kind = canaries if isinstance(canaries, str) else type(canaries).__name__
        self._delta = None if delta is None else within_open_unit(delta=delta)
        self._confidence = within_open_unit(confidence=confidence)
        self._strict, self._show, self._write = strict, show, write
        self._planting = self._maker
        self._fitting = False
        self._undo: Callable[[], None] | None = None
        self._plan: CanaryPlan | None = None
        self._before: NDArray[np.float64] | None = None
        self._gradients: GradientCanaries | None = None
        self._seen: dict[str, Any] | None = None
        self._loader: DataLoader[Any] | None = None
        self._holdings: list[list[Any]] = []
        self._planted: Planted | None = None
        self.bounds: EpsilonBounds | None = None
        self.result: AuditResult | None = None
        self.scores: NDArray[np.float64] | None = None

    @property
    def coins(self) -> NDArray[np.bool_] | None:
        """Which canaries were in."""
        return None if self._plan is None else np.array(self._plan.coins, dtype=np.bool_)

    @property
    def _num_classes(self) -> int | None:
        return getattr(self._planting, "num_classes", None)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)
        if stage != "fit":
            return
        check_audit(trainer, self, gradients=self._maker is None)
        self._planting = None if self._maker is None else declared_maker(trainer, pl_module, self._maker)
        self._loader, self._gradients, self._seen = None, None, None
        self._holdings, self._planted = [], None
        self.bounds = self.result = self.scores = None
        self._fitting = True
        self._undo = undo = replace_train_loader(
            # What a fit that ended with an error may have left on the trainer must not plant a second time.
            trainer,
            lambda given: self._with_canaries(trainer, given) if self._undo is undo else given,
        )

    def _with_canaries(self, trainer: Trainer, given: Any) -> Any:
        """The loader over the training set with canaries; asked again, the same canaries."""
        if self._loader is not None and not isinstance(given, DataLoader):
            return given  # what only counts the batches of the loader that was asked for before
        loader = check_audited_loader(given)
        dataset: Any = loader.dataset
        if self._plan is None:
            self._plan = CanaryPlan.draw(self._num_canaries)
        plan, maker, private = self._plan, self._planting, protects(trainer)
        if federation_of(trainer) is not None:
            planted: Any = ClientCanaries(dataset, lambda parts: self._choose(plan, dataset, parts, private))
        elif maker is None:
            self._gradients = self._gradients or gradients_of(plan, len(dataset), self._seen)
            planted = CanarySlots(dataset, {}, gradients=self._gradients)
        else:
            planted, canaries = plant_examples(plan, maker, dataset, private=private)
            self._holdings = [[canary] for canary in canaries]
        if isinstance(planted, CanarySlots):
            in_place = maker is not None and (private or maker.in_place)
            self._planted = Planted(
                kind=self._kind,
                unit="example",
                share=plan.count / len(planted),
                taken_out=plan.count if in_place else 0,
                white_box=maker is None,
            )
            if privacy_of(trainer) is None:  # nobody leaves out of a batch what is not there
                planted = Subset(planted, planted.present().tolist())
        self._loader = loader_over(loader, planted)
        return self._loader

    def _choose(
        self, plan: CanaryPlan, dataset: Any, parts: Sequence[NDArray[np.int64]], private: bool
    ) -> tuple[Mapping[int, Any], frozenset[int]]:
        """Make some clients of a federated run into canaries."""
        maker = MislabelledCanaries() if self._planting is None else self._planting
        planted = plant_clients(plan, maker, dataset, parts, most=_EXAMPLES_OF_A_CLIENT, private=private)
        self._holdings = planted.holdings
        share = plan.count / planted.clients
        self._planted = Planted(kind=self._kind, unit="client", share=share, taken_out=plan.count)
        return planted.canaries, planted.absent

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._plan is None:
            return {}
        return {
            "version": _VERSION,
            "canaries": self._kind,
            "num_classes": self._num_classes,
            "plan": self._plan.to_dict(),
            "before": None if self._before is None else self._before.tolist(),
            "seen": None if self._gradients is None else self._gradients.state_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._fitting or not state_dict:
            return
        if state_dict.get("version") != _VERSION:
            raise CheckpointError(
                f"the checkpoint's audit has version {state_dict.get('version')!r}, and only {_VERSION} can be read: "
                "resume with the version of lightning_privacy that saved it, or without PrivacyAudit"
            )
        plan = CanaryPlan.from_dict(state_dict.get("plan", {}))
        if (plan.count, state_dict.get("canaries")) != (self._num_canaries, self._kind):
            raise CheckpointError(
                f"the checkpoint's run has {plan.count} canaries of the kind {state_dict.get('canaries')!r}, this one "
                f"{self._num_canaries} of {self._kind!r}, and they are in its training: resume with the same"
            )
        if state_dict.get("num_classes") != self._num_classes:
            raise CheckpointError(
                f"the checkpoint's canaries have labels of num_classes={state_dict.get('num_classes')!r}, these of "
                f"{self._num_classes!r}: resume with the same"
            )
        before = state_dict.get("before")
        self._plan, self._before = plan, None if before is None else np.array(before, dtype=np.float64)
        self._seen = state_dict.get("seen")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._maker is None or self._loader is None:
            return
        if not self._holdings:
            raise UnsupportedError(
                "PrivacyAudit needs clients that share out one train data set, FederatedStrategy(partition=...): what "
                "real silos hold is not for it to change"
            )
        if self._before is None or trainer.global_step == 0:
            self._before = losses_of(trainer, pl_module, self._loader, self._holdings)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._plan is None or self._planted is None or self._loader is None:
            return
        further = []
        if self._gradients is not None:
            self.scores = self._gradients.sums.copy()
            further = [self._gradients.variances]
        elif self._before is not None:
            self.scores = self._before - losses_of(trainer, pl_module, self._loader, self._holdings)
        if self.scores is None:
            return
        promise = promise_of(trainer, self._delta)
        self.bounds = bounds_of_scores(
            self.scores,
            self._plan.coins,
            delta=promise.delta,
            confidence=self._confidence,
            claimed=promise.epsilon,
            claimed_curve=promise.curve,
            further=further,
            curve_share=_CURVE_SHARE if self._maker is None else 0.5,
        )
        self.result = canary_result(self.bounds, self.scores, self._plan.coins, self._planted)
        note_broken(promise.ledger, self.bounds)
        log_bounds(trainer, self.bounds)
        write_audit(trainer, self.result, self._write)
        if self._show:
            show_audit(self.result)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not earlier: the weights of the run, which cost what they cost, are in its checkpoints by now.
        if self._strict and self.result is not None and self.result.verdict == "broken":
            raise PrivacyViolation(self.result.sentence)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close(trainer)

    def _close(self, trainer: Trainer) -> None:
        """Take the canaries off the trainer's data again."""
        self._fitting = False
        # DifferentialPrivacy takes its own change of the loader back, and this one with it.
        if self._undo is not None and privacy_of(trainer) is None:
            self._undo()
        self._undo = None
