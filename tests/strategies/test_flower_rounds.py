"""Both sides of a Flower federation without Flower: they give what the strategy gives, or say that they can't."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler
from torchmetrics import MeanMetric

from lightning_privacy._lightning import LightningDataModule
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyBudgetExceeded, UnsupportedError
from lightning_privacy.federated.aggregation import CoordinateMedian, WeightedMean
from lightning_privacy.federated.algorithms import Ditto, FedNova, FedProx, Scaffold
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.failures import SimulatedFailures
from lightning_privacy.federated.flower_records import put_tensors, tensors_of
from lightning_privacy.federated.partitions import IIDPartition, QuantityPartition
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.federated.server import FedAdam, FedAvg
from lightning_privacy.federated.transforms import Int8, TopK
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.strategies import FederatedStrategy
from lightning_privacy.strategies._flower_client import ClientOptions, ClientReply, FlowerClient
from lightning_privacy.strategies._flower_module import LogCollector, client_optimizer
from lightning_privacy.strategies._flower_server import FlowerServer
from lightning_privacy.strategies._flower_settings import FlowerSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning_privacy.mechanisms.noise.SeededNoiseWarning"),
    pytest.mark.filterwarnings("ignore:client_privacy clips the running statistics"),
]

CPU = ClientOptions(device="cpu")
BATCH = 5
PARTS = QuantityPartition(2, alpha=1.0, min_examples=4)


def federation(tools: Any, strategy: FederatedStrategy, data: Any = None, make: Any = None, **options: Any) -> Any:
    """A server and its clients in one process, and what is called to run a round."""
    make = make or tools.Regression
    settings = FlowerSettings.of(strategy)
    dataset = data or tools.data()
    silos = [Subset(dataset, part) for part in tools.parts(PARTS, dataset, settings.plan.seed)]
    loaders = [DataLoader(silo, batch_size=BATCH, shuffle=True) for silo in silos]
    clients = [FlowerClient(make(), loader, settings, options.pop("client", CPU)) for loader in loaders]
    server = FlowerServer(make(), settings, **{"num_clients": 2, "num_rounds": 3} | options)
    memories: list[dict[str, torch.Tensor]] = [{}, {}]

    def run_round() -> dict[str, Any]:
        tasks = server.open_round()
        replies = {}
        for client, task in reversed(tasks.items()):
            weights = {name: tensor.clone() for name, tensor in server.weights().items()}
            replies[client] = clients[client].train(weights, task, memories[client])
        return server.close_round(tasks, replies)

    return server, clients, run_round


def strategy(**options: Any) -> FederatedStrategy:
    return FederatedStrategy(**{"partition": PARTS, "seed": 5, "local_epochs": 2} | options)


def private(**options: Any) -> ClientPrivacy:
    return ClientPrivacy(
        **{"delta": 1e-5, "noise_multiplier": 1.0, "max_delta_norm": 0.2, "noise": NoiseSource(seed=3)} | options
    )


CASES: dict[str, Any] = {
    "plain": dict,
    "unweighted": lambda: {"aggregator": WeightedMean(weighted=False)},
    "fedprox": lambda: {"algorithm": FedProx(0.5)},
    "ditto": lambda: {"algorithm": Ditto(0.5)},
    "fedadam": lambda: {"server_optimizer": FedAdam(lr=0.1)},
    "schedule": lambda: {
        "server_optimizer": lambda parameters: (
            optimizer := torch.optim.SGD(parameters, lr=1.0),
            torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        )
    },
    "top_k": lambda: {"transforms": [TopK(0.3)]},
    "int8": lambda: {"transforms": [Int8()]},
    "fixed_point": lambda: {"deterministic": True},
    "steps": lambda: {"local_epochs": None, "local_steps": 5},
    "private": lambda: {"client_privacy": private()},
    "adaptive": lambda: {"client_privacy": private(adaptive=True)},
}


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("case", CASES)
def test_rounds_are_those_of_the_simulation(tools, case, norm):
    def make() -> Any:
        return tools.Regression(
            lambda parameters: (
                [optimizer := torch.optim.SGD(parameters, lr=0.1, momentum=0.5)],
                [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)],
            ),
            norm=norm,
            dropout=0.3,
        )

    simulated = strategy(**CASES[case]())
    module = make()
    tools.fit(simulated, module, batch_size=BATCH, max_epochs=3)
    real = strategy(**CASES[case]())
    server, _, run_round = federation(tools, real, make=make)
    start = tools.flat(server.module).clone()
    while not server.done:
        run_round()
    for name, tensor in tensors_of(module).items():
        torch.testing.assert_close(tensors_of(server.module)[name], tensor, rtol=1e-9, atol=1e-11, msg=name)
    assert not torch.equal(start, tools.flat(server.module))
    privacy, expected = real._plan.privacy, simulated._plan.privacy
    if privacy is not None:
        assert privacy.ledger.epsilon() == pytest.approx(expected.ledger.epsilon())
        assert privacy.max_delta_norm == pytest.approx(expected.max_delta_norm)
        assert any("server" in caveat for caveat in privacy.ledger.caveats)


def test_p36_a_private_client_sends_its_clipped_change_and_its_vote_only(tools):
    server, clients, _ = federation(tools, strategy(client_privacy=private(max_delta_norm=1e-3)))
    tasks = server.open_round()
    reply = clients[0].train(server.weights(), tasks[0], {})
    assert float(reply.tensors["delta"].norm()) <= 1e-3
    assert reply.metrics == {"votes": -0.5}
    assert reply.tensors.keys() == {"delta"}
    assert reply.increments == []


@pytest.mark.filterwarnings("ignore:round 0 goes on")
def test_p36_a_client_that_does_not_clip_is_bounded_by_the_server(tools):
    """Little noise, and one client that sends a large change: the model moves by the bound over two."""
    privacy = private(noise_multiplier=1e-3, max_delta_norm=1e-3)
    server, _, _ = federation(tools, strategy(client_privacy=privacy))
    before = tools.flat(server.module).clone()
    tasks = server.open_round()
    large = ClientReply({"delta": torch.full((server.model.size,), 1e6, dtype=torch.float64)}, [], {"votes": 0.5})
    server.close_round(tasks, {0: large, 1: ClientReply(failure="gone")})
    moved = float((tools.flat(server.module) - before).norm())
    assert moved == pytest.approx(5e-4, rel=0.05)


def test_the_budget_ends_the_run_and_is_never_exceeded(tools):
    privacy = private(noise_multiplier=5.0, epsilon=2.0, noise=None)
    server, _, run_round = federation(tools, strategy(client_privacy=privacy), num_rounds=1000)
    while not server.done:
        run_round()
    assert 1 < server.next_round < 1000
    assert privacy.ledger.epsilon() <= 2.0
    with pytest.raises(PrivacyBudgetExceeded):
        server.open_round()


def test_cohorts_of_a_private_run_are_not_drawn_from_the_seed_that_clients_have(tools):
    drawn = set()
    for _ in range(40):  # equal by chance with probability 2^-39
        options = {"client_privacy": private(), "client_sampling": "uniform", "cohort_size": 1}
        server, _, _ = federation(tools, strategy(**options))
        drawn.add(next(iter(server.open_round())))
    assert drawn == {0, 1}


@pytest.mark.filterwarnings("ignore:round 0 goes on")
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (None, "did not answer in time"),
        (ClientReply(failure="its disk is full"), "disk is full"),
        (ClientReply({"delta": torch.zeros(3)}), "in place of torch.float64 of shape"),
        (ClientReply({"delta": torch.full((21,), torch.nan, dtype=torch.float64)}), "not finite"),
        (ClientReply({"delta": torch.zeros(21, dtype=torch.float64)}, [], {"num_examples": 0.0}), "no example"),
        (ClientReply({"delta": torch.zeros(21, dtype=torch.float64)}, [1.0], {}), "counters"),
    ],
    ids=["late", "error", "shape", "nan", "empty", "counters"],
)
def test_p41_a_client_that_fails_is_left_out_and_too_few_end_the_run(tools, reply, reason):
    for min_clients in (1, 2):
        server, clients, _ = federation(tools, strategy(min_clients=min_clients))
        tasks = server.open_round()
        replies = {0: clients[0].train(server.weights(), tasks[0], {})} | ({} if reply is None else {1: reply})
        if min_clients == 1:
            assert server.close_round(tasks, replies)["failures"].keys() == {1}
            continue
        with pytest.raises(ConfigurationError, match=rf"fewer than min_clients=2 \(client 1: .*{reason}"):
            server.close_round(tasks, replies)


def test_p41_a_change_that_is_not_finite_is_not_sent(tools):
    def make() -> Any:
        return tools.Regression(lambda parameters: torch.optim.SGD(parameters, lr=1e300))

    server, clients, _ = federation(tools, strategy(client_privacy=private()), make=make)
    reply = clients[0].train(server.weights(), server.open_round()[0], {})
    assert (reply.failure, reply.tensors) == ("its update is not finite", {})


@pytest.mark.parametrize("privacy", [False, True], ids=["plain", "private"])
def test_p43_a_run_goes_on_from_its_checkpoint(tools, tmp_path, privacy):
    def options() -> dict[str, Any]:
        return {"server_optimizer": FedAdam(lr=0.1)} | ({"client_privacy": private(adaptive=True)} if privacy else {})

    whole, _, run_round = federation(tools, strategy(**options()))
    while not whole.done:
        run_round()
    for _ in range(3):
        settings = strategy(**options())
        part, _, run_round = federation(tools, settings, checkpoint=tmp_path / "run" / "model.ckpt")
        run_round()
    assert part.done
    torch.testing.assert_close(tools.flat(part.module), tools.flat(whole.module), rtol=1e-12, atol=1e-14)
    if privacy:
        assert sum(count for _, count, _ in settings._plan.privacy.ledger.history) == 3
    other = strategy(**options() | {"local_epochs": 3})
    with pytest.raises(CheckpointError, match="other settings"):
        federation(tools, other, checkpoint=tmp_path / "run" / "model.ckpt")


def test_a_killed_round_stays_charged(tools, tmp_path):
    path = tmp_path / "model.ckpt"
    server, _, run_round = federation(tools, strategy(client_privacy=private()), checkpoint=path)
    run_round()
    server.open_round()  # and killed
    again = private()
    federation(tools, strategy(client_privacy=again), checkpoint=path)
    assert sum(count for _, count, _ in again.ledger.history) == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"aggregator": CoordinateMedian()}, "is not linear"),
        ({"persistent_optimizer": True}, "persistent_optimizer=True"),
        ({"personal": ["net.0"]}, r"personal=\['net.0'\]"),
        ({"failures": SimulatedFailures(dropout=0.5)}, "failures="),
        ({"transforms": [SecureSum(threshold=2)]}, "SecureSum is not supported"),
        ({"client_privacy": "weighted"}, "can't be used with client privacy"),
    ],
    ids=["median", "optimizer", "personal", "failures", "secure_sum", "weighted"],
)
def test_what_an_app_has_no_place_for_is_refused(options, text):
    if options.get("client_privacy") == "weighted":
        options = {"client_privacy": private(), "aggregator": WeightedMean()}
    with pytest.raises((UnsupportedError, ConfigurationError), match=text):
        FlowerSettings.of(strategy(**options))
    with pytest.raises(ConfigurationError, match="must be a FederatedStrategy"):
        FlowerSettings.of("federated")  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", [Scaffold(), FedNova()], ids=["scaffold", "fednova"])
def test_algorithms_with_more_than_a_change_of_the_model_are_refused(tools, algorithm):
    with pytest.raises(UnsupportedError, match=type(algorithm).__name__):
        FlowerServer(tools.Regression(), FlowerSettings.of(strategy(algorithm=algorithm)), num_clients=2, num_rounds=1)


class NoTrainLoader(LightningDataModule):
    pass


class NoneLoader(LightningDataModule):
    def train_dataloader(self) -> None:
        return None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (NoTrainLoader(), "NoTrainLoader has no train_dataloader"),
        (NoneLoader(), "must be a LightningDataModule with train_dataloader"),
        (3, "got a train loader of type int"),
        (DataLoader(TensorDataset(torch.zeros(0, 3))), "no example"),
        ((DataLoader(TensorDataset(torch.zeros(1, 3))), [1, 2]), "gives 2 loaders"),
    ],
    ids=["missing", "none", "number", "empty", "several"],
)
def test_data_without_a_train_loader_is_refused(tools, data, text):
    with pytest.raises((ConfigurationError, UnsupportedError), match=text):
        FlowerClient(tools.Regression(), data, FlowerSettings.of(strategy()), CPU)


def test_a_client_and_a_server_of_other_settings_or_models_are_told(tools):
    server, clients, _ = federation(tools, strategy())
    task = federation(tools, strategy(local_epochs=3))[0].task(0)
    with pytest.raises(ConfigurationError, match=r"other settings.*\"local_epochs\": 3"):
        clients[0].train(server.weights(), task, {})
    weights = server.weights()
    with pytest.raises(ConfigurationError, match=r"'net.0.bias' is only here"):
        clients[0].train({name: t for name, t in weights.items() if name != "net.0.bias"}, server.task(0), {})
    with pytest.raises(ConfigurationError, match=r"'net.0.bias' has shape \(4,\) here and \(5,\)"):
        put_tensors(clients[0]._module, weights | {"net.0.bias": torch.zeros(5)})


def test_a_module_that_reads_its_trainer_is_told_there_is_none(tools):
    class Steps(tools.Regression):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1 / self.trainer.estimated_stepping_batches)

    with pytest.raises(UnsupportedError, match="a Flower client has none"):
        client_optimizer(Steps(), 0)
    two = tools.Regression(lambda parameters: [torch.optim.SGD([p], lr=0.1) for p in list(parameters)[:2]])
    with pytest.raises(UnsupportedError, match="gives 2 optimizers"):
        client_optimizer(two, 0)


def test_own_samplers_stay_and_are_drawn_by_round_and_client(tools):
    dataset = tools.data()
    loader = DataLoader(dataset, batch_size=4, sampler=WeightedRandomSampler(torch.ones(24), 8))
    server, _, _ = federation(tools, strategy())
    client = FlowerClient(tools.Regression(), loader, FlowerSettings.of(strategy()), CPU)
    first, second = (client.train(server.weights(), server.task(0), {}) for _ in range(2))
    other = client.train(server.weights(), server.task(1), {})
    assert torch.equal(first.tensors["delta"], second.tensors["delta"])
    assert not torch.equal(first.tensors["delta"], other.tensors["delta"])
    assert first.metrics["num_steps"] == 4  # two epochs of eight examples


def test_metrics_are_collected_without_a_trainer_and_without_a_warning(tools):
    class Logs(tools.Regression):
        def __init__(self) -> None:
            super().__init__()
            self.mean = MeanMetric()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mean(batch[1])
            self.log("mean", self.mean)
            self.log_dict({"loss": self.loss(batch)})

    dataset = tools.data(10, seed=4)
    loaders = (DataLoader(tools.data(8), batch_size=4), DataLoader(dataset, batch_size=4))
    settings = FlowerSettings.of(strategy())
    client, server = (
        FlowerClient(Logs(), loaders, settings, CPU),
        FlowerServer(Logs(), settings, num_clients=1, num_rounds=1),
    )
    found = client.evaluate(server.weights(), server.task(0)).metrics
    with torch.no_grad():
        expected = float(server.module.loss(dataset.tensors))
    assert found["loss"] == pytest.approx(expected, rel=1e-6)
    assert found["num_examples"] == 10
    assert client.train(server.weights(), server.task(0), {}).metrics["logged/train_loss"] > 0
    with pytest.raises(ConfigurationError, match="no validation loader"):
        FlowerClient(Logs(), loaders[0], settings, CPU).evaluate(server.weights(), server.task(0))


def test_the_sum_of_a_batch_counts_by_its_size(tools):
    module = tools.Regression()
    collector = LogCollector(module)
    collector.batch_size = 3
    module.log("x", torch.tensor(1.0))
    module.log("x", 5.0, batch_size=1)
    assert collector.means() == {"x": 2.0}
    assert collector.means() == {}


def test_the_simulation_compared_with_is_not_trivial(tools):
    """FedAvg with a tenth of the step ends elsewhere, so the comparison above sees a wrong server step."""
    ends = []
    for lr in (1.0, 0.1):
        server, _, run_round = federation(tools, strategy(server_optimizer=FedAvg(lr=lr)))
        run_round()
        ends.append(tools.flat(server.module))
    assert float((ends[0] - ends[1]).abs().max()) > 1e-3
    assert IIDPartition(2).num_clients == 2
