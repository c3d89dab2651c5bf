"""SCAFFOLD: control variates against the drift of clients whose data differ.

Example:
    >>> Scaffold().describe()
    {'algorithm': 'Scaffold'}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.update import ClientUpdate

__all__ = ["Scaffold"]

_CONTROL = "control"


class Scaffold(Algorithm):
    """Every local gradient is corrected by ``c - c_i``, the server's control variate minus the client's.

    Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", 2020, algorithm 1 with
    option II: after K steps of rate eta a client's control variate becomes ``c_i - c + (x - y_i) / (K eta)``, and the
    server's moves by the sum of the changes over the number of clients. The derivation is for plain SGD.

    The paper averages clients with equal weights: ``aggregator=WeightedMean(weighted=False)``. Every client that has
    taken part keeps a vector of the model's size, in memory and in checkpoints.
    """

    def __init__(self) -> None:
        self._control: Tensor | None = None
        self._num_clients = 0

    @override
    def begin(self, model: FlatModel, num_clients: int) -> None:
        self._num_clients = num_clients
        if self._control is None or self._control.numel() != model.num_parameters:
            self._control = model.new_vector()[: model.num_parameters]
        self._control = self._control.to(model.device)

    @override
    def extra_sizes(self, model: FlatModel) -> dict[str, int]:
        return {_CONTROL: model.num_parameters}

    def _server_control(self) -> Tensor:
        if self._control is None:
            raise ConfigurationError("Scaffold was used before begin() gave it a model")
        return self._control

    @override
    def before_client(self, local: LocalTraining) -> None:
        _check_plain(local)
        control = self._server_control()
        own = local.memory.get(_CONTROL)
        correction = control.clone() if own is None else control - own.to(control)
        local.scratch[_CONTROL] = local.model.parameter_views(correction)

    @override
    def before_step(self, local: LocalTraining) -> None:
        local.add_to_gradients(local.scratch[_CONTROL])

    @override
    @torch.no_grad()
    def after_client(self, local: LocalTraining, update: ClientUpdate) -> None:
        control = self._server_control()
        own = local.memory.get(_CONTROL)
        before = torch.zeros_like(control) if own is None else own.to(control)
        moved = update.delta[: local.model.num_parameters]
        change = -control - moved / (local.num_steps * local.learning_rate)
        update.extras[_CONTROL] = change
        local.memory[_CONTROL] = (before + change).to("cpu", copy=True)

    @override
    def after_round(self, aggregate: Tensor, extras: Mapping[str, Tensor], num_received: int) -> Tensor:
        self._server_control().add_(extras[_CONTROL] / self._num_clients)
        return aggregate

    @override
    def state_dict(self) -> dict[str, Any]:
        return {_CONTROL: self._server_control().to("cpu", copy=True)}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._control = state[_CONTROL].to(self._server_control())


def _check_plain(local: LocalTraining) -> None:
    optimizer = local.optimizer
    groups = optimizer.param_groups
    plain = isinstance(optimizer, torch.optim.SGD) and all(
        group["momentum"] == 0 and group["weight_decay"] == 0 and group["lr"] == groups[0]["lr"] for group in groups
    )
    if not plain:
        raise ConfigurationError(
            "Scaffold reads a client's mean gradient off its change, which needs plain SGD in configure_optimizers: "
            f"one learning rate, momentum=0, weight_decay=0; got {type(optimizer).__name__} with {optimizer.defaults}"
        )
