"""One round after another: draw a cohort, train its clients on this process, add up, hand the sum to the server.

Nothing here is Lightning's; the strategy calls it with the user's step and with the processes that train together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_privacy._lightning import rank_zero_warn
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.errors import CheckpointError, ConfigurationError, LightningPrivacyError, PrivacyViolation
from lightning_privacy.federated.aggregation import Aggregator
from lightning_privacy.federated.algorithms import Algorithm, FedProx, LocalTraining
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.cohorts import CohortSampler
from lightning_privacy.federated.contexts import ClientContext, RoundContext
from lightning_privacy.federated.failures import SimulatedClientError, SimulatedFailures
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.keyed import kept_randomness, seed_client
from lightning_privacy.federated.local import LocalLoop, drop_gradients
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.federated.secure_tally import SecureTally
from lightning_privacy.federated.tally import CohortSum, Tally
from lightning_privacy.federated.transforms import DeltaTransform
from lightning_privacy.federated.update import ClientUpdate
from lightning_privacy.strategies._client_isolation import ClientIsolation
from lightning_privacy.strategies._clients import Clients

__all__ = ["ClientReport", "Federation", "Plan", "RoundResult"]

_NORM = "delta_norm"
_VOTES = "votes"


@dataclass(frozen=True)
class Plan:
    """How rounds go; the same on every process.

    Args:
        cohorts: Draws who takes part.
        aggregator: Makes one delta of many.
        algorithm: What clients do differently.
        transforms: Steps of the pipeline, in the order in which clients apply them.
        failures: Simulated ones.
        min_clients: A round with fewer updates is an error.
        seed: Of everything random in a round.
        deterministic: Add in fixed point.
        persistent_optimizer: Clients keep the state of their optimizer from round to round.
        privacy: Bounds and noises what clients send, as the last step of the pipeline.
        secure_sum: How the clients of a process are summed so that none is seen; None for plainly.
    """

    cohorts: CohortSampler
    aggregator: Aggregator
    algorithm: Algorithm
    transforms: Sequence[DeltaTransform]
    failures: SimulatedFailures | None
    min_clients: int
    seed: int
    deterministic: bool
    persistent_optimizer: bool
    privacy: ClientPrivacy | None = None
    secure_sum: SecureSum | None = None

    @property
    def keeps_memory(self) -> bool:
        """Whether the algorithm may keep something for each client."""
        return type(self.algorithm) not in (Algorithm, FedProx)


@dataclass
class ClientReport:
    """What is known of one client after a round.

    Args:
        client: Its number.
        num_examples: Size of its data set.
        failure: Why its update was not used; None where it was.
        num_steps: Optimizer steps it took.
        loss: Mean loss of its local training.
        seconds: Its local training took.
        figures: Further ones, by name: norm of the delta, bytes sent.
    """

    client: int
    num_examples: int
    failure: str | None = None
    num_steps: int = 0
    loss: float = math.nan
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class RoundResult:
    """What the server steps along, and what is known of the round.

    Args:
        aggregate: Shape ``(P,)``.
        increments: Of the model's counters.
        cohort: Clients that were drawn.
        clients: Reports in order of client, of those that were drawn.
        loss: Mean over the received clients, by weight; NaN without any.
        figures: Of the round, by name.
    """

    aggregate: Tensor
    increments: list[float]
    cohort: list[int]
    clients: list[ClientReport]
    loss: float
    figures: dict[str, float]


class Federation:
    """Runs the rounds of a fit.

    Args:
        plan: How.
        model: The global model, as a vector.
        optimizer: The clients' optimizer, over the model's parameters.
        loop: Local training.
        clients: Who there is.
        processes: That train together.
        cohort_seed: Of the cohorts; the run's seed, or a secret one where privacy counts on it.
        scaler_reset: Called before each client, where losses are scaled.

    Raises:
        ConfigurationError: Something sends more than the private sum, or the cohorts don't fit the aggregator.
    """

    def __init__(
        self,
        plan: Plan,
        model: FlatModel,
        optimizer: Optimizer,
        loop: LocalLoop,
        clients: Clients,
        processes: Processes,
        cohort_seed: int,
        scaler_reset: Callable[[], None] | None = None,
    ) -> None:
        self._plan = plan
        self.model = model
        self._optimizer = optimizer
        self._loop = loop
        self.clients = clients
        self._processes = processes
        self._cohort_seed = cohort_seed
        self._scaler_reset = scaler_reset
        self._delta = model.new_vector()
        self.memory: dict[int, dict[str, Tensor]] = {}
        self._optimizer_states: dict[int, dict[Any, Any]] = {}
        self._personal: dict[int, dict[str, Tensor]] = {}
        plan.algorithm.begin(model, clients.count)
        expected = plan.cohorts.expected_size(clients.count)
        plan.aggregator.check(max(1, round(expected)))
        self._extras = plan.algorithm.extra_sizes(model)
        if plan.privacy is not None:
            plan.privacy.check(plan.aggregator)
            if self._extras:
                raise ConfigurationError(
                    f"{type(plan.algorithm).__name__} sums {', '.join(sorted(self._extras))} over the clients beside "
                    "their deltas, which client privacy neither bounds nor noises: use FedAvg, FedProx or Ditto with it"
                )
            self._extras = {_VOTES: 1}

    def run(self, round_number: int) -> RoundResult:
        """Train the cohort of a round; the model holds the weights it held before when this returns.

        Args:
            round_number: From 0.

        Raises:
            ConfigurationError: Fewer clients than ``min_clients`` are left; the cause is the first client's error.
        """
        plan, model = self._plan, self.model
        if plan.privacy is not None:
            plan.privacy.charge(round_number)
        cohort = plan.cohorts.draw(self._cohort_seed, round_number, self.clients.count)
        shares = self.clients.assign(cohort, self._processes.count)
        mine = shares[self._processes.rank]
        tally = self._new_tally() if plan.secure_sum is None else self._new_secure_tally(plan.secure_sum, shares)
        reports: list[ClientReport] = []
        errors: list[Exception] = []
        model.remember()
        isolation = ClientIsolation(self._optimizer, None if plan.privacy is None else model.module)
        touched: list[int] = []
        with kept_randomness():
            for client in mine:
                report = ClientReport(client, self.clients.num_examples(client))
                reports.append(report)
                isolation.begin_client()
                try:
                    self._train(client, round_number, report, tally)
                    touched.append(client)
                except LightningPrivacyError:
                    raise
                except Exception as error:  # noqa: BLE001 - a client that raises has failed; reported below
                    report.failure = f"{type(error).__name__}: {error}"
                    errors.append(error)
                finally:
                    model.restore()
        isolation.begin_client()
        summed = tally.finish(self._processes.add_up)
        everyone = sorted(
            (report for share in self._processes.gather(reports) for report in share), key=lambda report: report.client
        )
        self._share_states(touched)
        self._report_failures(round_number, everyone, summed.received, errors)
        return self._finish(round_number, cohort, tally, summed, everyone)

    def _new_tally(self) -> Tally:
        plan, model = self._plan, self.model
        return Tally(
            size=model.size,
            num_counters=len(model.counters),
            extras=self._extras,
            device=model.device,
            dtype=model.dtype,
            exact=plan.deterministic,
            keep_rows=not plan.aggregator.linear,
        )

    def _new_secure_tally(self, secure_sum: SecureSum, shares: list[list[int]]) -> SecureTally:
        # On every process alike, so that none waits for one that can't go on.
        if any(len(share) == 1 for share in shares):
            raise ConfigurationError(
                f"a process of {len(shares)} has one client of the cohort to train, and a secure sum over one client "
                f"is that client's own change: draw at least {2 * len(shares)} clients a round (cohort_size), and with "
                "poisson cohorts many more"
            )
        model = self.model
        return SecureTally(
            secure_sum,
            shares[self._processes.rank],
            size=model.size,
            num_counters=len(model.counters),
            extras=self._extras,
            device=model.device,
            dtype=model.dtype,
        )

    def _train(self, client: int, round_number: int, report: ClientReport, tally: Tally | SecureTally) -> None:
        plan, model, clients = self._plan, self.model, self.clients
        batches = self._loop.num_batches(clients.batches_per_epoch(client))
        failure = None
        if plan.failures is not None:
            failure = plan.failures.outcome(plan.seed, round_number, client, batches).failure
            if failure in ("dropout", "late"):
                report.failure = failure
                return
            if failure == "error":
                raise SimulatedClientError(f"client {client} fails on purpose")
        began = time.perf_counter()
        memory = dict(self.memory.get(client, {}))
        local = LocalTraining(client, round_number, report.num_examples, model, self._optimizer, memory)
        model.take_personal(self._personal.get(client, {}))
        self._load_optimizer(client)
        if self._scaler_reset is not None:
            self._scaler_reset()

        def epoch_of(epoch: int) -> Any:
            return clients.epoch(client, seed=plan.seed, round_number=round_number, epoch=epoch)

        def train_again(algorithm: Algorithm) -> float | None:
            self._optimizer.state.clear()
            again = LocalTraining(client, round_number, report.num_examples, model, self._optimizer)
            found = self._loop.run(again, epoch_of, algorithm)
            return None if found is None else float(found)

        local.train_again = train_again
        seed_client(plan.seed, round_number, client)
        if plan.algorithm.needs_initial_loss or plan.aggregator.needs_initial_loss:
            report.figures["initial_loss"] = self._loop.evaluate(epoch_of(0))
        plan.algorithm.before_client(local)
        loss = self._loop.run(local, epoch_of, plan.algorithm)
        update = ClientUpdate(
            client,
            model.delta(self._delta),
            num_examples=report.num_examples,
            num_steps=local.num_steps,
            metrics={"loss": math.nan if loss is None else float(loss), **report.figures},
        )
        increments = model.increments()
        personal = model.give_personal()
        kept_optimizer = _on_cpu(self._optimizer.state_dict()["state"]) if plan.persistent_optimizer else None
        plan.algorithm.after_client(local, update)
        context = ClientContext(plan.seed, round_number, client, report.num_examples, memory=memory, log=report.figures)
        for transform in plan.transforms:
            update.delta = transform.on_client(update.delta, context)
        if failure == "nan":
            update.delta = torch.full_like(update.delta, math.nan)
        report.num_steps, report.loss = update.num_steps, update.metrics["loss"]
        report.seconds = time.perf_counter() - began
        norm = float(torch.linalg.vector_norm(update.delta))
        if not math.isfinite(norm) or not all(bool(extra.isfinite().all()) for extra in update.extras.values()):
            report.failure = "its update is not finite"
            return
        if plan.privacy is not None:
            # The last step of all: whatever was done to the delta before is inside the bound.
            update.delta, vote = plan.privacy.clip(update.delta)
            update.extras[_VOTES] = vote.reshape(1)
            norm = min(norm, plan.privacy.max_delta_norm)
        report.figures[_NORM] = norm
        tally.add(
            update.delta,
            norm=norm,
            weight=plan.aggregator.weight(update),
            increments=increments,
            extras=update.extras,
            loss=report.loss,
            client=client,
        )
        if memory:
            self.memory[client] = memory
        if personal:
            self._personal[client] = personal
        if kept_optimizer is not None:
            self._optimizer_states[client] = kept_optimizer

    def _load_optimizer(self, client: int) -> None:
        """Start without gradients, and with the moments this client has kept."""
        drop_gradients(self._optimizer)
        kept = self._optimizer_states.get(client)
        if kept is not None:
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": kept, "param_groups": groups})

    def _share_states(self, touched: list[int]) -> None:
        """Tell the other processes what clients keep, as the next round may train them elsewhere."""
        stores: tuple[dict[int, Any], ...] = (self.memory, self._personal, self._optimizer_states)
        if not self._processes.several:
            return
        changed = [{client: store[client] for client in touched if client in store} for store in stores]
        if not any(share for shares in self._processes.gather([bool(c) for c in changed]) for share in shares):
            return
        for shares in self._processes.gather(changed):
            for store, share in zip(stores, shares, strict=True):
                store.update(share)

    def _report_failures(
        self, round_number: int, reports: list[ClientReport], received: int, errors: list[Exception]
    ) -> None:
        failed = [report for report in reports if report.failure is not None]
        if not failed:
            return
        listed = "; ".join(f"client {report.client}: {report.failure}" for report in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        if received < self._plan.min_clients:
            raise ConfigurationError(
                f"round {round_number}: {received} of {len(reports)} clients are left, fewer than "
                f"min_clients={self._plan.min_clients} ({listed}{more})"
            ) from (errors[0] if errors else None)
        rank_zero_warn(
            f"round {round_number} goes on with {received} of {len(reports)} clients ({listed}{more})", stacklevel=2
        )

    def _finish(
        self,
        round_number: int,
        cohort: list[int],
        tally: Tally | SecureTally,
        summed: CohortSum,
        reports: list[ClientReport],
    ) -> RoundResult:
        plan = self._plan
        expected = plan.cohorts.expected_size(self.clients.count)
        context = RoundContext(plan.seed, round_number, len(cohort), expected, summed.received)
        if plan.privacy is not None:
            aggregate = self._release(plan.privacy, round_number, summed)
        elif plan.aggregator.linear or summed.received == 0:
            aggregate = summed.mean()
        else:
            rows = {client: row for share in self._processes.gather(tally.rows) for client, row in share.items()}
            plan.aggregator.check(len(rows))
            ordered = [rows[client] for client in sorted(rows)]
            deltas = torch.stack([delta.to(self.model.device) for delta, _ in ordered])
            weights = torch.tensor([weight for _, weight in ordered], dtype=deltas.dtype, device=deltas.device)
            aggregate = plan.aggregator.aggregate(deltas, weights)
        for transform in reversed(plan.transforms):
            aggregate = transform.on_server(aggregate, context)
        aggregate = plan.algorithm.after_round(aggregate, summed.extras, summed.received)
        if not bool(aggregate.isfinite().all()):
            raise PrivacyViolation(f"round {round_number}: the aggregate is not finite; the model is left as it was")
        figures = dict(context.log)
        figures[_NORM] = float(aggregate.norm())
        figures["cosine"] = summed.cosine()
        if plan.privacy is None:
            return RoundResult(aggregate, summed.increments, cohort, reports, summed.loss, figures)
        figures |= {"epsilon": plan.privacy.ledger.epsilon(), "max_delta_norm": plan.privacy.max_delta_norm}
        # Counters are no part of the private sum; they stay as they are.
        return RoundResult(aggregate, [0.0] * len(summed.increments), cohort, reports, summed.loss, figures)

    def _release(self, privacy: ClientPrivacy, round_number: int, summed: CohortSum) -> Tensor:
        """The private mean: one process adds the noise, and everybody gets the same."""
        noisy = torch.zeros(self.model.size + 1, dtype=summed.total.dtype, device=summed.total.device)
        if self._processes.leads:
            noisy.copy_(privacy.noised(round_number, summed.total, summed.extras[_VOTES].sum()))
        self._processes.add_up(noisy)
        return privacy.settle(noisy)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, the same on every process; plain types and tensors."""
        return {
            "clients": self.clients.describe(),
            "algorithm": self._plan.algorithm.describe(),
            "algorithm_state": self._plan.algorithm.state_dict(),
            "seed": self._plan.seed,
            # Sorted: the order in which clients first took part is nobody's business.
            "memory": dict(sorted(self.memory.items())),
            "personal": dict(sorted(self._personal.items())),
            "optimizers": dict(sorted(self._optimizer_states.items())),
            "privacy": None if self._plan.privacy is None else self._plan.privacy.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            CheckpointError: The clients, the algorithm or the seed are others.
        """
        for name, now in (
            ("clients", self.clients.describe()),
            ("algorithm", self._plan.algorithm.describe()),
            ("seed", self._plan.seed),
        ):
            _refuse_other(name, now, state[name])
        if (state["privacy"] is None) != (self._plan.privacy is None):
            raise CheckpointError(
                "client privacy began or ended between the checkpoint's run and this one, so no epsilon would hold for "
                "the model: resume with the same client_privacy, or start a new run"
            )
        if self._plan.privacy is not None:
            self._plan.privacy.load_state_dict(state["privacy"])
        self._plan.algorithm.load_state_dict(state["algorithm_state"])
        self.memory = {int(client): dict(kept) for client, kept in state["memory"].items()}
        self._personal = {int(client): dict(kept) for client, kept in state["personal"].items()}
        self._optimizer_states = {int(client): dict(kept) for client, kept in state["optimizers"].items()}


def _refuse_other(name: str, now: Any, before: Any) -> None:
    """Raise where a run is continued with something else than it was begun with."""
    if now != before:
        raise CheckpointError(
            f"the checkpoint's run has other {name}: {before!r}, and this one {now!r}; continue with the same, or "
            "start a new run from its weights with load_from_checkpoint"
        )


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return state
