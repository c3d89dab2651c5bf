"""What would void the privacy of clients or of their examples in a federated fit is refused before it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_privacy import ClientPrivacy, ExamplePrivacy, FederatedStrategy, IIDPartition
from lightning_privacy._lightning import LightningDataModule
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.sampling import resample
from lightning_privacy.strategies._flower_client import ClientOptions, FlowerClient
from lightning_privacy.strategies._flower_settings import FlowerSettings

PRIVACY: dict[str, Any] = {
    "client_privacy": lambda: ClientPrivacy(delta=1e-5, noise_multiplier=1.0, max_delta_norm=1.0),
    "example_privacy": lambda: ExamplePrivacy(delta=1e-5, noise_multiplier=1.0, max_grad_norm=1.0, probe=False),
}


def loader_of(tools: Any) -> Any:
    return torch.utils.data.DataLoader(tools.data(), batch_size=4)


def strategy(name: str | None, **options: Any) -> FederatedStrategy:
    made = {} if name is None else {name: PRIVACY[name]()}
    return FederatedStrategy(partition=IIDPartition(4), cohort_size=2, **made, **options)


@pytest.mark.parametrize("name", sorted(PRIVACY))
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_p26_processes_whose_ledgers_end_with_them_are_refused(tools: Any, name: str, method: str) -> None:
    with pytest.raises(UnsupportedError, match="start_method='fork' or 'spawn'"):
        tools.trainer(strategy=strategy(name, start_method=method), devices=2)
    tools.trainer(strategy=strategy(None, start_method=method), devices=2)


@pytest.mark.parametrize("name", sorted(PRIVACY))
def test_p33_a_data_module_that_learns_without_the_ledger_is_refused(tools: Any, name: str) -> None:
    class Learning(LightningDataModule):
        learns_from_records = True

        def train_dataloader(self) -> Any:
            return loader_of(tools)

    with pytest.raises(UnsupportedError, match="Learning learns from the records"):
        tools.trainer(strategy=strategy(name), max_epochs=1).fit(tools.Regression(), datamodule=Learning())


@pytest.mark.parametrize("name", sorted(PRIVACY))
@pytest.mark.parametrize("partition", [IIDPartition(4), None], ids=["shared out", "one silo"])
def test_p33_a_loader_of_data_that_were_learned_from_is_refused(tools: Any, name: str, partition: Any) -> None:
    data = tools.data()
    data.learns_from_records, data.ledger = True, None
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(data, range(len(data))), batch_size=4)
    plan = FederatedStrategy(partition=partition, cohort_size=None, **{name: PRIVACY[name]()})
    with pytest.raises(UnsupportedError, match="learns from the records"):
        tools.trainer(strategy=plan, max_epochs=1).fit(tools.Regression(), loader)
    tools.trainer(strategy=strategy(None), max_epochs=1).fit(tools.Regression(), loader)


@pytest.mark.parametrize("name", ["client_privacy"])
def test_p33_a_silo_of_a_federation_on_the_network_is_looked_at_too(tools: Any, name: str) -> None:
    class Learning(LightningDataModule):
        learns_from_records = True

        def train_dataloader(self) -> Any:
            return loader_of(tools)

    settings = FlowerSettings.of(strategy(name))
    data = tools.data()
    data.learns_from_records, data.ledger = True, None
    for given in (Learning(), torch.utils.data.DataLoader(data, batch_size=4)):
        with pytest.raises(UnsupportedError, match="learns from the records"):
            FlowerClient(tools.Regression(), given, settings, ClientOptions(device="cpu"))


def test_p17_a_resampled_data_set_is_refused(tools: Any) -> None:
    data = loader_of(tools).dataset
    loader = torch.utils.data.DataLoader(resample(data, [0, 1, 1] * (len(data) // 3)), batch_size=4)
    with pytest.raises(UnsupportedError, match="resampled"):
        tools.trainer(strategy=strategy("example_privacy"), max_epochs=1).fit(tools.Regression(), loader)


@pytest.mark.parametrize("name", [None, *sorted(PRIVACY)])
def test_p39_an_optimizer_of_a_tensor_nobody_puts_back_is_refused(tools: Any, name: str | None) -> None:
    class Module(tools.Regression):  # type: ignore[misc, name-defined]
        def configure_optimizers(self) -> Any:
            foreign = torch.nn.Parameter(torch.zeros(3))
            return torch.optim.SGD([*self.parameters(), foreign], lr=0.1)

    with pytest.raises(ConfigurationError, match="no parameters of Module"):
        tools.trainer(strategy=strategy(name), max_epochs=1).fit(Module(), loader_of(tools))


def test_p18_a_client_whose_data_end_its_training_ends_the_run(tools: Any) -> None:
    class Module(tools.Regression):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError("an example nobody expected")

    with pytest.raises(ValueError, match="nobody expected"):
        tools.trainer(strategy=strategy("example_privacy"), max_epochs=1).fit(Module(), loader_of(tools))


class Counting:
    """Parts of modules that let their data into buffers."""

    @staticmethod
    def of(tools: Any, write: Any, start: torch.Tensor) -> Any:
        class Module(tools.Regression):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("mark", start.clone())

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                write(self.mark, batch)
                return super().training_step(batch, batch_idx)

        return Module()


def test_p37_a_count_of_examples_is_not_released(tools: Any) -> None:
    module = Counting.of(tools, lambda mark, batch: mark.add_(len(batch[0])), torch.tensor(0))
    tools.trainer(strategy=strategy("example_privacy"), max_epochs=2).fit(module, loader_of(tools))
    assert int(module.mark) == 0
    plain = Counting.of(tools, lambda mark, batch: mark.add_(len(batch[0])), torch.tensor(0))
    tools.trainer(strategy=strategy(None), max_epochs=2).fit(plain, loader_of(tools))
    assert int(plain.mark) > 0


def test_p37_a_buffer_written_past_autograd_is_refused(tools: Any) -> None:
    def write(mark: torch.Tensor, batch: Any) -> None:
        mark.data[0] = float(batch[0].sum())

    module = Counting.of(tools, write, torch.zeros(2, dtype=torch.float64))
    with pytest.raises(UnsupportedError, match="buffer 'mark' changed in the local training of a client"):
        tools.trainer(strategy=strategy("example_privacy"), max_epochs=1).fit(module, loader_of(tools))


def test_p26_one_object_for_two_federations_of_equal_sizes_is_refused(tools: Any) -> None:
    privacy = PRIVACY["example_privacy"]()

    def fit(seed: int) -> None:
        federated = FederatedStrategy(partition=IIDPartition(4), cohort_size=2, example_privacy=privacy, seed=seed)
        tools.trainer(strategy=federated, max_epochs=1).fit(tools.Regression(), loader_of(tools))

    fit(0)
    spent = {client: privacy.ledger(client).history for client in privacy.clients}
    with pytest.raises(ConfigurationError, match="clients who hold other examples"):
        fit(1)
    assert {client: privacy.ledger(client).history for client in privacy.clients} == spent


def test_a_budget_of_examples_beside_client_privacy_is_refused() -> None:
    examples = ExamplePrivacy(delta=1e-5, noise_multiplier=1.0, epsilon=3.0)
    with pytest.raises(ConfigurationError, match="example_privacy has epsilon=3 together with client_privacy"):
        strategy("client_privacy", example_privacy=examples)


def test_silos_with_batches_of_other_sizes_are_refused(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class TwoSilos:
        def gather(self, value: Any) -> list[Any]:
            return [value, 8]

    monkeypatch.setattr("lightning_privacy.strategies._example_privacy.processes_of", lambda trainer: TwoSilos())
    federated = FederatedStrategy(partition=None, example_privacy=PRIVACY["example_privacy"]())
    with pytest.raises(UnsupportedError, match=r"one batch size for all silos, whose loaders have \[4, 8\]"):
        tools.trainer(strategy=federated, max_epochs=1).fit(tools.Regression(), loader_of(tools))
