"""Several clients at once: the same model, the same log, or an error that says why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.federated import (
    ClientPrivacy,
    DirichletPartition,
    Ditto,
    FedNova,
    FedProx,
    IIDPartition,
    QuantityPartition,
    Scaffold,
    TopK,
)
from lightning_privacy.federated.aggregation import QFFL, WeightedMean
from lightning_privacy.federated.failures import SimulatedFailures
from lightning_privacy.federated.stacked_local import StackedLoop
from lightning_privacy.strategies import FederatedStrategy

RAGGED = QuantityPartition(5, alpha=1.0)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def both(
    tools: Any,
    make: Any,
    *,
    batch_size: int = 4,
    dataset: Any = None,
    trainer: Any = None,
    made: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """The same fit one after the other and at once: modules, strategies, trainers. ``made``: options made for each."""
    found = []
    for vectorize in (False, 3):
        own = {name: factory() for name, factory in (made or {}).items()}
        federated = FederatedStrategy(
            **{"partition": RAGGED, "seed": 5, "local_epochs": 2} | options | own, vectorize=vectorize
        )
        module = make()
        fitted = tools.fit(federated, module, dataset, batch_size=batch_size, **{"max_epochs": 3} | (trainer or {}))
        found.append((module, federated, fitted))
    return found


def assert_equal(tools: Any, found: Any, *, rtol: float = 1e-12, atol: float = 1e-12) -> None:
    (one, first, _), (other, second, _) = found
    torch.testing.assert_close(tools.flat(other), tools.flat(one), rtol=rtol, atol=atol)
    for entry, again in zip(first.history, second.history, strict=True):
        assert again["client"] == entry["client"]
        assert again["client_loss"] == pytest.approx(entry["client_loss"], rel=max(rtol, 1e-6))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_at_once_is_one_after_the_other(tools, kind):
    """Clients of unlike sizes in batches of 4: steps have batches of several sizes, and clients that are done."""
    found = both(tools, lambda: tools.Regression(OPTIMIZERS[kind]))
    assert_equal(tools, found)
    sizes = {len(part) for part in tools.parts(RAGGED, tools.data(), 5)}
    assert len(sizes) > 2


def test_single_precision(tools):
    data = torch.utils.data.TensorDataset(*(tensor.float() for tensor in tools.data().tensors))
    assert_equal(tools, both(tools, lambda: tools.Regression().float(), dataset=data), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": lambda: FedProx(0.3)},
        {"algorithm": Scaffold, "aggregator": lambda: WeightedMean(weighted=False)},
        {"algorithm": FedNova},
        {"aggregator": lambda: QFFL(1.0, learning_rate=0.1)},
        {"personal": lambda: ["net.3"]},
        {"transforms": lambda: [TopK(0.3)]},
        {"local_epochs": lambda: None, "local_steps": lambda: 3},
        {"client_sampling": lambda: "poisson", "cohort_size": lambda: 3},
    ],
    ids=lambda options: "-".join(options),
)
def test_with_all_that_rounds_have(tools, options):
    found = both(tools, tools.Regression, made=options)
    assert_equal(tools, found)
    memories = [strategy.client_memory() for _, strategy, _ in found]
    assert memories[0].keys() == memories[1].keys()
    for client, kept in memories[0].items():
        for name, tensor in kept.items():
            torch.testing.assert_close(memories[1][client][name], tensor, rtol=1e-6, atol=1e-9)


def test_gradient_clipping_is_that_of_each_client(tools):
    assert_equal(tools, both(tools, tools.Regression, trainer={"gradient_clip_val": 0.05}))


def test_a_parameter_without_gradient_is_left_alone(tools):
    """Weight decay moves what has a gradient only."""

    class Module(tools.Regression):
        def __init__(self) -> None:
            super().__init__(OPTIMIZERS["sgd"])
            self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    found = both(tools, Module)
    assert_equal(tools, found)
    assert torch.equal(found[1][0].unused, torch.ones(2, dtype=torch.float64))


def test_what_is_logged_inside_is_logged(tools):
    class Module(tools.Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log_dict({"a": loss.detach(), "b": loss * 2}, on_step=True, on_epoch=True)
            self.log("number", batch_idx, on_epoch=True, on_step=False)
            return {"loss": loss, "more": batch[0]}

    (_, _, one), (_, _, other) = both(tools, Module)
    assert one.callback_metrics.keys() == other.callback_metrics.keys() >= {"a_step", "a_epoch", "b_epoch", "number"}
    for name, value in one.callback_metrics.items():
        if name != "federated/seconds":
            assert float(other.callback_metrics[name]) == pytest.approx(float(value), rel=1e-6, nan_ok=True), name


class Drawing(Dataset):
    """Noise on the inputs from the global generator, as an augmentation has it."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.randn(3, dtype=torch.float64), torch.full((1,), float(index), dtype=torch.float64)


def test_randomness_of_the_data_is_that_of_each_client(tools):
    assert_equal(tools, both(tools, tools.Regression, dataset=Drawing()))


def test_clients_that_fail_are_left_out(tools):
    failures = SimulatedFailures(dropout=0.3, nan=0.3, error=0.1)
    with pytest.warns(UserWarning, match="goes on with"):
        assert_equal(tools, both(tools, tools.Regression, failures=failures))


def test_p39_with_privacy_of_clients_it_is_refused():
    """What a module counts or keeps in a list would bind the clients of a stack together."""
    privacy = ClientPrivacy(delta=1e-5, noise_multiplier=1.0, max_delta_norm=0.05)
    with pytest.raises(ConfigurationError, match=r"vectorize=.*client_privacy needs that nothing of one client"):
        FederatedStrategy(partition=IIDPartition(4), cohort_size=2, vectorize=True, client_privacy=privacy)


def in_step(change: Any) -> Any:
    """A module whose step does something on the side."""

    def make(tools: Any) -> Any:
        class Module(tools.Regression):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = self.loss(batch)
                return change(self, loss, batch) or loss

        return Module()

    return make


def keep(module: Any, loss: Tensor, batch: Any) -> None:
    module.last = loss


def draw(module: Any, loss: Tensor, batch: Any) -> Tensor:
    return loss + torch.rand(()) * 0


def look(module: Any, loss: Tensor, batch: Any) -> Tensor:
    return loss * 2 if loss > 0.5 else loss


def item(module: Any, loss: Tensor, batch: Any) -> None:
    module.seen = loss.item()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda tools: tools.Regression(norm=True), r"layer 'net\.1' \(BatchNorm1d\) keeps running statistics"),
        (lambda tools: tools.Regression(dropout=0.5), r"layer 'net\.2' \(Dropout\) draws random numbers"),
        (in_step(keep), "the step keeps a tensor in the attribute 'last'"),
        (in_step(draw), "the step of Module can't be taken"),
        (in_step(look), "the step of Module can't be taken"),
        (in_step(item), "the step of Module can't be taken"),
        (lambda tools: tools.Regression(lambda p: torch.optim.Rprop(p)), "Rprop is not known to step every entry"),
    ],
    ids=["norm", "dropout", "attribute", "random", "value", "item", "optimizer"],
)
def test_a_step_that_cannot_be_taken_at_once_is_refused(tools, make, named):
    module = make(tools)
    before = tools.flat(module)
    with pytest.raises(UnsupportedError, match=f"vectorize: {named}.*set vectorize=False"):
        tools.fit(FederatedStrategy(partition=RAGGED, seed=5, vectorize=True), module, batch_size=4, max_epochs=1)
    assert torch.equal(tools.flat(module), before)


def test_a_buffer_that_the_step_writes_to_is_refused(tools):
    module = tools.Regression()
    module.register_buffer("steps", torch.zeros(()))
    usual = module.loss

    def loss(batch: Any) -> Tensor:
        module.steps += 1
        return usual(batch)

    module.loss = loss
    with pytest.raises(UnsupportedError, match="wrote to the buffer 'steps'"):
        tools.fit(FederatedStrategy(partition=RAGGED, vectorize=True), module, max_epochs=1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"persistent_optimizer": True}, "persistent_optimizer=True"),
        ({"algorithm": Ditto(0.1)}, "Ditto does not say"),
        ({"vectorize": -1}, "vectorize must be"),
    ],
)
def test_what_needs_clients_one_by_one_is_refused(options, named):
    with pytest.raises(ConfigurationError, match=named):
        FederatedStrategy(**{"partition": RAGGED, "vectorize": True} | options)


def test_accumulation_is_refused(tools):
    with pytest.raises(UnsupportedError, match="accumulate_grad_batches=2"):
        tools.fit(
            FederatedStrategy(partition=RAGGED, vectorize=True),
            tools.Regression(),
            accumulate_grad_batches=2,
            max_epochs=1,
        )


def test_a_loop_without_a_trainer_needs_a_number_for_a_loss():
    layer = nn.Linear(1, 1)
    loop = StackedLoop(layer, torch.optim.SGD(layer.parameters(), lr=0.1), lambda batch, index: layer(batch))
    start = [[p.detach() for p in layer.parameters()]] * 2
    with pytest.raises(UnsupportedError, match="one number for every batch"):
        loop.run([None, None], [[(0, torch.ones(2, 1))]] * 2, start, None)  # type: ignore[list-item, arg-type]


def test_the_default_takes_any_cohort(tools):
    """More clients than are trained at once, and Dirichlet sizes."""
    module = tools.Regression()
    federated = FederatedStrategy(partition=IIDPartition(24), vectorize=5)
    trainer = tools.trainer(strategy=federated, max_epochs=1)
    trainer.fit(module, DataLoader(tools.data(), batch_size=2))
    assert len(federated.history[0]["client"]) == 24
    assert DirichletPartition(2, alpha=1.0).num_clients == 2
