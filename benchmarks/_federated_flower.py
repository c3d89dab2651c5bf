"""Federated averaging in Flower's simulation: a server app, a client app, Ray actors that train."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import Tensor

__all__ = ["simulate"]


@functools.cache
def _held(setting: Any) -> tuple[tuple[Tensor, Tensor], list[Tensor], Any]:
    """Data, parts and network of an actor: made once in each process, not for every client."""
    return setting.data(), setting.parts(), setting.build()


def _train(setting: Any, rate: float, message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    (inputs, targets), parts, model = _held(setting)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    order = parts[int(context.node_config["partition-id"])][torch.randperm(setting.examples)]
    x, y = inputs[order], targets[order]
    for first in range(0, setting.examples, setting.batch):
        optimizer.zero_grad()
        rows = slice(first, first + setting.batch)
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": setting.examples}),
    }
    return Message(content=RecordDict(content), reply_to=message)


def simulate(setting: Any, rounds: int, rate: float, after_round: Callable[[], None]) -> None:
    """Train.

    Args:
        setting: The federation.
        rounds: How many.
        rate: Of the clients' SGD.
        after_round: Called after every round, and once before the first, when everything has started.
    """
    client, server = ClientApp(), ServerApp()
    client.train()(functools.partial(_train, setting, rate))

    def evaluate(*_: Any) -> MetricRecord:
        after_round()
        return MetricRecord()

    @server.main()
    def main(grid: Grid, _: Context) -> None:
        # The strategy takes its share of the nodes that are there when a round begins.
        while len(list(grid.get_node_ids())) < setting.clients:
            time.sleep(0.2)
        strategy = FedAvg(
            fraction_train=setting.cohort / setting.clients,
            fraction_evaluate=0.0,
            min_available_nodes=setting.clients,
        )
        arrays = ArrayRecord(setting.build().state_dict())
        strategy.start(grid, arrays, num_rounds=rounds, train_config=ConfigRecord({}), evaluate_fn=evaluate)

    run_simulation(
        server,
        client,
        num_supernodes=setting.clients,
        backend_config={
            "init_args": {"num_cpus": setting.threads, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
