"""Rounds whose clients are summed behind masks: the plain sum of the rounded vectors, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.federated.aggregation import CoordinateMedian
from lightning_privacy.federated.algorithms import Algorithm, Scaffold
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.failures import SimulatedFailures
from lightning_privacy.federated.partitions import IIDPartition, QuantityPartition
from lightning_privacy.federated.secure_sum import FixedPoint, SecureSum
from lightning_privacy.strategies import FederatedStrategy

UNEVEN = QuantityPartition(6, alpha=1.0, min_examples=2)


class Spy(Algorithm):
    """Keeps what clients send and what the server gets."""

    def __init__(self) -> None:
        self.sent: dict[int, dict[int, tuple[torch.Tensor, int]]] = {}
        self.aggregates: list[torch.Tensor] = []

    def after_client(self, local: Any, update: Any) -> None:
        self.sent.setdefault(local.round_number, {})[local.client] = (update.delta.clone(), update.num_examples)

    def after_round(self, aggregate: Any, extras: Any, num_received: int) -> Any:
        self.aggregates.append(aggregate.clone())
        return aggregate


@pytest.mark.filterwarnings("ignore:round .* goes on with")
@pytest.mark.parametrize("failures", [None, SimulatedFailures(dropout=0.1, error=0.1, nan=0.1)], ids=["all", "some"])
def test_p42_the_aggregate_is_that_of_the_rounded_vectors_bit_for_bit(tools, failures):
    spy, code = Spy(), FixedPoint(fraction_bits=20)
    strategy = FederatedStrategy(
        partition=UNEVEN, seed=4, algorithm=spy, secure_sum=SecureSum(threshold=4, code=code), failures=failures
    )
    tools.fit(strategy, tools.Regression(), max_epochs=3, batch_size=3)
    lost = 0
    for number, aggregate in enumerate(spy.aggregates):
        received = strategy.history[number]["client"]
        lost += 6 - len(received)
        sent = [spy.sent[number][client] for client in received]
        total = sum(code.encode(delta * weight) for delta, weight in sent)
        weight = sum(weight for _, weight in sent)
        assert torch.equal(aggregate, code.decode(total, count=len(sent)) / weight)
    assert (lost > 0) == (failures is not None)


def test_it_ends_where_the_plain_sum_ends_to_rounding(tools):
    def fit(secure: SecureSum | None) -> tuple[torch.Tensor, Any]:
        module = tools.Regression(norm=True)
        strategy = FederatedStrategy(partition=UNEVEN, cohort_size=4, seed=4, algorithm=Scaffold(), secure_sum=secure)
        tools.fit(strategy, module, max_epochs=3, batch_size=2)
        return torch.cat([tensor.double().reshape(-1) for tensor in module.state_dict().values()]), strategy.history

    (plain, rounds), (masked, secure_rounds) = fit(None), fit(SecureSum())
    # Vectors are rounded to 2e-10, and normalisation over two examples makes more of it.
    torch.testing.assert_close(masked, plain, rtol=0, atol=1e-6)
    assert [each["loss"] for each in secure_rounds] == pytest.approx([each["loss"] for each in rounds], abs=1e-6)
    assert all("cosine" in each for each in rounds)
    assert not any("cosine" in each for each in secure_rounds)


def test_client_privacy_works_on_the_secure_sum(tools):
    def fit(secure: SecureSum | None) -> torch.Tensor:
        module = tools.Regression()
        privacy = ClientPrivacy(delta=1e-5, noise_multiplier=1e-9, max_delta_norm=0.1, adaptive=False)
        strategy = FederatedStrategy(partition=UNEVEN, seed=4, client_privacy=privacy, secure_sum=secure)
        tools.fit(strategy, module, max_epochs=2)
        return tools.flat(module)

    torch.testing.assert_close(fit(SecureSum()), fit(None), rtol=0, atol=1e-8)


def test_an_aggregator_that_compares_is_refused():
    with pytest.raises(ConfigurationError, match=r"CoordinateMedian.*secure sum shows their sum"):
        FederatedStrategy(partition=UNEVEN, aggregator=CoordinateMedian(), secure_sum=SecureSum())


def test_one_client_is_no_sum(tools):
    strategy = FederatedStrategy(partition=UNEVEN, cohort_size=1, secure_sum=SecureSum())
    with pytest.raises(ConfigurationError, match="that client's own change: draw at least 2"):
        tools.fit(strategy, tools.Regression(), max_epochs=1)


@pytest.mark.filterwarnings("ignore:round .* goes on with")
def test_too_many_dropouts_unmask_nothing(tools):
    strategy = FederatedStrategy(
        partition=IIDPartition(6), secure_sum=SecureSum(threshold=6), failures=SimulatedFailures(dropout=0.4), seed=1
    )
    with pytest.raises(PrivacyViolation, match="too many dropped out"):
        tools.fit(strategy, tools.Regression(), max_epochs=4)


def test_p42_an_entry_that_would_be_clipped_is_refused(tools):
    strategy = FederatedStrategy(partition=UNEVEN, secure_sum=SecureSum(code=FixedPoint(max_abs=1e-3)))
    with pytest.raises(ConfigurationError, match="max_abs"):
        tools.fit(strategy, tools.Regression(), max_epochs=1)
