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
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.accounting.target import caveat_of_delta
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.federated.aggregation import Aggregator
from lightning_privacy.federated.client_accounting import CohortAccounting
from lightning_privacy.federated.client_clipping import AdaptiveNorm, clip_delta
from lightning_privacy.federated.client_state import check_complete, check_same, plan_fields
from lightning_privacy.federated.client_target import ClientTarget
from lightning_privacy.federated.cohorts import CohortSampler
from lightning_privacy.federated.round_account import RoundAccount
from lightning_privacy.federated.round_mechanism import RoundMechanism, refuse_aggregator
from lightning_privacy.mechanisms import NoiseSource

__all__ = ["ClientPrivacy"]

_NO_PLAN = "client privacy has no plan yet: call plan(num_clients, cohort, rounds) before the run"


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
        self._account = RoundAccount(self._target.ledger(ledger))
        self._noise = NoiseSource() if noise is None else noise
        self._multiplier = noise_multiplier
        self._mechanism: RoundMechanism | None = None
        self._restored: dict[str, Any] | None = None

    @property
    def ledger(self) -> PrivacyLedger:
        """Where the rounds are charged."""
        return self._account.ledger

    @property
    def planned(self) -> bool:
        """Whether :meth:`plan` was called."""
        return self._mechanism is not None

    @property
    def needs_calibration(self) -> bool:
        """Whether the noise is chosen for a target epsilon and a number of rounds, when they are planned."""
        return self._multiplier is None

    @property
    def run_id(self) -> str:
        """Names the run in its journal; kept when it is resumed."""
        return self._account.run_id

    @property
    def max_delta_norm(self) -> float:
        """The clipping norm of the next round."""
        return self._target.max_delta_norm if self._mechanism is None else self._mechanism.max_delta_norm

    @property
    def noise_multiplier(self) -> float:
        """Noise multiplier of a round as a whole, as it is charged."""
        if self._multiplier is None:
            raise ConfigurationError(_NO_PLAN)
        return self._multiplier

    @property
    def delta_noise_multiplier(self) -> float:
        """Standard deviation of the noise on the sum of deltas, over the clipping norm."""
        return self.noise_multiplier if self._mechanism is None else self._mechanism.delta_noise_multiplier

    @property
    def expected_cohort_size(self) -> float:
        """What the noisy sum is divided by: a constant of the run."""
        return self._rounds.accounting.expected_size

    @property
    def release(self) -> Release:
        """What a round is charged as; the same for all rounds."""
        return self._rounds.release

    @property
    def _rounds(self) -> RoundMechanism:
        if self._mechanism is None:
            raise ConfigurationError(_NO_PLAN)
        return self._mechanism

    def check(self, aggregator: Aggregator) -> None:
        """Refuse an aggregator whose result one clipped client can move by more than the noise hides.

        Args:
            aggregator: the run's.

        Raises:
            ConfigurationError: it is not the unweighted mean.
        """
        refuse_aggregator(aggregator)

    def plan(self, num_clients: int, cohort: CohortSampler, rounds: int) -> None:
        """Fix what a round costs and, for a target epsilon, how much noise it gets.

        Called again for the same clients and cohorts, and any rounds, it changes nothing: the budget says when to stop.

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
        if self._mechanism is not None:
            known = self._mechanism.accounting
            if accounting != known:
                raise ConfigurationError(
                    f"this ClientPrivacy was planned for {known}, and now for {accounting}: one run has one kind of "
                    "cohort; make a new ClientPrivacy, with the same ledger if it is about the same clients"
                )
            return
        if self._multiplier is None and self._target.epsilon is not None:
            self._multiplier = accounting.calibrate(
                epsilon=self._target.epsilon, delta=self._target.delta, rounds=rounds, spent=self.ledger
            )
        self._mechanism = RoundMechanism(self._target, self.noise_multiplier, accounting)
        if self._restored is not None:
            self._adopt(self._restored)
        too_large = caveat_of_delta(self._target.delta, num_clients, "client")
        if too_large is not None:
            warnings.warn(f"{too_large} Use a smaller delta.", UserWarning, stacklevel=2)
        for caveat in (*accounting.caveats, self._noise.caveat, too_large):
            if caveat is not None:
                self.ledger.add_caveat(caveat)

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
        return clip_delta(delta, self._rounds.max_delta_norm)

    def affords_round(self) -> bool:
        """Whether one more round keeps within the budget."""
        return self.ledger.affords(self.release)

    def charge(self, round_number: int) -> None:
        """Charge a round that is about to be released.

        Args:
            round_number: the round, above all that were charged before.

        Raises:
            PrivacyBudgetExceeded: it would break the budget; nothing is charged and nothing must be released.
            PrivacyViolation: the round was charged already.
        """
        self._account.charge(round_number, self.release, self._rounds.label)

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
        self._account.refuse_uncharged(round_number)
        noisy = self._rounds.joined(round_number, total, votes)
        self._account.use(round_number)
        self._rounds.add_noise(self._noise, round_number, noisy)
        return noisy

    def settle(self, noisy: Tensor) -> Tensor:
        """Return the private mean, and move the adaptive norm for the next round.

        Args:
            noisy: shape ``(P + 1,)``, what :meth:`noised` returned.

        Returns:
            Shape ``(P,)``: the noisy sum over the expected size of a cohort.
        """
        return self._rounds.settle(noisy)

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

        So a run that was killed does not forget the rounds since its checkpoint. Called after :meth:`load_state_dict`.

        Args:
            path: the file; made when missing.
            write: False in all processes but one; each calls this.

        Raises:
            OSError: the file can't be opened.
            CheckpointError: a line of it is damaged.
            PrivacyBudgetExceeded: what was spent is more than the budget.
        """
        self._account.keep_journal(path, write=write)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain Python values, the ledger included."""
        return {
            **self._account.state_dict(),
            **plan_fields(self._rounds.accounting),
            "noise_multiplier": self.noise_multiplier,
            "max_delta_norm": self._target.max_delta_norm,
            "adaptive": self._rounds.norm_state(),
            "noise": self._noise.state_dict(),
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
        if self._mechanism is not None:
            self._adopt(state)
        self._account.load_state_dict(state)
        self._multiplier = float(state["noise_multiplier"])
        self._restored = dict(state)

    def _adopt(self, state: Mapping[str, Any]) -> None:
        """Take over noise and norm of a saved state, which must be of this plan."""
        accounting = self._rounds.accounting
        check_same(state, plan_fields(accounting))
        self._multiplier = float(state["noise_multiplier"])
        self._mechanism = RoundMechanism(self._target, self._multiplier, accounting)
        self._mechanism.load_norm_state(state["adaptive"])

    def summary(self) -> str:
        """What was released and what it cost, as text."""
        return self.ledger.summary()

    def __repr__(self) -> str:
        target = self._target
        return (
            f"ClientPrivacy(delta={target.delta:g}, epsilon={target.epsilon}, noise_multiplier={self._multiplier}, "
            f"max_delta_norm={target.max_delta_norm}, adaptive={target.adaptive})"
        )
