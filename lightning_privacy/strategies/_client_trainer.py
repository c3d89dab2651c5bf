"""Trains the clients of one process in a round, one after the other, and adds up what they send."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_privacy._lightning import LightningModule
from lightning_privacy.errors import LightningPrivacyError, UnsupportedError
from lightning_privacy.federated.algorithms import Algorithm, LocalTraining
from lightning_privacy.federated.contexts import ClientContext
from lightning_privacy.federated.failures import SimulatedClientError
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.keyed import kept_randomness, seed_client
from lightning_privacy.federated.local import LocalLoop, drop_gradients
from lightning_privacy.federated.private_local import PrivateLocalLoop
from lightning_privacy.federated.secure_tally import SecureTally
from lightning_privacy.federated.tally import Tally
from lightning_privacy.federated.update import ClientUpdate
from lightning_privacy.strategies._client_isolation import ClientIsolation
from lightning_privacy.strategies._client_stores import ClientStores
from lightning_privacy.strategies._clients import Clients
from lightning_privacy.strategies._plan import Plan
from lightning_privacy.strategies._round_result import ClientReport

__all__ = ["DELTA_NORM", "VOTES", "ClientTrainer", "Started", "Trained"]

DELTA_NORM = "delta_norm"
VOTES = "votes"

_ABSENT = ("dropout", "late")
_METRIC = (
    "The metric '{name}' goes on from client to client, as its states can't be added up over clients: what "
    "training_step takes from it carries data of one client to the next, and epsilon does not cover that."
)


@dataclass
class Trained:
    """What happened to the clients of a process.

    Args:
        reports: One for each.
        errors: What some of them raised.
        touched: Those whose update was used.
    """

    reports: list[ClientReport] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    touched: list[int] = field(default_factory=list)


@dataclass
class Started:
    """A client that has got the weights of the round and has not trained yet.

    Args:
        local: Its local training.
        report: What will be known of it.
        failure: What is simulated to happen to it, if anything.
        began: When, on the clock.
    """

    local: LocalTraining
    report: ClientReport
    failure: str | None
    began: float


class ClientTrainer:
    """Runs the local trainings of a process.

    Args:
        plan: How rounds go.
        model: The global model, as a vector.
        optimizer: The clients' optimizer, over the model's parameters.
        loop: Local training.
        clients: Who there is.
        stores: What clients keep.
        private: Local training of private examples, in place of ``loop``.
        scaler_reset: Called before each client, where losses are scaled.
    """

    def __init__(
        self,
        plan: Plan,
        model: FlatModel,
        optimizer: Optimizer,
        loop: LocalLoop,
        clients: Clients,
        stores: ClientStores,
        private: PrivateLocalLoop | None = None,
        scaler_reset: Callable[[], None] | None = None,
    ) -> None:
        self.plan = plan
        self.model = model
        self.optimizer = optimizer
        self.loop = loop
        self.clients = clients
        self.stores = stores
        self._private = private
        self._scaler_reset = scaler_reset
        self._delta = model.new_vector()
        self._isolation: ClientIsolation | None = None

    def train(self, cohort: Sequence[int], round_number: int, tally: Tally | SecureTally) -> Trained:
        """Train some clients; the model holds the weights it held before when this returns.

        Args:
            cohort: Those of the round that this process trains.
            round_number: From 0.
            tally: Takes in what they send.

        Raises:
            LightningPrivacyError: Something that is no client's failure.
        """
        trained = Trained()
        with self._round():
            self._train_all(cohort, round_number, tally, trained)
        return trained

    @contextmanager
    def _round(self) -> Iterator[None]:
        """What is the same for all clients of a round, and is put back after it."""
        self.model.remember()
        isolation = self._isolation = self._isolate()
        try:
            with kept_randomness(), nullcontext() if self._private is None else self._private.attached():
                yield
        finally:
            isolation.end_round()

    def _isolate(self) -> ClientIsolation:
        if not self.plan.private:
            return ClientIsolation(self.optimizer, None)
        module = self.model.module
        configs = module.trainer.lr_scheduler_configs if isinstance(module, LightningModule) else []
        isolation = ClientIsolation(self.optimizer, module, [config.scheduler for config in configs])
        for name in isolation.uncovered:
            self.plan.add_caveat(_METRIC.format(name=name))
        return isolation

    def _train_all(
        self, cohort: Sequence[int], round_number: int, tally: Tally | SecureTally, trained: Trained
    ) -> None:
        for client in cohort:
            report = ClientReport(client, self.clients.num_examples(client))
            trained.reports.append(report)
            with self.attempt(report, trained):
                started = self.start(client, round_number, report)
                if started is not None:
                    loss = self._run(started.local, self.plan.algorithm)
                    self.finish(started, loss, tally)
                    trained.touched.append(client)

    @contextmanager
    def attempt(self, report: ClientReport, trained: Trained) -> Iterator[None]:
        """Note the error that a client raises in the block, and put the model back after it."""
        try:
            yield
        except LightningPrivacyError:
            raise
        except Exception as error:  # a client that raises has failed; the round reports it
            if self.plan.example_privacy is not None and not isinstance(error, SimulatedClientError):
                # Whether its data make a client fail would be seen in the model, without noise.
                raise
            report.failure = f"{type(error).__name__}: {error}"
            trained.errors.append(error)
        finally:
            self.model.restore()

    def start(self, client: int, round_number: int, report: ClientReport) -> Started | None:
        """Give a client the weights of the round; None where a simulated failure keeps it away.

        Raises:
            SimulatedClientError: It was to fail so.
        """
        plan, model = self.plan, self.model
        failure = self.simulated_failure(client, round_number)
        if failure in _ABSENT:
            report.failure = failure
            return None
        if failure == "error":
            raise SimulatedClientError(f"client {client} fails on purpose")
        began = time.perf_counter()
        if self._isolation is not None:
            self._isolation.begin_client()
        memory = dict(self.stores.memory.get(client, {}))
        local = LocalTraining(client, round_number, report.num_examples, model, self.optimizer, memory)
        model.take_personal(self.stores.personal.get(client, {}))
        drop_gradients(self.optimizer)
        self.stores.load_optimizer(client, self.optimizer)
        if self._scaler_reset is not None:
            self._scaler_reset()
        local.train_again = lambda algorithm: self._train_again(local, algorithm)
        seed_client(plan.seed, round_number, client)
        if plan.algorithm.needs_initial_loss or plan.aggregator.needs_initial_loss:
            report.figures["initial_loss"] = self.loop.evaluate(self.epoch(local, 0))
        plan.algorithm.before_client(local)
        return Started(local, report, failure, began)

    def simulated_failure(self, client: int, round_number: int) -> str | None:
        """What is simulated to happen to a client; a pure function, the same on every process."""
        if self.plan.failures is None:
            return None
        batches = self.loop.num_batches(self.clients.batches_per_epoch(client))
        return self.plan.failures.outcome(self.plan.seed, round_number, client, batches).failure

    def trains(self, client: int, round_number: int) -> bool:
        """Whether a client gets as far as its first step."""
        return self.simulated_failure(client, round_number) not in (*_ABSENT, "error")

    def epoch(self, local: LocalTraining, epoch: int) -> Iterable[Any]:
        """Batches of one local epoch."""
        return self.clients.epoch(local.client, seed=self.plan.seed, round_number=local.round_number, epoch=epoch)

    def _run(self, local: LocalTraining, algorithm: Algorithm) -> Tensor | None:
        if self._private is None:
            return self.loop.run(local, lambda epoch: self.epoch(local, epoch), algorithm)
        return self._private.run(local, lambda chosen: self.clients.batches(local.client, chosen), algorithm)

    def _train_again(self, local: LocalTraining, algorithm: Algorithm) -> float | None:
        self.optimizer.state.clear()
        again = LocalTraining(local.client, local.round_number, local.num_examples, self.model, self.optimizer)
        found = self._run(again, algorithm)
        return None if found is None else float(found)

    def finish(self, started: Started, loss: Tensor | None, tally: Tally | SecureTally) -> None:
        """Send what a client has learned: the model holds its weights."""
        plan, model, stores = self.plan, self.model, self.stores
        local, report = started.local, started.report
        client = local.client
        delta = model.delta(self._delta)
        increments = model.increments()
        if self._private is not None:
            increments = _only_what_is_private(model, delta, increments)
        update = ClientUpdate(
            client,
            delta,
            num_examples=report.num_examples,
            num_steps=local.num_steps,
            metrics={"loss": math.nan if loss is None else float(loss), **report.figures},
        )
        personal = model.give_personal()
        kept_optimizer = stores.state_of(self.optimizer) if plan.persistent_optimizer else None
        plan.algorithm.after_client(local, update)
        context = ClientContext(
            plan.seed, local.round_number, client, report.num_examples, memory=local.memory, log=report.figures
        )
        for transform in plan.transforms:
            update.delta = transform.on_client(update.delta, context)
        if started.failure == "nan":
            update.delta = torch.full_like(update.delta, math.nan)
        report.num_steps, report.loss = update.num_steps, update.metrics["loss"]
        report.seconds = time.perf_counter() - started.began
        norm = float(torch.linalg.vector_norm(update.delta))
        if not math.isfinite(norm) or not all(bool(extra.isfinite().all()) for extra in update.extras.values()):
            report.failure = "its update is not finite"
            return
        if plan.privacy is not None:
            # The last step of all: whatever was done to the delta before is inside the bound.
            update.delta, vote = plan.privacy.clip(update.delta)
            update.extras[VOTES] = vote.reshape(1)
            norm = min(norm, plan.privacy.max_delta_norm)
        report.figures[DELTA_NORM] = norm
        tally.add(
            update.delta,
            norm=norm,
            weight=plan.aggregator.weight(update),
            increments=increments,
            extras=update.extras,
            loss=report.loss,
            client=client,
        )
        if local.memory:
            stores.memory[client] = local.memory
        if personal:
            stores.personal[client] = personal
        if kept_optimizer is not None:
            stores.optimizers[client] = kept_optimizer


def _only_what_is_private(model: FlatModel, delta: Tensor, increments: list[float]) -> list[float]:
    """What may be sent of the counters: nothing, as they count examples or batches, which are drawn in secret.

    Args:
        model: Whose parameters private steps have moved.
        delta: Shape ``(P,)``.
        increments: Of the counters.

    Raises:
        UnsupportedError: A buffer has changed, by whatever way: no private gradient moves one.
    """
    for name, part in zip(model.buffer_names, model.views(delta)[len(model.parameters) :], strict=True):
        if bool((part != 0).any()):
            raise UnsupportedError(
                f"buffer '{name}' changed in the local training of a client: what it takes from the examples is "
                "neither bounded nor noised, and would be sent to the server. Keep data out of it, or use a layer "
                "without running statistics (GroupNorm, LayerNorm)"
            )
    return [0.0] * len(increments)
