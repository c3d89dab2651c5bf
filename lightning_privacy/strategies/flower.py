"""Real federations: a LightningModule and its data as a Flower client, a FederatedStrategy's server as Flower's server.

The rounds are those of :class:`~lightning_privacy.strategies.FederatedStrategy`, and with the same clients and seeds so
are the results. What differs is that clients are processes on other machines, which hold their data and send changes of
the model. Needs ``pip install 'lightning-privacy[flower]'``.

With ``client_privacy`` a client clips its change and sends it with its vote for the clipping norm and nothing else; the
server clips once more, adds noise to the sum and keeps the ledger. It receives the clipped changes themselves, so it
has to be trusted; the ledger says so.

Flower's SuperNodes start a process for each message. The client is made on the first message a process gets and used
for all further ones; what it keeps between processes is in Flower's context.

Example:
    An app has a module for each side. ``client_app.py``::

        app = client_app(Model, lambda context: silo(context.node_config["partition-id"]), STRATEGY)

    and ``server_app.py``::

        app = server_app(Model, STRATEGY, num_clients=2, num_rounds=3, checkpoint="model.ckpt")
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._lightning import LightningDataModule, LightningModule, rank_zero_info
from lightning_privacy._validate import positive
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.flower_records import array_record, flower, tensors_in
from lightning_privacy.strategies._flower_client import ClientOptions, ClientReply, FlowerClient, Task
from lightning_privacy.strategies._flower_server import FlowerServer
from lightning_privacy.strategies._flower_settings import FlowerSettings
from lightning_privacy.strategies.federated import FederatedStrategy

__all__ = ["client_app", "server_app"]

_MODEL, _TASK, _UPDATE, _FIGURES, _STATUS, _MEMORY = "model", "task", "update", "figures", "status", "memory"
_POLL_SECONDS = 0.2
_ROUNDS = "num-server-rounds"


def client_app(
    module: LightningModule | Callable[[], LightningModule],
    data: Any,
    strategy: FederatedStrategy,
    *,
    accumulate_grad_batches: int = 1,
    gradient_clip_val: float | None = None,
    gradient_clip_algorithm: str | None = None,
    device: str | torch.device | None = None,
) -> Any:
    """A Flower ``ClientApp`` that trains a module on the data of the machine it runs on.

    The number that keys a client's randomness is ``partition-id`` of its node config, or else its place among the
    nodes.

    Args:
        module: The module, or what makes it.
        data: A LightningDataModule, a train loader, or a pair (train loader, validation loader); or a function that
            makes one of these from Flower's ``Context``, whose ``node_config`` says which silo it is.
        strategy: Local work, algorithm, transforms, seed and whether there is client privacy; that of the server.
        accumulate_grad_batches: As in a trainer, for a client's steps.
        gradient_clip_val: As in a trainer, for a client's steps.
        gradient_clip_algorithm: As in a trainer.
        device: Where it trains; the accelerator, or the CPU where there is none, when None.

    Returns:
        A ``flwr.clientapp.ClientApp`` with a ``train`` and an ``evaluate`` function.

    Raises:
        ConfigurationError: Flower is not installed, or an argument is not what it should be.
        UnsupportedError: The strategy asks for something that an app has no place for.
    """
    app = flower("clientapp").ClientApp()
    settings = FlowerSettings.of(strategy)
    options = ClientOptions(accumulate_grad_batches, gradient_clip_val, gradient_clip_algorithm, device)
    made: dict[int, FlowerClient] = {}

    def client_of(context: Any) -> FlowerClient:
        if context.node_id not in made:
            made[context.node_id] = FlowerClient(_module(module), _data(data, context), settings, options)
        return made[context.node_id]

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Any, context: Any) -> Any:
        client = client_of(context)
        kept = context.state
        memory = tensors_in(kept[_MEMORY]) if _MEMORY in kept else {}
        reply = client.train(tensors_in(message.content[_MODEL]), _task(message, context), memory)
        if memory:
            kept[_MEMORY] = array_record(memory)
        return _packed(reply, message)

    @app.evaluate()  # type: ignore[untyped-decorator]
    def evaluate(message: Any, context: Any) -> Any:
        reply = client_of(context).evaluate(tensors_in(message.content[_MODEL]), _task(message, context))
        return _packed(reply, message)

    return app


def server_app(
    module: LightningModule | Callable[[], LightningModule],
    strategy: FederatedStrategy,
    *,
    num_clients: int,
    num_rounds: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    evaluate: bool = False,
    round_timeout: float = 3600.0,
    connect_timeout: float = 3600.0,
    on_round: Callable[[LightningModule, dict[str, Any]], None] | None = None,
) -> Any:
    """A Flower ``ServerApp`` that runs a strategy's rounds over the nodes that are connected.

    Args:
        module: The global model, or what makes it.
        strategy: Cohorts, server optimizer, aggregator, transforms, ``min_clients`` and client privacy.
        num_clients: Nodes of the federation; the first round waits for them, and further nodes stay out.
        num_rounds: Rounds of the run; fewer when client privacy's budget is spent before. None: ``num-server-rounds``
            of the app's config, which ``flwr run --run-config`` can override.
        checkpoint: Written after each round (weights in ``state_dict``), and gone on from when it exists.
        evaluate: Ask all clients for the metrics of the global model on their validation data after each round. These
            are not private: with client privacy the ledger says so.
        round_timeout: Seconds that clients have for a round; those that are late are left out.
        connect_timeout: Seconds to wait for ``num_clients`` nodes.
        on_round: Called with the module and the round's figures after each round.

    Returns:
        A ``flwr.serverapp.ServerApp``.

    Raises:
        ConfigurationError: Flower is not installed, or an argument is not what it should be.
        UnsupportedError: The strategy asks for something that an app has no place for.
    """
    app = flower("serverapp").ServerApp()
    settings = FlowerSettings.of(strategy)
    positive(round_timeout=round_timeout)
    positive(connect_timeout=connect_timeout)

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        rounds = context.run_config.get(_ROUNDS) if num_rounds is None else num_rounds
        if rounds is None:
            raise ConfigurationError(
                f"give num_rounds to server_app, or write {_ROUNDS} in [tool.flwr.app.config] of the pyproject.toml"
            )
        server = FlowerServer(
            _module(module), settings, num_clients=num_clients, num_rounds=rounds, checkpoint=checkpoint
        )
        privacy = settings.plan.privacy
        if privacy is not None and evaluate:
            privacy.ledger.add_caveat(
                "Clients sent metrics of the global model on their validation data, without noise (evaluate=True); "
                "epsilon is about the model."
            )
        nodes = _Nodes(grid, server.num_clients, connect_timeout)
        while not server.done:
            tasks = server.open_round()
            entry = server.close_round(tasks, nodes.ask(server, tasks, "train", round_timeout))
            if evaluate:
                tested = {client: server.task(client) for client in range(server.num_clients)}
                entry |= _weighted(nodes.ask(server, tested, "evaluate", round_timeout).values())
            rank_zero_info(", ".join(f"{name}={value}" for name, value in entry.items() if isinstance(value, float)))
            if on_round is not None:
                on_round(server.module, entry)
        if privacy is not None:
            rank_zero_info(privacy.summary())

    return app


class _Nodes:
    """The nodes of a federation by client number, and how they are asked.

    Args:
        grid: Flower's.
        count: Clients of the federation.
        timeout: Seconds to wait for them.

    Raises:
        ConfigurationError: They did not come.
    """

    def __init__(self, grid: Any, count: int, timeout: float) -> None:
        self._grid = grid
        end = time.monotonic() + timeout
        while len(found := sorted(grid.get_node_ids())) < count:
            if time.monotonic() > end:
                raise ConfigurationError(
                    f"{len(found)} of num_clients={count} nodes are connected after {timeout:g} s; start the other "
                    "SuperNodes, or raise connect_timeout"
                )
            time.sleep(_POLL_SECONDS)
        self._node_of = dict(enumerate(found[:count]))

    def ask(
        self, server: FlowerServer, tasks: Mapping[int, Task], message_type: str, timeout: float
    ) -> dict[int, ClientReply]:
        """Send tasks with the global model, and wait for the answers."""
        self._refill()
        app = flower("app")
        model = array_record(server.weights())
        messages, client_of = [], {self._node_of[client]: client for client in tasks}
        connected = set(self._grid.get_node_ids())
        for client, task in tasks.items():
            if self._node_of[client] in connected:
                content = app.RecordDict({_MODEL: model, _TASK: app.ConfigRecord(_plain(task))})
                messages.append(
                    app.Message(content, self._node_of[client], message_type, group_id=str(task.round_number))
                )
        replies = self._grid.send_and_receive(messages, timeout=timeout) if messages else []
        return {client_of[reply.metadata.src_node_id]: _unpacked(reply) for reply in replies}

    def _refill(self) -> None:
        """Give the places of nodes that left to nodes that came, as a SuperNode that starts anew is another node."""
        connected = sorted(self._grid.get_node_ids())
        free = [node for node in connected if node not in self._node_of.values()]
        for client, node in self._node_of.items():
            if node not in connected and free:
                self._node_of[client] = free.pop(0)


def _module(module: Any) -> LightningModule:
    made = module if isinstance(module, LightningModule) else module() if callable(module) else module
    if not isinstance(made, LightningModule):
        raise ConfigurationError(f"module must be a LightningModule or a function that makes one, got {made!r}")
    return made


def _data(data: Any, context: Any) -> Any:
    if isinstance(data, LightningDataModule | tuple) or hasattr(data, "__iter__"):
        return data
    if not callable(data):
        raise ConfigurationError(
            f"data must be a LightningDataModule, a loader, a pair of loaders, or a function of Flower's Context that "
            f"makes one of them, got {data!r}"
        )
    return data(context)


def _plain(task: Task) -> dict[str, int | float | str]:
    values: dict[str, int | float | str] = {
        "round": task.round_number,
        "client": task.client,
        "settings": task.fingerprint,
    }
    return values if task.max_delta_norm is None else values | {"max_delta_norm": task.max_delta_norm}


def _task(message: Any, context: Any) -> Task:
    """The server's task; a silo that knows its own number goes by that."""
    sent = message.content[_TASK]
    own = context.node_config.get("partition-id")
    client = own if isinstance(own, int) and not isinstance(own, bool) and own >= 0 else sent["client"]
    return Task(int(sent["round"]), int(client), str(sent["settings"]), sent.get("max_delta_norm"))


def _packed(reply: ClientReply, message: Any) -> Any:
    app = flower("app")
    records: dict[str, Any] = {
        _FIGURES: app.MetricRecord(dict(reply.metrics)),
        _STATUS: app.ConfigRecord({"increments": reply.increments, "failure": reply.failure or ""}),
    }
    if reply.tensors:
        records[_UPDATE] = array_record(reply.tensors)
    return app.Message(app.RecordDict(records), reply_to=message)


def _unpacked(message: Any) -> ClientReply:
    """What a client sent, or its error."""
    if message.has_error():
        return ClientReply(failure=str(message.error.reason))
    content = message.content
    tensors: dict[str, Tensor] = tensors_in(content[_UPDATE]) if _UPDATE in content else {}
    status = content[_STATUS]
    metrics = {name: float(value) for name, value in content[_FIGURES].items()}
    increments = [float(value) for value in status["increments"]]
    return ClientReply(tensors, increments, metrics, str(status["failure"]) or None)


def _weighted(replies: Iterable[ClientReply]) -> dict[str, float]:
    """Means of the clients' metrics, weighted by their validation examples; those that failed are left out."""
    sums: dict[str, tuple[float, float]] = {}
    for reply in replies:
        weight = reply.metrics.get("num_examples", 0.0) if reply.failure is None else 0.0
        for name, value in reply.metrics.items():
            if name != "num_examples" and weight > 0:
                total, seen = sums.get(name, (0.0, 0.0))
                sums[name] = (total + weight * value, seen + weight)
    return {name: total / seen for name, (total, seen) in sums.items()}
