"""One round after another: draw a cohort, train its clients on this process, add up, hand the sum to the server.

Nothing here is Lightning's; the strategy calls it with the user's step and with the processes that train together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._lightning import rank_zero_warn
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyViolation
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.contexts import RoundContext
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.federated.secure_tally import SecureTally
from lightning_privacy.federated.tally import CohortSum, Tally
from lightning_privacy.strategies._client_trainer import DELTA_NORM, VOTES, ClientTrainer
from lightning_privacy.strategies._plan import Plan
from lightning_privacy.strategies._round_result import ClientReport, RoundResult

__all__ = ["Federation"]


class Federation:
    """Runs the rounds of a fit.

    Args:
        plan: How.
        trainer: Of the clients of this process.
        processes: That train together.
        cohort_seed: Of the cohorts; the run's seed, or a secret one where privacy counts on it.

    Raises:
        ConfigurationError: Something sends more than the private sum, or the cohorts don't fit the aggregator.
    """

    def __init__(self, plan: Plan, trainer: ClientTrainer, processes: Processes, cohort_seed: int) -> None:
        self._plan = plan
        self._trainer = trainer
        self.model = trainer.model
        self.client_optimizer = trainer.optimizer
        self.clients = trainer.clients
        self.stores = trainer.stores
        self._processes = processes
        self._cohort_seed = cohort_seed
        plan.algorithm.begin(self.model, self.clients.count)
        expected = plan.cohorts.expected_size(self.clients.count)
        plan.aggregator.check(max(1, round(expected)))
        self._extras = plan.algorithm.extra_sizes(self.model)
        if plan.privacy is not None:
            plan.privacy.check(plan.aggregator)
            if self._extras:
                raise ConfigurationError(
                    f"{type(plan.algorithm).__name__} sums {', '.join(sorted(self._extras))} over the clients beside "
                    "their deltas, which client privacy neither bounds nor noises: use FedAvg, FedProx or Ditto with it"
                )
            self._extras = {VOTES: 1}

    def run(self, round_number: int) -> RoundResult:
        """Train the cohort of a round; the model holds the weights it held before when this returns.

        Args:
            round_number: From 0.

        Raises:
            ConfigurationError: Fewer clients than ``min_clients`` are left; the cause is the first client's error.
        """
        plan = self._plan
        if plan.privacy is not None:
            plan.privacy.charge(round_number)
        drawn = plan.cohorts.draw(self._cohort_seed, round_number, self.clients.count)
        cohort = [client for client in drawn if client not in self.clients.absent]
        trained_by = self.clients.assign(self._charged(cohort, round_number), self._processes.count)
        tally = self._new_tally() if plan.secure_sum is None else self._new_secure_tally(plan.secure_sum, trained_by)
        trained = self._trainer.train(trained_by[self._processes.rank], round_number, tally)
        summed = tally.finish(self._processes.add_up)
        everyone = sorted(
            (report for share in self._processes.gather(trained.reports) for report in share),
            key=lambda report: report.client,
        )
        self.stores.share(self._processes, trained.touched)
        self._report_failures(round_number, everyone, summed.received, trained.errors)
        return self._finish(round_number, cohort, tally, summed, everyone)

    def _charged(self, cohort: list[int], round_number: int) -> list[int]:
        """Those of a cohort that take part: all, but for clients whose budget for their examples is spent.

        Every process charges all of them, so that each knows what the others' clients have spent.
        """
        privacy = self._plan.example_privacy
        if privacy is None:
            return cohort
        able = [client for client in cohort if privacy.affords(client)]
        privacy.charge([client for client in able if self._trainer.trains(client, round_number)])
        return able

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
        figures[DELTA_NORM] = float(aggregate.norm())
        figures["cosine"] = summed.cosine()
        if plan.example_privacy is not None:
            figures["example_epsilon"] = plan.example_privacy.epsilon_bound()
        if plan.privacy is None:
            return RoundResult(aggregate, summed.increments, cohort, reports, summed.loss, figures)
        figures |= {"epsilon": plan.privacy.ledger.epsilon(), "max_delta_norm": plan.privacy.max_delta_norm}
        # Counters are no part of the private sum; they stay as they are.
        return RoundResult(aggregate, [0.0] * len(summed.increments), cohort, reports, summed.loss, figures)

    def _release(self, privacy: ClientPrivacy, round_number: int, summed: CohortSum) -> Tensor:
        """The private mean: one process adds the noise, and everybody gets the same."""
        noisy = torch.zeros(self.model.size + 1, dtype=summed.total.dtype, device=summed.total.device)
        if self._processes.leads:
            noisy.copy_(privacy.noised(round_number, summed.total, summed.extras[VOTES].sum()))
        self._processes.add_up(noisy)
        return privacy.settle(noisy)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, the same on every process; plain types and tensors."""
        return {
            "clients": self.clients.describe(),
            "algorithm": self._plan.algorithm.describe(),
            "algorithm_state": self._plan.algorithm.state_dict(),
            "seed": self._plan.seed,
            **self.stores.state_dict(),
            "privacy": None if self._plan.privacy is None else self._plan.privacy.state_dict(),
            "example_privacy": (
                None if self._plan.example_privacy is None else self._plan.example_privacy.state_dict()
            ),
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
        for name, kind, own in (
            ("privacy", "client", self._plan.privacy),
            ("example_privacy", "example", self._plan.example_privacy),
        ):
            if (state.get(name) is None) != (own is None):
                raise CheckpointError(
                    f"{kind} privacy began or ended between the checkpoint's run and this one, so no epsilon would "
                    f"hold for the model: resume with the same {kind}_privacy, or start a new run"
                )
            if own is not None:
                own.load_state_dict(state[name])
        self._plan.algorithm.load_state_dict(state["algorithm_state"])
        self.stores.load_state_dict(state)


def _refuse_other(name: str, now: Any, before: Any) -> None:
    """Raise where a run is continued with something else than it was begun with."""
    if now != before:
        raise CheckpointError(
            f"the checkpoint's run has other {name}: {before!r}, and this one {now!r}; continue with the same, or "
            "start a new run from its weights with load_from_checkpoint"
        )
