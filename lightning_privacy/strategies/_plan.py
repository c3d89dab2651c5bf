"""How the rounds of a fit go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.aggregation import Aggregator
from lightning_privacy.federated.algorithms import Algorithm, FedProx
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.cohorts import CohortSampler
from lightning_privacy.federated.example_privacy import ExamplePrivacy
from lightning_privacy.federated.failures import SimulatedFailures
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.federated.transforms import DeltaTransform

__all__ = ["Plan", "clients_at_once"]

_AT_ONCE = 32


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
        example_privacy: Makes the local steps private.
        vectorize: How many clients are trained at once; 1 for one after the other.

    Raises:
        ConfigurationError: Two of them don't go together.
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
    example_privacy: ExamplePrivacy | None = None
    vectorize: int = 1

    def __post_init__(self) -> None:
        if self.secure_sum is not None:
            self.secure_sum.check(self.aggregator)
        if self.example_privacy is not None:
            self._check_example_privacy()
        if self.vectorize > 1:
            self._check_vectorize()

    def _check_example_privacy(self) -> None:
        if not isinstance(self.example_privacy, ExamplePrivacy):
            raise ConfigurationError(f"example_privacy must be an ExamplePrivacy or None, got {self.example_privacy!r}")
        if self.privacy is not None and self.example_privacy.budget is not None:
            raise ConfigurationError(
                f"example_privacy has epsilon={self.example_privacy.budget:g} together with client_privacy: when its "
                "clients can pay no more follows from how many examples each holds, which client_privacy protects. "
                "Leave epsilon out of example_privacy; its noise_multiplier and max_epochs say what examples cost"
            )
        for part in (self.algorithm, self.aggregator):
            if part.needs_initial_loss:
                raise ConfigurationError(
                    f"{type(part).__name__} needs the loss of the global model on each client's examples, which is no "
                    "part of what example_privacy protects: use another one with it"
                )

    def _check_vectorize(self) -> None:
        """Refuse what needs the clients one after the other."""
        reason = None
        if self.example_privacy is not None:
            reason = "example_privacy takes each client's gradients apart by itself"
        elif self.privacy is not None:
            # A count or a list that a module keeps would be seen by all clients of a stack, and bind them together.
            reason = "client_privacy needs that nothing of one client is in the module while another one is trained"
        elif self.persistent_optimizer:
            reason = "persistent_optimizer=True gives the clients of a round optimizers of different ages"
        elif not self.algorithm.vectorizes:
            reason = f"{type(self.algorithm).__name__} does not say that it may run on several clients at once"
        if reason is not None:
            raise ConfigurationError(f"vectorize={self.vectorize} is not supported here: {reason}; set vectorize=False")

    @property
    def private(self) -> bool:
        """Whether some guarantee rests on it that nothing of one client is left in the module for the next."""
        return self.privacy is not None or self.example_privacy is not None

    def add_caveat(self, text: str) -> None:
        """Say in every ledger of the fit what it does not cover."""
        if self.privacy is not None:
            self.privacy.ledger.add_caveat(text)
        if self.example_privacy is not None:
            self.example_privacy.add_caveat(text)

    @property
    def keeps_memory(self) -> bool:
        """Whether the algorithm may keep something for each client."""
        return type(self.algorithm) not in (Algorithm, FedProx)


def clients_at_once(vectorize: bool | int) -> int:
    """How many clients are trained at once, given what the user says.

    Raises:
        ConfigurationError: A number below 1.
    """
    if isinstance(vectorize, bool):
        return _AT_ONCE if vectorize else 1
    return positive_int(vectorize=vectorize)
