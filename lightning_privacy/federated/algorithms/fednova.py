"""FedNova: clients that take more steps do not pull the model further.

Example:
    >>> round(effective_steps(3, momentum=0.0), 3), round(effective_steps(3, momentum=0.9), 3)
    (3.0, 5.61)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.update import ClientUpdate

__all__ = ["FedNova", "effective_steps"]

_STEPS = "effective_steps"


def effective_steps(num_steps: int, *, momentum: float) -> float:
    """How many plain steps ``num_steps`` steps of SGD with momentum are worth: the 1-norm of the accumulation vector.

    Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", 2020, section
    4.1: ``a_k = (1 - rho^(tau - k)) / (1 - rho)`` for the gradient of step k.

    Args:
        num_steps: Local steps tau.
        momentum: Of SGD, rho, in [0, 1).
    """
    return sum((1 - momentum ** (num_steps - step)) / (1 - momentum) for step in range(num_steps))


class FedNova(Algorithm):
    """Each client's change is divided by its effective number of steps, and their mean multiplied by the mean number.

    Wang et al. 2020, equation 8, with weights proportional to the numbers of examples, so it goes with the default
    :class:`~lightning_privacy.federated.WeightedMean`. Statistics in buffers are averaged as ever.
    """

    @override
    def extra_sizes(self, model: FlatModel) -> dict[str, int]:
        return {_STEPS: 2}

    @override
    def after_client(self, local: LocalTraining, update: ClientUpdate) -> None:
        if not isinstance(local.optimizer, torch.optim.SGD):
            raise ConfigurationError(
                "FedNova knows how far steps of SGD add up, with or without momentum; configure_optimizers gives "
                f"{type(local.optimizer).__name__}"
            )
        group = local.optimizer.param_groups[0]
        if group["dampening"] != 0 or group["nesterov"]:
            raise ConfigurationError("FedNova needs SGD with dampening=0 and nesterov=False in configure_optimizers")
        steps = effective_steps(local.num_steps, momentum=float(group["momentum"]))
        update.delta[: local.model.num_parameters].div_(steps)
        examples = float(update.num_examples)
        update.extras[_STEPS] = torch.tensor([examples * steps, examples], dtype=update.delta.dtype)
        self._num_parameters = local.model.num_parameters

    @override
    def begin(self, model: FlatModel, num_clients: int) -> None:
        self._num_parameters = model.num_parameters

    @override
    def after_round(self, aggregate: Tensor, extras: Mapping[str, Tensor], num_received: int) -> Tensor:
        weighted, total = extras[_STEPS].tolist()
        if total > 0:
            aggregate = aggregate.clone()
            aggregate[: self._num_parameters].mul_(weighted / total)
        return aggregate
