"""The apps with Flower's own records and messages, and a grid that hands them over within one process."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.federated.aggregation import CoordinateMedian
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.flower_records import array_record, flower, tensors_in
from lightning_privacy.federated.partitions import IIDPartition
from lightning_privacy.federated.transforms import TopK
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.strategies import FederatedStrategy
from lightning_privacy.strategies.flower import client_app, server_app

needs_flower = pytest.mark.skipif(
    find_spec("flwr") is None, reason="flwr is not installed: pip install 'lightning-privacy[flower]'"
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning_privacy.mechanisms.noise.SeededNoiseWarning"),
    # Flower's and its dependencies' own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
PARTS = IIDPartition(2)


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who this process is in a run, which Flower's own processes are told at their start."""
    if find_spec("flwr") is not None:
        known = flower("supercore.task_identity").TaskIdentity
        for name in ("_task_id", "_run_id", "_node_id"):
            monkeypatch.setattr(known, name, 1)


class Grid:
    """Hands messages to a client app; nodes have numbers that say nothing of the silo."""

    def __init__(self, app: Any, broken: int | None = None) -> None:
        self._app = app
        self._broken = broken
        records = flower("app").RecordDict
        self.contexts = {
            node: flower("app").Context(1, node, {"partition-id": silo}, records(), {})
            for silo, node in enumerate((77, 12))
        }

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Any, *, timeout: float) -> list[Any]:
        app, replies = flower("app"), []
        for message in messages:
            node = message.metadata.dst_node_id
            if node == self._broken:
                replies.append(app.Message(app.Error(code=1, reason="its disk is full"), reply_to=message))
            else:
                replies.append(self._app(message, self.contexts[node]))
        return replies


def strategy(**options: Any) -> FederatedStrategy:
    return FederatedStrategy(**{"partition": PARTS, "seed": 5, "transforms": [TopK(0.4)]} | options)


def run(tools: Any, grid_options: dict[str, Any] | None = None, server: Any = None, **options: Any) -> list[Any]:
    """The figures of each round, and last the module."""
    dataset = tools.data()
    parts = tools.parts(PARTS, dataset, 5)

    def silo(context: Any) -> Any:
        return DataLoader(Subset(dataset, parts[context.node_config["partition-id"]]), batch_size=5), DataLoader(
            tools.data(6, 1), batch_size=4
        )

    clients = client_app(tools.Regression, silo, strategy(**options), device="cpu")
    seen: list[Any] = []
    app = server_app(
        tools.Regression,
        strategy(**options),
        num_clients=2,
        on_round=lambda module, entry: seen.extend([entry, module]),
        **server or {},
    )
    context = flower("app").Context(1, 0, {}, flower("app").RecordDict(), {"num-server-rounds": 3})
    app(Grid(clients, **grid_options or {}), context)
    return [*seen[::2], seen[-1]]


@needs_flower
def test_apps_train_what_the_simulation_trains_and_clients_remember(tools):
    module = tools.Regression()
    tools.fit(strategy(), module, batch_size=5, max_epochs=3)
    *entries, trained = run(tools, server={"evaluate": True})
    torch.testing.assert_close(tools.flat(trained), tools.flat(module), rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        expected = float(trained.loss(tools.data(6, 1).tensors))
    assert entries[-1]["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert [entry["client"] for entry in entries] == [[0, 1]] * 3


@needs_flower
def test_private_apps_train_what_the_simulation_trains(tools):
    def privacy() -> ClientPrivacy:
        return ClientPrivacy(
            delta=1e-5, noise_multiplier=0.5, max_delta_norm=0.1, adaptive=True, noise=NoiseSource(seed=2)
        )

    module = tools.Regression()
    tools.fit(strategy(client_privacy=privacy()), module, batch_size=5, max_epochs=3)
    ledger = privacy()
    *_, trained = run(tools, client_privacy=ledger)
    torch.testing.assert_close(tools.flat(trained), tools.flat(module), rtol=1e-9, atol=1e-11)


@needs_flower
@pytest.mark.filterwarnings("ignore:round . goes on")
def test_p41_a_client_whose_process_fails_is_left_out_and_too_few_end_the_run(tools):
    *entries, _ = run(tools, {"broken": 77})
    assert entries[0]["failures"].keys() == {1}
    assert "disk is full" in entries[0]["failures"][1]
    with pytest.raises(ConfigurationError, match=r"fewer than min_clients=2 .*disk is full"):
        run(tools, {"broken": 77}, min_clients=2)


@needs_flower
def test_too_few_nodes_and_no_number_of_rounds_are_told(tools):
    records = flower("app").RecordDict()
    context = flower("app").Context(1, 0, {}, records, {})
    grid = Grid(None)
    with pytest.raises(ConfigurationError, match="2 of num_clients=3 nodes are connected"):
        server_app(tools.Regression, strategy(), num_clients=3, num_rounds=1, connect_timeout=0.01)(grid, context)
    with pytest.raises(ConfigurationError, match="num-server-rounds"):
        server_app(tools.Regression, strategy(), num_clients=2)(grid, context)
    with pytest.raises(ConfigurationError, match="module must be a LightningModule"):
        server_app(3, strategy(), num_clients=2, num_rounds=1)(grid, context)
    with pytest.raises(UnsupportedError, match="not linear"):
        client_app(tools.Regression, None, strategy(aggregator=CoordinateMedian()))


@needs_flower
def test_records_keep_values_and_types():
    tensors = {"a": torch.tensor([[1.5, torch.nan]]), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.float64)}
    back = tensors_in(array_record(tensors))
    for name, tensor in tensors.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0, equal_nan=True)
    half = torch.tensor([1.0, 1 / 3], dtype=torch.bfloat16)
    assert torch.equal(tensors_in(array_record({"h": half}))["h"].bfloat16(), half)


def test_a_missing_flower_is_named_with_its_extra(tools, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "flwr"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'lightning-privacy\[flower\]'"):
        client_app(tools.Regression, None, strategy())
    with pytest.raises(ConfigurationError, match=r"lightning-privacy\[flower\]"):
        server_app(tools.Regression, strategy(), num_clients=2)
