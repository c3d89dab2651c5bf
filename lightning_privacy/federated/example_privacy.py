"""Differential privacy of the examples inside each client: local training is DP-SGD, with an account for every client.

Each local step draws a Poisson sample of the client's own examples, clips the gradient of each, and adds noise (Abadi
et al., "Deep Learning with Differential Privacy", 2016, Algorithm 1). So what a client sends, and everything that is
made of it, is private towards everybody who sees it, the server and the other clients included. The guarantee is one of
an example; that of a whole client is :class:`~lightning_privacy.federated.ClientPrivacy`, and both may be asked for:
each then holds with its own epsilon, for its own unit, and neither noise counts for the other.

Clients differ in size, hence in sample rate, hence in epsilon: each is charged for the steps it took, and only where it
took part.

Example:
    >>> privacy = ExamplePrivacy(delta=1e-5, noise_multiplier=1.0)
    >>> privacy.plan([1000, 20], batch_size=10, steps=[100, 2])
    >>> privacy.charge([0, 1])
    >>> privacy.ledger(0).history
    [(SampledGaussian(noise_multiplier=1.0, sample_rate=0.01), 100, 'local training')]
    >>> step = privacy.begin_step(1)
    >>> 0 <= len(privacy.draw(1, step)) <= 20
    True
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_privacy._validate import positive_int
from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.target import check_target
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyBudgetExceeded, PrivacyViolation
from lightning_privacy.federated.client_draws import ClientDraws
from lightning_privacy.federated.client_ledgers import ClientLedgers
from lightning_privacy.federated.client_state import LOST_JOURNAL
from lightning_privacy.federated.example_costs import ClientCost
from lightning_privacy.federated.example_journal import ExampleJournal
from lightning_privacy.gradients.clipping import ClippingPolicy, clipping_policy
from lightning_privacy.mechanisms import NoiseSource

__all__ = ["ExamplePrivacy"]

_LABEL = "local training"
_LATER = "steps after the checkpoint"


class ExamplePrivacy:
    """Makes the local steps of every client DP-SGD, and keeps a ledger for each.

    A step's expected batch is the loader's ``batch_size`` times ``accumulate_grad_batches``, or the client's whole data
    set where that is smaller; a local epoch has as many steps as without privacy. The loss must be the mean over the
    batch of one loss per example. How many examples a client holds is taken as known: the mean is weighted by it.

    Args:
        delta: Of each client's guarantee, in (0, 1); below one over the number of examples of the largest client.
        noise_multiplier: Standard deviation of a step's noise over ``max_grad_norm``. 0 is not private.
        epsilon: What the training of one client may cost over all rounds. A client that could not pay for the whole of
            its local training takes no part in a round; when none can, training ends. None: no limit.
        max_grad_norm: Bound on the norm of one example's gradient; see :class:`~lightning_privacy.DifferentialPrivacy`.
        clipping: ``"flat"``, ``"per_layer"``, ``"automatic"``, or a policy whose bound stays what it is.
        probe: Check before the first round, on a copy of the module, that examples don't change what others contribute.
        noise: Where noise and draws come from; the operating system by default. A seeded source makes the run
            reproducible and NOT PRIVATE.

    Raises:
        ConfigurationError: An argument is out of range, or the clipping bound would follow one client's data into the
            training of the next.

    Example:
        >>> ExamplePrivacy(delta=1e-5, noise_multiplier=0.8, epsilon=4.0).clients
        []
    """

    def __init__(
        self,
        *,
        delta: float,
        noise_multiplier: float,
        epsilon: float | None = None,
        max_grad_norm: float | Sequence[float] | Mapping[str, float] = 1.0,
        clipping: str | ClippingPolicy = "flat",
        probe: bool = True,
        noise: NoiseSource | None = None,
    ) -> None:
        check_target(delta=delta, epsilon=epsilon, noise_multiplier=noise_multiplier, steps="the run's rounds")
        if noise is not None and not isinstance(noise, NoiseSource):
            raise ConfigurationError(f"noise must be a NoiseSource, got {noise!r}")
        self.delta = delta
        self.noise_multiplier = float(noise_multiplier)
        self.budget = epsilon
        self.probe = probe
        self.clipping = clipping_policy(clipping, max_grad_norm)
        _refuse_moving_bound(self.clipping)
        self.noise = NoiseSource() if noise is None else noise
        self._draws = ClientDraws(self.noise)
        self._run_id = secrets.token_hex(8)
        self._sizes: list[int] = []
        self._steps: list[int] = []
        self._batch_size = 0
        self._clients: dict[str, Any] = {}
        self._ledgers = ClientLedgers(delta=delta, budget=epsilon)
        self._participations: dict[int, int] = {}
        self._paid: dict[int, int] = {}
        self._journal: ExampleJournal | None = None
        self._journal_place: str | None = None
        self._restored: dict[str, Any] | None = None
        if self.noise.caveat is not None:
            self.add_caveat(self.noise.caveat)

    @property
    def clients(self) -> list[int]:
        """Those that were charged, in order."""
        return self._ledgers.clients

    @property
    def run_id(self) -> str:
        """Names the run in its journal; kept when it is resumed."""
        return self._run_id

    @property
    def caveats(self) -> tuple[str, ...]:
        """What limits the guarantee without being a release."""
        return self._ledgers.caveats

    def add_caveat(self, text: str) -> None:
        """Add a limit of the guarantee to the summary and to every ledger, once."""
        self._ledgers.add_caveat(text)

    def ledger(self, client: int) -> PrivacyLedger:
        """What was released of one client's examples; empty before it took part."""
        return self._ledgers.ledger(client)

    def participations(self, client: int) -> int:
        """In how many rounds a client has trained."""
        return self._participations.get(client, 0)

    def plan(
        self,
        sizes: Sequence[int],
        *,
        batch_size: int,
        steps: Sequence[int],
        clients: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what the clients hold, and what taking part means.

        Args:
            sizes: Examples of each client.
            batch_size: Examples a step has on average, where a client has as many.
            steps: Optimizer steps that each takes in a round.
            clients: Who holds which examples, in plain types.

        Raises:
            ConfigurationError: The run began with other clients.
            CheckpointError: The restored state is of other clients or other steps.
            PrivacyBudgetExceeded: What the restored state and the journal know is more than the budget.
        """
        batch_size = positive_int(batch_size=batch_size)
        federation = (list(sizes), batch_size, {} if clients is None else dict(clients))
        if self.clients and federation != (self._sizes, self._batch_size, self._clients):
            raise ConfigurationError(
                "this ExamplePrivacy has ledgers of clients who hold other examples or train with another batch size: "
                "one object is for one federation; make a new one, and add up by hand what both cost where the people "
                "are the same"
            )
        self._sizes, self._batch_size, self._clients = federation
        self._steps = [int(count) for count in steps]
        if self._restored is not None:
            restored, self._restored = self._restored, None
            self._adopt(restored)

    def expected_batch_size(self, client: int) -> float:
        """Examples of a step of this client on average, a constant."""
        return float(min(self._batch_size, self._sizes[client]))

    def sample_rate(self, client: int) -> float:
        """Probability of each of its examples to be in a step."""
        return self.expected_batch_size(client) / self._sizes[client]

    def steps(self, client: int) -> int:
        """Steps of the client's local training in a round."""
        return self._steps[client]

    def release(self, client: int) -> Release:
        """What a step of this client is charged as."""
        return self.clipping.release(self.noise_multiplier, self.sample_rate(client))

    def affords(self, client: int) -> bool:
        """Whether the budget pays for one more round of this client; always, without one."""
        return self._ledgers.affords(self._cost(client, further=self._steps[client]))

    def _cost(self, client: int, *, further: int = 0) -> ClientCost:
        release = self.release(client)
        return ClientCost(release, self.sample_rate(client), self.ledger(client).count(release) + further)

    def charge(self, clients: Sequence[int]) -> None:
        """Charge the whole local training of those who train in a round, before the first of their steps.

        Args:
            clients: Those of all processes; every process calls this alike.

        Raises:
            PrivacyBudgetExceeded: One of them can't pay; nothing is charged.
        """
        unable = [client for client in clients if not self.affords(client)]
        if unable:
            raise PrivacyBudgetExceeded(
                f"client {unable[0]} can't train another round within epsilon={self.budget:g} at delta={self.delta:g}"
            )
        if self._journal is not None and clients:
            totals = {client: self._cost(client, further=self._steps[client]).count for client in clients}
            self._journal.record(totals)
        for client in clients:
            self._charge(client, self._steps[client], _LABEL)
            self._participations[client] = self.participations(client) + 1
            self._paid[client] = self._steps[client]

    def _charge(self, client: int, count: int, label: str) -> None:
        self._ledgers.charge(client, self.release(client), self.sample_rate(client), count, label)

    def begin_step(self, client: int) -> int:
        """Take one of the steps that were paid for this client; returns its number over the whole run.

        Raises:
            PrivacyViolation: There is none left.
        """
        left = self._paid.get(client, 0)
        if left < 1:
            raise PrivacyViolation(
                f"client {client} is about to make a private step that nobody paid for: charge() comes before local "
                "training, for as many steps as it has"
            )
        self._paid[client] = left - 1
        return self._cost(client).count - left

    def draw(self, client: int, step: int) -> NDArray[np.int64]:
        """Positions in the client's data of a step's examples: each with the sample rate, independently.

        Args:
            client: The client.
            step: What :meth:`begin_step` gave.
        """
        return self._draws.draw(client, step, size=self._sizes[client], sample_rate=self.sample_rate(client))

    def noise_step(self, client: int, step: int) -> int:
        """The number under which a step's noise is drawn: no two steps of any clients have the same."""
        return self._draws.noise_step(client, step)

    def exhausted(self) -> bool:
        """Whether no client can pay for another round."""
        return self.budget is not None and not any(self.affords(client) for client in range(len(self._sizes)))

    def epsilon(self, client: int | None = None, *, exact: bool = False) -> float:
        """Epsilon of one client's examples so far, or the largest over the clients.

        Args:
            client: The client; None for the largest.
            exact: As in :meth:`PrivacyLedger.epsilon`.
        """
        return self._ledgers.epsilon(client, exact=exact)

    def epsilon_bound(self) -> float:
        """What no client's epsilon is above: that of the most steps at the largest rate; quick to ask every round."""
        return self._ledgers.epsilon_bound()

    def weakest_ledger(self) -> PrivacyLedger:
        """The ledger of a client whose examples have the largest epsilon; an empty one before anyone took part."""
        worst = self._ledgers.weakest()
        return self.ledger(0 if worst is None else worst)

    def summary(self) -> str:
        """A text about the guarantee: the client for which it is weakest, how many there are, what limits it."""
        worst = self._ledgers.weakest()
        if worst is None:
            return f"Example-level privacy inside each client at delta={self.delta:g}: nothing was released."
        spent = epsilon_text(self.epsilon(worst, exact=True), budget=self.budget)
        cost, rounds = self._cost(worst), [self.participations(client) for client in self.clients]
        text = (
            f"Example-level privacy inside each client: epsilon at most {spent} at delta={self.delta:g}, with noise "
            f"multiplier {self.noise_multiplier:g} and {self.clipping!r}.\n"
            f"That is client {worst}: {self._sizes[worst]} examples, {self.participations(worst)} rounds, {cost.count} "
            f"steps at sample rate {cost.rate:.4g}.\n"
            f"{len(self.clients)} of {len(self._sizes)} clients took part, in {min(rounds)} to {max(rounds)} rounds."
        )
        return "\n".join([text, *(f"Caveat: {text}" for text in self.caveats)])

    def keep_journal(self, path: str | os.PathLike[str], *, write: bool = True) -> None:
        """Write down from now on what each round costs, before it happens, and charge what the file knows already.

        Args:
            path: The file, of this run alone.
            write: Whether this process writes.

        Raises:
            CheckpointError: The file is damaged.
            OSError: It can't be read or written.
        """
        # One file for the run, wherever a resumed part of it logs: the state knows where.
        former = self._journal_place
        if former is not None and not Path(former).exists():
            self.add_caveat(LOST_JOURNAL)
            former = None
        place = str(path) if former is None else former
        self._journal_place = place
        for client, total in ExampleJournal.read(place, self._run_id).items():
            lost = total - self._cost(client).count
            if lost > 0:
                self._charge(client, lost, _LATER)
        if write and self._journal is None:
            self._journal = ExampleJournal(place, self._run_id)
            self._journal.record({client: self._cost(client).count for client in self.clients})

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; plain types, and nothing that tells a draw or a noise."""
        return {
            "run_id": self._run_id,
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "clipping": self.clipping.describe(),
            "batch_size": self._batch_size,
            "noise": self.noise.state_dict(),
            "steps": {client: self._cost(client).count for client in self.clients},
            "participations": dict(sorted(self._participations.items())),
            "journal": self._journal_place,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; checked and charged by :meth:`plan`.

        Raises:
            CheckpointError: It is damaged.
        """
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise CheckpointError(f"the saved state of example privacy lacks {', '.join(missing)}; it is damaged")
        self._restored = dict(state)
        if self._sizes:
            restored, self._restored = self._restored, None
            self._adopt(restored)

    def _adopt(self, state: Mapping[str, Any]) -> None:
        own = self.state_dict()
        for name in ("delta", "noise_multiplier", "clipping", "batch_size"):
            if state[name] != own[name]:
                raise CheckpointError(
                    f"the checkpoint's example privacy has {name}={state[name]!r}, this one has {own[name]!r}: the "
                    f"ledgers would no longer describe the steps; resume with the same {name}"
                )
        self.noise.load_state_dict(state["noise"])
        run_id = str(state["run_id"])
        if self.clients and run_id != self._run_id:
            raise CheckpointError(
                "the checkpoint is of another run than the one this ExamplePrivacy has ledgers of, and what both spent "
                "on a client would not be added up: resume with a new ExamplePrivacy"
            )
        self._run_id, self._journal_place = run_id, state["journal"]
        for client, total in state["steps"].items():
            lost = int(total) - self._cost(int(client)).count
            if lost > 0:
                self._charge(int(client), lost, _LABEL)
        for client, rounds in state["participations"].items():
            self._participations[int(client)] = max(self.participations(int(client)), int(rounds))


def _refuse_moving_bound(policy: ClippingPolicy) -> None:
    if policy.state_dict() or policy.counts(torch.zeros(0, 1)) is not None:
        raise ConfigurationError(
            f"clipping={policy!r} moves its bound from step to step, and clients train one after the other: the bound "
            "of one would follow the data of those before. Use 'flat', 'per_layer' or 'automatic'"
        )
