"""Clients that send garbage, and clients that are worse off than the others, on digits and on a regression."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import LightningModule
from lightning_privacy.federated.aggregation import QFFL, Aggregator, CoordinateMedian, Krum, TrimmedMean, WeightedMean
from lightning_privacy.federated.algorithms import Algorithm
from lightning_privacy.federated.cohorts import cohort_sampler
from lightning_privacy.federated.partitions import IIDPartition
from lightning_privacy.strategies import FederatedStrategy

ATTACKERS = (1, 6)
ROUNDS = 25


class FlipSigns(Algorithm):
    """Two of ten clients send the opposite of what they learned, a hundred times over."""

    def after_client(self, local: Any, update: Any) -> None:
        if local.client in ATTACKERS:
            update.delta.mul_(-100)


class Digits(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(64, 10)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]


def accuracy(tools: Any, digits: tuple[Tensor, Tensor], aggregator: Aggregator, algorithm: Algorithm | None) -> float:
    inputs, labels = digits
    module = Digits()
    strategy = FederatedStrategy(
        partition=IIDPartition(10), aggregator=aggregator, algorithm=algorithm, local_epochs=2, seed=0
    )
    tools.trainer(strategy=strategy, max_epochs=ROUNDS).fit(
        module, DataLoader(TensorDataset(inputs[:1400], labels[:1400]), batch_size=32)
    )
    with torch.no_grad():
        return float((module.net(inputs[1400:]).argmax(1) == labels[1400:]).float().mean())


@pytest.mark.filterwarnings("ignore:round .* goes on with")
def test_sign_flips_break_the_mean_and_not_the_robust_aggregators(tools, digits):
    without = accuracy(tools, digits, WeightedMean(), None)
    assert without > 0.9
    assert accuracy(tools, digits, WeightedMean(), FlipSigns()) < 0.5
    for robust in (Krum(byzantine=2), Krum(byzantine=2, select=5), CoordinateMedian(), TrimmedMean(0.2)):
        assert accuracy(tools, digits, robust, FlipSigns()) > without - 0.02, robust


def test_q_ffl_through_the_strategy_is_algorithm_2_of_the_paper(tools):
    """Li et al. 2020: w moves by -sum_k Delta_k / sum_k h_k, with Delta_k = F_k^q L (w - w_k)."""
    q, rate, rounds, seed = 2.0, 0.1, 4, 7
    dataset, partition = tools.data(), IIDPartition(5)
    parts = tools.parts(partition, dataset, seed)
    reference = tools.Regression()
    for number in range(rounds):
        steps, sizes = [], []
        start = [p.detach().clone() for p in reference.parameters()]
        for client in cohort_sampler("uniform", 3).draw(seed, number, 5):
            batch = [tensor[parts[client]] for tensor in dataset.tensors]
            loss = float(reference.loss(batch).detach())
            for _ in range(2):
                found = torch.autograd.grad(reference.loss(batch), list(reference.parameters()))
                with torch.no_grad():
                    for p, g in zip(reference.parameters(), found, strict=True):
                        p -= rate * g
            moved = torch.cat(
                [(s - p.detach()).reshape(-1) for s, p in zip(start, reference.parameters(), strict=True)]
            )
            gradient = moved / rate
            steps.append(loss**q * gradient)
            sizes.append(q * loss ** (q - 1) * float(gradient.square().sum()) + loss**q / rate)
            with torch.no_grad():
                for p, s in zip(reference.parameters(), start, strict=True):
                    p.copy_(s)
        nn.utils.vector_to_parameters(
            nn.utils.parameters_to_vector(start) - sum(steps) / sum(sizes), reference.parameters()
        )
    module = tools.Regression()
    strategy = FederatedStrategy(
        partition=partition, cohort_size=3, local_epochs=2, aggregator=QFFL(q=q, learning_rate=rate), seed=seed
    )
    tools.fit(strategy, module, dataset, max_epochs=rounds)
    torch.testing.assert_close(tools.flat(module), tools.flat(reference), rtol=1e-10, atol=1e-12)
