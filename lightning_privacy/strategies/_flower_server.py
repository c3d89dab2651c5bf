"""The server of a Flower federation: draws cohorts, adds up what clients send, steps the global model."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._lightning import LightningModule, rank_zero_warn
from lightning_privacy._validate import positive_int
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyViolation
from lightning_privacy.federated.contexts import RoundContext
from lightning_privacy.federated.flower_records import tensors_of
from lightning_privacy.federated.tally import CohortSum, Tally
from lightning_privacy.federated.update import ClientUpdate
from lightning_privacy.strategies._federated_checks import check_module
from lightning_privacy.strategies._flower_client import ClientReply, Task
from lightning_privacy.strategies._flower_settings import FlowerSettings
from lightning_privacy.strategies._round_report import round_entry
from lightning_privacy.strategies._round_result import ClientReport, RoundResult

__all__ = ["FlowerServer"]

_VOTES = "votes"
_HALF = 0.5
_SECRET_BITS = 127
_CAVEAT = (
    "The server of this federation receives each client's clipped change before noise is added, and clients receive "
    "the model of every round they take part in: epsilon is about those who see the released models, and holds if the "
    "server is trusted."
)


class FlowerServer:
    """The rounds of a run, apart from how messages travel.

    Args:
        module: The global model; stepped in place.
        settings: Of the federation.
        num_clients: Of the federation, of which cohorts are drawn.
        num_rounds: For which noise is calibrated, where a target epsilon is given.
        checkpoint: Where the state is written after each round, and read from when it exists.

    Raises:
        ConfigurationError: Client privacy can't be planned, or a number is out of range.
        CheckpointError: The checkpoint is of a run with other settings.
    """

    def __init__(
        self,
        module: LightningModule,
        settings: FlowerSettings,
        *,
        num_clients: int,
        num_rounds: int,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        check_module(module)
        self.num_clients = positive_int(num_clients=num_clients)
        self.num_rounds = positive_int(num_rounds=num_rounds)
        self.module = module
        self.next_round = 0
        self.history: list[dict[str, Any]] = []
        self._settings = settings
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        module.configure_model()
        self.model = settings.flat_model(module)
        plan = settings.plan
        plan.algorithm.begin(self.model, num_clients)
        plan.aggregator.check(max(1, round(plan.cohorts.expected_size(num_clients))))
        made = settings.server_optimizer(self.model.parameters)
        self._optimizer = made[0] if isinstance(made, tuple) else made
        self._scheduler = made[1] if isinstance(made, tuple) else None
        # Clients have the app's code and with it the seed, and privacy counts on cohorts that nobody knows.
        self._cohort_seed = plan.seed if plan.privacy is None else secrets.randbits(_SECRET_BITS)
        if plan.privacy is not None:
            plan.privacy.plan(num_clients, plan.cohorts, num_rounds)
            plan.privacy.ledger.add_caveat(_CAVEAT)
        if self._checkpoint is not None:
            self._go_on(self._checkpoint)

    @property
    def done(self) -> bool:
        """Whether all rounds were run, or the budget affords no further one."""
        privacy = self._settings.plan.privacy
        return self.next_round >= self.num_rounds or (privacy is not None and not privacy.affords_round())

    def weights(self) -> dict[str, Tensor]:
        """What is sent to the clients: every parameter and buffer by name."""
        return tensors_of(self.module)

    def open_round(self) -> dict[int, Task]:
        """Draw the cohort of the next round; with client privacy the round is charged first.

        Returns:
            What each client of the cohort is asked, by client.

        Raises:
            PrivacyBudgetExceeded: The round would break the budget.
        """
        privacy = self._settings.plan.privacy
        if privacy is not None:
            privacy.charge(self.next_round)
        cohort = self._settings.plan.cohorts.draw(self._cohort_seed, self.next_round, self.num_clients)
        return {client: self.task(client) for client in cohort}

    def task(self, client: int) -> Task:
        """What a client is asked in the next round."""
        privacy = self._settings.plan.privacy
        norm = None if privacy is None else privacy.max_delta_norm
        return Task(self.next_round, client, self._settings.fingerprint, norm)

    def close_round(self, tasks: Mapping[int, Task], replies: Mapping[int, ClientReply]) -> dict[str, Any]:
        """Add up what came and step the global model.

        Args:
            tasks: What :meth:`open_round` gave.
            replies: By client; a client that is missing did not answer in time.

        Returns:
            Figures of the round.

        Raises:
            ConfigurationError: Fewer clients than ``min_clients`` are left.
            PrivacyViolation: The aggregate is not finite.
        """
        plan, model = self._settings.plan, self.model
        tally = Tally(
            size=model.size,
            num_counters=len(model.counters),
            extras={} if plan.privacy is None else {_VOTES: 1},
            device=model.device,
            dtype=model.dtype,
            exact=plan.deterministic,
        )
        reports = []
        for client in sorted(tasks):
            report = ClientReport(client, 0)
            reports.append(report)
            reply = replies.get(client, ClientReply(failure="it did not answer in time"))
            report.failure = reply.failure or self._misfit(reply)
            if report.failure is None:
                self._take(reply, report, tally)
        summed = tally.finish(_alone)
        self._report_failures(reports, summed.received)
        result = self._finish(sorted(tasks), reports, summed)
        model.write_pseudo_gradient(result.aggregate)
        model.move_buffers(result.aggregate, result.increments)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._scheduler is not None:
            self._scheduler.step()
        entry = round_entry(self.next_round, result, model.size)
        self.history.append(entry)
        self.next_round += 1
        if self._checkpoint is not None:
            self._save(self._checkpoint)
        return entry

    def _misfit(self, reply: ClientReply) -> str | None:
        """Why a reply can't be added up; None where it can."""
        delta = reply.tensors.get("delta")
        if delta is None or delta.shape != (self.model.size,) or delta.dtype != self.model.dtype:
            found = "nothing" if delta is None else f"{delta.dtype} of shape {tuple(delta.shape)}"
            return f"it sent {found} in place of {self.model.dtype} of shape ({self.model.size},)"
        if not bool(delta.isfinite().all()):
            return "its update is not finite"
        if self._settings.plan.privacy is not None:
            vote = reply.metrics.get(_VOTES)
            return None if vote in (_HALF, -_HALF) else f"its vote for the clipping norm is {vote!r}"
        if len(reply.increments) != len(self.model.counters):
            return f"it sent {len(reply.increments)} counters in place of {len(self.model.counters)}"
        if not reply.metrics.get("num_examples", 0.0) > 0:
            return "it has no example"
        return None

    def _take(self, reply: ClientReply, report: ClientReport, tally: Tally) -> None:
        plan = self._settings.plan
        delta = reply.tensors["delta"].to(self.model.device)
        increments, extras, loss = reply.increments, {}, reply.metrics.get("loss", 0.0)
        if plan.privacy is not None:
            # Once more, so that the bound does not depend on what runs at a client; a clipped delta stays as it is.
            delta, _ = plan.privacy.clip(delta)
            extras = {_VOTES: torch.tensor([reply.metrics[_VOTES]], dtype=self.model.dtype)}
            increments, loss = [0.0] * len(self.model.counters), 0.0
        report.num_examples = int(reply.metrics.get("num_examples", 0))
        report.num_steps = int(reply.metrics.get("num_steps", 0))
        report.loss = math.nan if plan.privacy is not None else loss
        report.seconds = reply.metrics.get("seconds", math.nan)
        report.figures = {name: value for name, value in reply.metrics.items() if name in ("bytes", "dense_bytes")}
        update = ClientUpdate(report.client, delta, num_examples=report.num_examples, num_steps=report.num_steps)
        tally.add(
            delta,
            weight=plan.aggregator.weight(update),
            increments=increments,
            extras=extras,
            loss=loss,
            client=report.client,
        )

    def _report_failures(self, reports: list[ClientReport], received: int) -> None:
        failed = [f"client {report.client}: {report.failure}" for report in reports if report.failure is not None]
        if not failed:
            return
        listed = "; ".join(failed[:3])
        if received < self._settings.plan.min_clients:
            raise ConfigurationError(
                f"round {self.next_round}: {received} of {len(reports)} clients are left, fewer than "
                f"min_clients={self._settings.plan.min_clients} ({listed})"
            )
        rank_zero_warn(f"round {self.next_round} goes on with {received} of {len(reports)} clients ({listed})")

    def _finish(self, cohort: list[int], reports: list[ClientReport], summed: CohortSum) -> RoundResult:
        """The aggregate as the server's optimizer gets it: mean, noise, the server's side of the transforms."""
        plan, number = self._settings.plan, self.next_round
        expected = plan.cohorts.expected_size(self.num_clients)
        context = RoundContext(plan.seed, number, len(cohort), expected, summed.received)
        if plan.privacy is None:
            aggregate = summed.mean()
        else:
            votes = summed.extras[_VOTES].sum()
            aggregate = plan.privacy.settle(plan.privacy.noised(number, summed.total, votes))
        for transform in reversed(plan.transforms):
            aggregate = transform.on_server(aggregate, context)
        if not bool(aggregate.isfinite().all()):
            raise PrivacyViolation(f"round {number}: the aggregate is not finite; the model is left as it was")
        figures = dict(context.log) | {"delta_norm": float(aggregate.norm())}
        if plan.privacy is None:
            figures["cosine"] = summed.cosine()
            return RoundResult(aggregate, summed.increments, cohort, reports, summed.loss, figures)
        figures |= {"epsilon": plan.privacy.ledger.epsilon(), "max_delta_norm": plan.privacy.max_delta_norm}
        return RoundResult(aggregate, [0.0] * len(self.model.counters), cohort, reports, math.nan, figures)

    def _save(self, path: Path) -> None:
        privacy = self._settings.plan.privacy
        state = {
            "state_dict": self.module.state_dict(),
            "next_round": self.next_round,
            "settings": self._settings.fingerprint,
            "num_clients": self.num_clients,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "privacy": None if privacy is None else privacy.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        torch.save(state, new)
        new.replace(path)

    def _go_on(self, path: Path) -> None:
        """Take over the state of a run that was interrupted, and from now on write every charge down."""
        privacy = self._settings.plan.privacy
        if path.exists():
            state = torch.load(path, weights_only=True, map_location="cpu")
            now = {"settings": self._settings.fingerprint, "num_clients": self.num_clients}
            for name, value in now.items():
                if state.get(name) != value:
                    raise CheckpointError(
                        f"{path} is of a run with other {name}: {state.get(name)!r}, and this one has {value!r}; go on "
                        "with the same, or give another checkpoint"
                    )
            self.module.load_state_dict(state["state_dict"])
            self._optimizer.load_state_dict(state["optimizer"])
            if self._scheduler is not None:
                self._scheduler.load_state_dict(state["scheduler"])
            self.next_round = int(state["next_round"])
            if privacy is not None:
                privacy.load_state_dict(state["privacy"])
        if privacy is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            privacy.keep_journal(path.with_name(path.name + ".journal"))


def _alone(vector: Tensor) -> None:
    """The sum over processes, of which there is one."""
    del vector
