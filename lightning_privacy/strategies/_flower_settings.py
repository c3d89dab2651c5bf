"""What a Flower app takes from a FederatedStrategy, and what of it an app can't do."""

from __future__ import annotations

import json
from dataclasses import dataclass

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.federated.algorithms import Algorithm
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.federated.server import ServerOptimizer
from lightning_privacy.federated.transforms import DeltaTransform
from lightning_privacy.strategies._plan import Plan
from lightning_privacy.strategies.federated import FederatedStrategy

__all__ = ["FlowerSettings", "check_algorithm"]


@dataclass(frozen=True)
class FlowerSettings:
    """The parts of a strategy that both sides of a federation must have alike.

    Args:
        plan: How rounds go.
        server_optimizer: Of the server.
        local_epochs: Of a client in a round; or
        local_steps: steps of a client in a round.
        rounds_per_epoch: How many rounds a scheduler of the clients' learning rate takes for an epoch.
    """

    plan: Plan
    server_optimizer: ServerOptimizer
    local_epochs: int | None
    local_steps: int | None
    rounds_per_epoch: int

    @classmethod
    def of(cls, strategy: FederatedStrategy) -> FlowerSettings:
        """Take a strategy apart.

        Args:
            strategy: The user's; its partition is not used, as clients hold their own data.

        Raises:
            ConfigurationError: It is no FederatedStrategy.
            UnsupportedError: It asks for something that an app has no place for; the message names it.
        """
        if not isinstance(strategy, FederatedStrategy):
            raise ConfigurationError(f"strategy must be a FederatedStrategy, got {type(strategy).__name__}")
        plan = strategy._plan
        for part in (plan.aggregator, plan.algorithm, *plan.transforms):
            if isinstance(part, SecureSum):
                raise UnsupportedError(
                    "SecureSum is not supported in a Flower app: its parties exchange keys and shares, and the apps' "
                    "messages carry changes of the model only. Leave it out, and the server sees every client's "
                    "change, or sum over ranks with FederatedStrategy"
                )
            if not isinstance(part, DeltaTransform) and part in plan.transforms:
                raise ConfigurationError(f"transforms must hold DeltaTransform objects, got {type(part).__name__}")
        if not plan.aggregator.linear:
            raise UnsupportedError(
                f"aggregator {plan.aggregator!r} is not linear: a Flower app adds up changes as they arrive and keeps "
                "none of them. Use WeightedMean()"
            )
        if plan.aggregator.needs_initial_loss:
            raise UnsupportedError(
                f"aggregator {plan.aggregator!r} needs the loss before training, which the apps don't send; use "
                "WeightedMean()"
            )
        if plan.persistent_optimizer:
            raise UnsupportedError(
                "persistent_optimizer=True is not supported in a Flower app, whose clients begin each round with a new "
                "optimizer; set persistent_optimizer=False"
            )
        if strategy._personal:
            raise UnsupportedError(
                f"personal={list(strategy._personal)} is not supported in a Flower app: every parameter is sent; "
                "remove it"
            )
        if plan.vectorize > 1:
            raise UnsupportedError("vectorize is for clients simulated in one process; leave it out in a Flower app")
        if plan.example_privacy is not None:
            raise UnsupportedError(
                "example_privacy is not supported in a Flower app: its clients have no ledgers of their own; leave it "
                "out, or use client_privacy"
            )
        if plan.failures is not None:
            raise UnsupportedError("failures= simulates what happens in a real federation by itself; remove it")
        if plan.privacy is not None:
            plan.privacy.check(plan.aggregator)
        return cls(plan, strategy._server, strategy._work.epochs, strategy._work.steps, strategy.rounds_per_epoch)

    @property
    def fingerprint(self) -> str:
        """What a server sends for its clients to compare with their own; text."""
        plan = self.plan
        described = {
            **plan.algorithm.describe(),
            "transforms": [repr(transform) for transform in plan.transforms],
            "local_epochs": self.local_epochs,
            "local_steps": self.local_steps,
            "rounds_per_epoch": self.rounds_per_epoch,
            "seed": plan.seed,
            "client_privacy": plan.privacy is not None,
        }
        return json.dumps(described, sort_keys=True)

    def flat_model(self, module: object) -> FlatModel:
        """The vector of a module that changes and noise are about."""
        model = FlatModel(module, statistics_only=self.plan.privacy is not None)  # type: ignore[arg-type]
        check_algorithm(self.plan.algorithm, model)
        return model


def check_algorithm(algorithm: Algorithm, model: FlatModel) -> None:
    """Refuse an algorithm whose server does more than step along the mean.

    Raises:
        UnsupportedError: Its clients send further vectors, or its server keeps or changes something.
    """
    kind = type(algorithm)
    server_side = ("after_round", "state_dict", "load_state_dict")
    own = [name for name in server_side if getattr(kind, name) is not getattr(Algorithm, name)]
    if algorithm.extra_sizes(model) or own or algorithm.needs_initial_loss:
        raise UnsupportedError(
            f"algorithm={kind.__name__} has state on the server or sends more than a change of the model, for which "
            "the apps' messages have no place: use federated averaging, FedProx or Ditto"
        )
