"""What the server does with the aggregate of a round: the choices for the server optimizer.

A round is a step of an optimizer whose gradient is minus the aggregated delta. So a server optimizer is a function
from the global parameters to a ``torch.optim`` optimizer, or to an optimizer and a scheduler that steps once a round.
Those of the literature are here; any other one is a lambda away: ``lambda parameters: torch.optim.Adam(parameters)``.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.server import FedAvgM
    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = FedAvgM(lr=1.0, momentum=0.9)([weight])
    >>> for _ in range(2):
    ...     weight.grad = -torch.tensor([0.5])  # the clients moved by 0.5 on average
    ...     optimizer.step()
    >>> weight.detach()
    tensor([2.4500])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_privacy._validate import positive
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.adaptive_server import (
    AdaptiveServerOptimizer,
    FedAdagradOptimizer,
    FedAdamOptimizer,
    FedYogiOptimizer,
)

__all__ = ["DiLoCo", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedYogi", "ServerOptimizer"]

# The second kind says no more than the first; readers of configs take classes whose objects are called for that one.
ServerOptimizer = (
    Callable[[list[nn.Parameter]], Optimizer | tuple[Optimizer, LRScheduler]] | Callable[[list[nn.Parameter]], Any]
)
"""A function from the global parameters to what steps them, once a round."""


def _fraction(**argument: object) -> float:
    """Return the one keyword argument as a float in [0, 1)."""
    ((name, value),) = argument.items()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise ConfigurationError(f"{name} must be a number in [0, 1), got {value!r}")
    return float(value)


@dataclass(frozen=True)
class FedAvg:
    """The aggregate is added to the model: ``x <- x + lr * delta``.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017; with ``lr``
    other than 1 as in Reddi et al., "Adaptive Federated Optimization", 2021, Algorithm 1.

    Args:
        lr: the server's learning rate; 1 takes the mean of the clients' models.

    Raises:
        ConfigurationError: it is not above 0.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> weight.grad = -torch.tensor([0.5])
        >>> FedAvg()([weight]).step()
        >>> weight.detach()
        tensor([1.5000])
    """

    lr: float = 1.0

    def __post_init__(self) -> None:
        positive(lr=self.lr)

    def __call__(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Return the optimizer of these parameters."""
        return torch.optim.SGD(parameters, lr=self.lr)


@dataclass(frozen=True)
class FedAvgM:
    """With momentum: ``v <- momentum * v + delta``, ``x <- x + lr * v``.

    Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019, section 4.3.

    Args:
        lr: the server's learning rate.
        momentum: in [0, 1).

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> FedAvgM(momentum=0.5)([torch.nn.Parameter(torch.zeros(1))]).defaults["momentum"]
        0.5
    """

    lr: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        positive(lr=self.lr)
        _fraction(momentum=self.momentum)

    def __call__(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Return the optimizer of these parameters."""
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)


@dataclass(frozen=True)
class DiLoCo:
    """The outer step of DiLoCo: SGD with Nesterov momentum on the mean change of the replicas.

    Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023, Algorithm 1 and
    section 3: ``v <- momentum * v + delta``, ``x <- x + lr * (delta + momentum * v)``. Made for one client to a device,
    all in every round, with hundreds of local steps of AdamW whose state the clients keep.

    Args:
        lr: the outer learning rate.
        momentum: above 0 and below 1.

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> DiLoCo()([torch.nn.Parameter(torch.zeros(1))]).defaults["nesterov"]
        True
    """

    lr: float = 0.7
    momentum: float = 0.9

    def __post_init__(self) -> None:
        positive(lr=self.lr)
        positive(momentum=self.momentum)
        _fraction(momentum=self.momentum)

    def __call__(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Return the optimizer of these parameters."""
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, nesterov=True)


@dataclass(frozen=True)
class FedAdam:
    """Adam on the server, as in :class:`~lightning_privacy.federated.adaptive_server.FedAdamOptimizer`.

    Args:
        lr: the server's learning rate.
        betas: decay of the mean and of the squares, each in [0, 1).
        tau: degree of adaptivity; added to the root of the squares, which start at its square.

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> FedAdam(lr=0.1)([torch.nn.Parameter(torch.zeros(1))]).defaults["tau"]
        0.001
    """

    lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    tau: float = 1e-3

    kind: ClassVar[type[AdaptiveServerOptimizer]] = FedAdamOptimizer

    def __post_init__(self) -> None:
        _check_adaptive(self.lr, self.betas, self.tau)

    def __call__(self, parameters: list[nn.Parameter]) -> AdaptiveServerOptimizer:
        """Return the optimizer of these parameters."""
        return self.kind(parameters, lr=self.lr, betas=self.betas, tau=self.tau)


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """Yogi on the server, as in :class:`~lightning_privacy.federated.adaptive_server.FedYogiOptimizer`.

    Args:
        lr: the server's learning rate.
        betas: decay of the mean and of the squares, each in [0, 1).
        tau: degree of adaptivity; added to the root of the squares, which start at its square.

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> FedYogi(lr=0.1)([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"]
        0.1
    """

    kind: ClassVar[type[AdaptiveServerOptimizer]] = FedYogiOptimizer


@dataclass(frozen=True)
class FedAdagrad:
    """Adagrad on the server, as in :class:`~lightning_privacy.federated.adaptive_server.FedAdagradOptimizer`.

    Args:
        lr: the server's learning rate.
        momentum: decay of the mean, in [0, 1); 0, as in the paper's experiments, has none.
        tau: degree of adaptivity; added to the root of the squares, which start at its square.

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> FedAdagrad(lr=0.1)([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"]
        0.1
    """

    lr: float = 0.01
    momentum: float = 0.0
    tau: float = 1e-3

    def __post_init__(self) -> None:
        positive(lr=self.lr)
        _fraction(momentum=self.momentum)
        positive(tau=self.tau)

    def __call__(self, parameters: list[nn.Parameter]) -> AdaptiveServerOptimizer:
        """Return the optimizer of these parameters."""
        return FedAdagradOptimizer(parameters, lr=self.lr, betas=(self.momentum, 0.0), tau=self.tau)


def _check_adaptive(lr: float, betas: tuple[float, float], tau: float) -> None:
    positive(lr=lr)
    positive(tau=tau)
    if len(betas) != 2:
        raise ConfigurationError(f"betas must be two numbers in [0, 1), got {betas!r}")
    for beta in betas:
        _fraction(betas=beta)
