"""Differential privacy of a whole client: what its data are can't be told from the model.

A round is the step of DP-SGD with a client in the place of an example (McMahan et al., "Learning Differentially Private
Recurrent Language Models", 2018, Algorithm 1): each client's delta is clipped as a whole, the deltas are summed without
weights, noise is added once, and the sum is divided by the expected size of a cohort, a constant.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.client_privacy import ClientPrivacy
    >>> from lightning_privacy.federated.cohorts import PoissonCohorts
    >>> privacy = ClientPrivacy(delta=1e-5, noise_multiplier=1.0, max_delta_norm=0.5)
    >>> privacy.plan(num_clients=1000, cohort=PoissonCohorts(10), rounds=3)
    >>> for round_number in range(3):
    ...     clipped, votes = privacy.clip(torch.randn(9, 4))  # nine clients came
    ...     mean = privacy.finish(round_number, clipped.sum(0), votes.sum())
    >>> mean.shape, round(privacy.ledger.epsilon(), 1)
    (torch.Size([4]), 0.3)
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.accounting import LedgerJournal, PrivacyLedger, Release, missing_charges
from lightning_privacy.accounting.target import caveat_of_delta
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyViolation
from lightning_privacy.federated.aggregation import Aggregator, WeightedMean
from lightning_privacy.federated.client_accounting import CohortAccounting
from lightning_privacy.federated.client_clipping import AdaptiveNorm, clip_delta
from lightning_privacy.federated.client_state import (
    LATER,
    LOST_JOURNAL,
    check_complete,
    check_same,
    plan_fields,
    restore_ledger,
)
from lightning_privacy.federated.client_target import ClientTarget
from lightning_privacy.federated.cohorts import CohortSampler
from lightning_privacy.gradients.clipping import AdaptiveClipping
from lightning_privacy.mechanisms import NoiseSource

__all__ = ["ClientPrivacy"]

_DELTA, _COUNT = 0, 1  # streams of a round's noise


class ClientPrivacy:
    """Clips, sums, noises and charges the rounds of a federation.

    In a run: :meth:`check` and :meth:`plan` before it; :meth:`clip` for each client of a round, as the last thing done
    to its delta; :meth:`finish` once, with the sums over all clients that came, also where nobody did. Among several
    processes :meth:`charge` and :meth:`settle` go everywhere, :meth:`noised` goes in one, and its result to all.

    With ``adaptive``, the number of clients within the norm is released with the delta, under noise of its own; the
    delta's noise is raised so that both together cost what the noise multiplier says (Andrew et al., "Differentially
    Private Learning with Adaptive Clipping", 2021, Theorem 1).

    Args:
        delta: of the guarantee, in (0, 1); well below one over the number of clients.
        epsilon: what the run may cost. Without ``noise_multiplier``, noise is chosen for it.
        noise_multiplier: standard deviation of the noise on the sum, in units of the clipping norm.
        max_delta_norm: clipping norm of a client's delta, over all entries together; of the first round, if adaptive.
        adaptive: let the norm follow a quantile of the clients' norms; True, or an :class:`AdaptiveNorm`.
        ledger: where rounds are charged, of unit "client"; default: an own one with ``epsilon`` as budget.
        noise: where noise comes from; default: a source seeded by the operating system.

    Raises:
        ConfigurationError: a number is out of range, there is no target, or the ledger is of another unit or delta.

    Example:
        >>> ClientPrivacy(delta=1e-5, epsilon=8.0, max_delta_norm=1.0).ledger
        PrivacyLedger(delta=1e-05, budget=8.0, unit='client', charged=0)
    """

    def __init__(
        self,
        *,
        delta: float,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        max_delta_norm: float,
        adaptive: bool | AdaptiveNorm = False,
        ledger: PrivacyLedger | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        how = AdaptiveNorm() if adaptive is True else None if adaptive is False else adaptive
        self._target = ClientTarget(delta, epsilon, noise_multiplier, max_delta_norm, how)
        self._ledger = self._target.ledger(ledger)
        self._noise = NoiseSource() if noise is None else noise
        self._accounting: CohortAccounting | None = None
        self._multiplier = noise_multiplier
        self._policy: AdaptiveClipping | None = None
        self._next_round = 0
        self._charged_round: int | None = None
        self._charged_here = False
        self._run_id = secrets.token_hex(8)
        self._journal: LedgerJournal | None = None
        self._journal_place: str | None = None
        self._restored: dict[str, Any] | None = None

    @property
    def ledger(self) -> PrivacyLedger:
        """Where the rounds are charged."""
        return self._ledger

    @property
    def planned(self) -> bool:
        """Whether :meth:`plan` was called."""
        return self._accounting is not None

    @property
    def needs_calibration(self) -> bool:
        """Whether the noise is chosen for a target epsilon and a number of rounds, when they are planned."""
        return self._multiplier is None

    @property
    def run_id(self) -> str:
        """Names the run in its journal; kept when it is resumed."""
        return self._run_id

    @property
    def max_delta_norm(self) -> float:
        """The clipping norm of the next round."""
        return self._target.max_delta_norm if self._policy is None else self._policy.norm_bound

    @property
    def noise_multiplier(self) -> float:
        """Noise multiplier of a round as a whole, as it is charged."""
        if self._multiplier is None:
            raise _not_planned()
        return self._multiplier

    @property
    def delta_noise_multiplier(self) -> float:
        """Standard deviation of the noise on the sum of deltas, over the clipping norm."""
        if self._policy is None:
            return self.noise_multiplier
        return self._policy.gradient_noise_multiplier(self.noise_multiplier)

    @property
    def expected_cohort_size(self) -> float:
        """What the noisy sum is divided by: a constant of the run."""
        return self._plan.expected_size

    @property
    def release(self) -> Release:
        """What a round is charged as; the same for all rounds."""
        return self._plan.release(self.noise_multiplier, None if self._policy is None else self._policy.count_std)

    @property
    def _plan(self) -> CohortAccounting:
        if self._accounting is None:
            raise _not_planned()
        return self._accounting

    def check(self, aggregator: Aggregator) -> None:
        """Refuse an aggregator whose result one clipped client can move by more than the noise hides.

        Args:
            aggregator: the run's.

        Raises:
            ConfigurationError: it is not the unweighted mean.
        """
        if type(aggregator) is WeightedMean and not aggregator.weighted:
            return
        reason = "nothing is known of how far one clipped client moves it"
        if isinstance(aggregator, WeightedMean):
            reason = "weights make a client's share depend on how much data it and the others have"
        raise ConfigurationError(
            f"aggregator {aggregator!r} can't be used with client privacy, whose noise is measured for a plain sum: "
            f"{reason}. Use WeightedMean(weighted=False)"
        )

    def plan(self, num_clients: int, cohort: CohortSampler, rounds: int) -> None:
        """Fix what a round costs and, for a target epsilon, how much noise it gets.

        Called again with the same clients and cohorts it changes nothing, however many rounds are asked for: the
        budget decides when to stop.

        Args:
            num_clients: clients of the federation.
            cohort: how cohorts are drawn.
            rounds: rounds of the run.

        Raises:
            ConfigurationError: epsilon is out of reach, the count's noise too small, or the run was planned for others.
            UnsupportedError: it is not known what such cohorts cost.
            CheckpointError: the restored state is of a run with other clients or cohorts.
        """
        accounting = CohortAccounting.of(cohort, positive_int(num_clients=num_clients))
        positive_int(rounds=rounds)
        if self._accounting is not None:
            if accounting != self._accounting:
                raise ConfigurationError(
                    f"this ClientPrivacy was planned for {self._accounting}, and now for {accounting}: one run has one "
                    "kind of cohort; make a new ClientPrivacy, with the same ledger if it is about the same clients"
                )
            return
        if self._multiplier is None and self._target.epsilon is not None:
            self._multiplier = accounting.calibrate(
                epsilon=self._target.epsilon, delta=self._target.delta, rounds=rounds, spent=self._ledger
            )
        self._policy = self._target.policy(self.noise_multiplier, accounting.expected_size)
        self._accounting = accounting
        if self._restored is not None:
            self._adopt(self._restored)
        too_large = caveat_of_delta(self._target.delta, num_clients, "client")
        if too_large is not None:
            warnings.warn(f"{too_large} Use a smaller delta.", UserWarning, stacklevel=2)
        for caveat in (*accounting.caveats, self._noise.caveat, too_large):
            if caveat is not None:
                self._ledger.add_caveat(caveat)

    def clip(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the delta of a client, or of several.

        Args:
            delta: shape ``(P,)`` or ``(K, P)``: everything a client changes, in one vector.

        Returns:
            The clipped delta of the same shape, and its vote: a number, or shape ``(K,)``. Both are summed over the
            clients. Who does not come adds nothing to either; one whose delta is not finite adds zero and a vote.

        Raises:
            ConfigurationError: there is no plan yet, or the delta is not float32 or float64.
        """
        _ = self._plan
        return clip_delta(delta, self.max_delta_norm)

    def affords_round(self) -> bool:
        """Whether one more round keeps within the budget."""
        return self._ledger.affords(self.release)

    def charge(self, round_number: int) -> None:
        """Charge a round that is about to be released.

        Args:
            round_number: the round, above all that were charged before.

        Raises:
            PrivacyBudgetExceeded: it would break the budget; nothing is charged and nothing must be released.
            PrivacyViolation: the round was charged already.
        """
        if round_number < self._next_round:
            raise PrivacyViolation(
                f"round {round_number} was released already, the next is {self._next_round}: a second release of a "
                "round would cost again and, from a seeded noise source, have the same noise"
            )
        release = self.release
        self._ledger.charge(release, label=self._label())
        if self._journal is not None:
            self._journal.record(release, total_count=self._ledger.count(release))
        self._charged_here = True
        self._next_round = round_number + 1
        self._charged_round = round_number

    def noised(self, round_number: int, total: Tensor, votes: Tensor | float) -> Tensor:
        """Add the noise of a round to its sums: the release itself. Done once for a charged round, in one process.

        Args:
            round_number: the round that :meth:`charge` charged last.
            total: shape ``(P,)``, sum of the clipped deltas of all clients that came; zeros where nobody did.
            votes: sum of their votes; 0 where nobody came.

        Returns:
            Shape ``(P + 1,)``, in the dtype of ``total``: noisy sum and noisy votes. These may be seen by everybody.

        Raises:
            PrivacyViolation: the round was not charged, was noised before, or a sum is not finite.
        """
        if self._charged_round != round_number:
            raise PrivacyViolation(
                f"round {round_number} is to be released without a charge of its own (charged: {self._charged_round}); "
                "call charge(round_number) first, and noised once after it"
            )
        if total.dim() != 1 or not total.is_floating_point():
            raise ConfigurationError(
                f"total must be a flat floating-point vector, got {total.dtype} of shape {tuple(total.shape)}"
            )
        dtype = torch.promote_types(total.dtype, torch.float32)
        noisy = total.new_empty(total.numel() + 1, dtype=dtype)
        noisy[:-1] = total
        noisy[-1] = votes
        if not bool(noisy.isfinite().all()):
            raise PrivacyViolation(
                f"the sum of round {round_number} is not finite, which no sum of clipped deltas is: something was "
                "added to it after clip(); nothing was released"
            )
        self._charged_round = None
        self._noise.add_(
            noisy[:-1], std=self.delta_noise_multiplier * self.max_delta_norm, step=round_number, stream=_DELTA
        )
        if self._policy is None:
            noisy[-1] = 0.0  # the votes are no part of the release
        else:
            self._noise.add_(noisy[-1:], std=self._policy.count_std, step=round_number, stream=_COUNT)
        return noisy

    def settle(self, noisy: Tensor) -> Tensor:
        """Return the private mean, and move the adaptive norm for the next round.

        Args:
            noisy: shape ``(P + 1,)``, what :meth:`noised` returned.

        Returns:
            Shape ``(P,)``: the noisy sum over the expected size of a cohort.
        """
        if self._policy is not None:
            self._policy.observe(noisy[-1:], self.expected_cohort_size)
        return noisy[:-1] / self.expected_cohort_size

    def finish(self, round_number: int, total: Tensor, votes: Tensor | float = 0.0) -> Tensor:
        """Charge, noise and settle a round: all there is to do in one process.

        Args:
            round_number: the round.
            total: shape ``(P,)``, sum of the clipped deltas of all clients that came.
            votes: sum of their votes.

        Returns:
            Shape ``(P,)``, the private mean.

        Raises:
            PrivacyBudgetExceeded: the budget is spent; nothing was released.
            PrivacyViolation: the round was released before, or a sum is not finite.
        """
        self.charge(round_number)
        return self.settle(self.noised(round_number, total, votes))

    def keep_journal(self, path: str | os.PathLike[str], *, write: bool = True) -> None:
        """Record every charge in a file, and charge what the file knows of this run and the ledger doesn't.

        With it a run that was killed between two checkpoints does not forget the rounds in between. Called after
        :meth:`load_state_dict`, in every process.

        Args:
            path: the file; made when missing.
            write: False in all processes but one.

        Raises:
            OSError: the file can't be opened.
            CheckpointError: a line of it is damaged.
            PrivacyBudgetExceeded: what was spent is more than the budget.
        """
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        # One file for the run, wherever a resumed part of it logs: the state knows where.
        former = self._journal_place
        if former is not None and not Path(former).exists():
            self._ledger.add_caveat(LOST_JOURNAL)
            former = None
        place = str(path) if former is None else former
        self._journal_place = place
        for release, count in missing_charges(self._ledger, LedgerJournal.read(place, self._run_id)):
            self._ledger.charge(release, count, label=LATER)
        if write:
            self._journal = LedgerJournal(place, self._run_id)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain Python values, the ledger included."""
        return {
            "run_id": self._run_id,
            **plan_fields(self._plan),
            "noise_multiplier": self.noise_multiplier,
            "max_delta_norm": self._target.max_delta_norm,
            "adaptive": None if self._policy is None else self._policy.state_dict(),
            "next_round": self._next_round,
            "noise": self._noise.state_dict(),
            "ledger": self._ledger.state_dict(),
            "journal": self._journal_place,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; before or after :meth:`plan`.

        What this process has charged since stays charged. Noise is new, unless the source has a seed.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it is damaged, or of a run with other noise, clients, cohorts or clipping.
        """
        check_complete(state)
        own: dict[str, Any] = {"max_delta_norm": self._target.max_delta_norm}
        if self._target.noise_multiplier is not None:
            own["noise_multiplier"] = self._target.noise_multiplier
        check_same(state, own)
        if (state["adaptive"] is None) != (self._target.adaptive is None):
            raise CheckpointError(
                f"the checkpoint's clipping norm is {'fixed' if state['adaptive'] is None else 'adaptive'}, and this "
                f"ClientPrivacy has adaptive={self._target.adaptive!r}; resume with the same"
            )
        self._noise.load_state_dict(state["noise"])
        if self._accounting is not None:
            self._adopt(state)
        restore_ledger(self._ledger, state["ledger"], same_run=self._charged_here and state["run_id"] == self._run_id)
        self._multiplier = float(state["noise_multiplier"])
        self._run_id = str(state["run_id"])
        self._journal_place = state["journal"]
        self._next_round = int(state["next_round"])
        self._charged_round = None
        self._restored = dict(state)

    def _adopt(self, state: Mapping[str, Any]) -> None:
        """Take over noise and norm of a saved state, which must be of this plan."""
        check_same(state, plan_fields(self._plan))
        self._multiplier = float(state["noise_multiplier"])
        self._policy = self._target.policy(self._multiplier, self.expected_cohort_size)
        if self._policy is not None:
            self._policy.load_state_dict(state["adaptive"])

    def _label(self) -> str:
        """What a round is called in the ledger; with an adaptive norm it tells how the noise is shared out."""
        if self._policy is None:
            return "rounds"
        return f"rounds (noise {self.delta_noise_multiplier:.4g} on deltas, {self._policy.count_std:.4g} on the count)"

    def summary(self) -> str:
        """What was released and what it cost, as text."""
        return self._ledger.summary()

    def __repr__(self) -> str:
        target = self._target
        return (
            f"ClientPrivacy(delta={target.delta:g}, epsilon={target.epsilon}, noise_multiplier={self._multiplier}, "
            f"max_delta_norm={target.max_delta_norm}, adaptive={target.adaptive})"
        )


def _not_planned() -> ConfigurationError:
    return ConfigurationError("client privacy has no plan yet: call plan(num_clients, cohort, rounds) before the run")
