"""Fits under the strategy against loops written by hand from the papers; full batches, so no order matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_privacy.federated.aggregation import WeightedMean
from lightning_privacy.federated.algorithms import Ditto, FedNova, FedProx, Scaffold
from lightning_privacy.federated.cohorts import cohort_sampler
from lightning_privacy.federated.partitions import IIDPartition, QuantityPartition
from lightning_privacy.federated.server import FedAdam, FedAvgM
from lightning_privacy.strategies import FederatedStrategy

LR, ROUNDS, SEED = 0.1, 5, 7
Weights = list[Tensor]


def copies(module: nn.Module) -> Weights:
    return [p.detach().clone() for p in module.parameters()]


def gradients(module: Any, weights: Weights, batch: list[Tensor]) -> Weights:
    """Of the module's loss at other weights."""
    names = [name for name, _ in module.net.named_parameters()]
    leaves = [w.clone().requires_grad_() for w in weights]
    output = torch.func.functional_call(module.net, dict(zip(names, leaves, strict=True)), (batch[0],))
    return list(torch.autograd.grad(nn.functional.mse_loss(output, batch[1]), leaves))


def by_hand(
    tools: Any,
    partition: Any,
    cohort_size: int,
    local_steps: Callable[[int], int],
    local: Callable[..., Weights],
    server: Callable[..., Weights],
) -> Tensor:
    """Rounds of a federation, by nothing but lists of tensors."""
    module, dataset = tools.Regression(), tools.data()
    parts = tools.parts(partition, dataset, SEED)
    x = copies(module)
    for number in range(ROUNDS):
        cohort = cohort_sampler("uniform", cohort_size).draw(SEED, number, len(parts))
        results = []
        for client in cohort:
            batch = [tensor[parts[client]] for tensor in dataset.tensors]
            y = local(module, x, batch, client, local_steps(client))
            results.append((client, len(parts[client]), y))
        x = server(x, results)
    return torch.cat([w.reshape(-1) for w in x])


def plain_local(module: Any, x: Weights, batch: list[Tensor], client: int, steps: int) -> Weights:
    y = [w.clone() for w in x]
    for _ in range(steps):
        y = [w - LR * g for w, g in zip(y, gradients(module, y, batch), strict=True)]
    return y


def average(x: Weights, results: list[tuple[int, int, Weights]]) -> Weights:
    total = sum(n for _, n, _ in results)
    return [sum(n / total * y[k] for _, n, y in results) for k in range(len(x))]


def fitted(tools: Any, partition: Any, **options: Any) -> Tensor:
    module = tools.Regression(options.pop("optimizer", None))
    strategy = FederatedStrategy(partition=partition, seed=SEED, **{"cohort_size": 3, "local_epochs": 4} | options)
    tools.fit(strategy, module, max_epochs=ROUNDS)
    return tools.flat(module)


PARTITION = IIDPartition(5)
UNEVEN = QuantityPartition(5, alpha=1.0, min_examples=2)


@pytest.mark.parametrize("partition", [PARTITION, UNEVEN], ids=["even", "uneven"])
def test_federated_averaging_is_the_loop_of_the_paper(tools, partition):
    expected = by_hand(tools, partition, 3, lambda client: 4, plain_local, average)
    torch.testing.assert_close(fitted(tools, partition), expected, rtol=1e-12, atol=1e-14)


def test_fedprox_is_the_loop_of_the_paper(tools):
    mu = 0.3

    def local(module: Any, x: Weights, batch: list[Tensor], client: int, steps: int) -> Weights:
        y = [w.clone() for w in x]
        for _ in range(steps):
            found = gradients(module, y, batch)
            y = [w - LR * (g + mu * (w - w0)) for w, g, w0 in zip(y, found, x, strict=True)]
        return y

    expected = by_hand(tools, PARTITION, 3, lambda client: 4, local, average)
    torch.testing.assert_close(fitted(tools, PARTITION, algorithm=FedProx(mu)), expected, rtol=1e-12, atol=1e-14)


def test_scaffold_is_algorithm_1_with_option_2(tools):
    zero = [torch.zeros_like(p) for p in copies(tools.Regression())]
    c, own, changes = [w.clone() for w in zero], {client: [w.clone() for w in zero] for client in range(5)}, []

    def local(module: Any, x: Weights, batch: list[Tensor], client: int, steps: int) -> Weights:
        y = [w.clone() for w in x]
        for _ in range(steps):
            found = gradients(module, y, batch)
            y = [w - LR * (g - ci + cs) for w, g, ci, cs in zip(y, found, own[client], c, strict=True)]
        new = [ci - cs + (a - b) / (steps * LR) for ci, cs, a, b in zip(own[client], c, x, y, strict=True)]
        changes.append([n - ci for n, ci in zip(new, own[client], strict=True)])
        own[client] = new
        return y

    def server(x: Weights, results: list[tuple[int, int, Weights]]) -> Weights:
        for k in range(len(c)):
            c[k] = c[k] + sum(change[k] for change in changes) / 5
        changes.clear()
        return [sum(y[k] for _, _, y in results) / len(results) for k in range(len(x))]

    expected = by_hand(tools, UNEVEN, 3, lambda client: 4, local, server)
    found = fitted(tools, UNEVEN, algorithm=Scaffold(), aggregator=WeightedMean(weighted=False))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_fednova_normalises_by_the_number_of_steps(tools):
    # Batches of 4 give clients with more examples more steps, so the order of a client's batches matters here:
    # examples of one client are made equal, which leaves only the number of steps.
    dataset = tools.data()
    parts = tools.parts(UNEVEN, dataset, SEED)
    for part in parts:
        for tensor in dataset.tensors:
            tensor[part] = tensor[part[0]].clone()
    sizes = {client: len(part) for client, part in enumerate(parts)}
    steps_of = {client: -(-size // 4) * 2 for client, size in sizes.items()}
    assert len(set(steps_of.values())) > 1
    module = tools.Regression()
    x = copies(module)
    for number in range(ROUNDS):
        cohort = cohort_sampler("uniform", 3).draw(SEED, number, 5)
        total = sum(sizes[client] for client in cohort)
        tau = sum(sizes[client] / total * steps_of[client] for client in cohort)
        moves = []
        for client in cohort:
            batch = [tensor[parts[client]] for tensor in dataset.tensors]
            y = plain_local(module, x, batch, client, steps_of[client])
            moves.append((sizes[client] / total, steps_of[client], y))
        x = [w + tau * sum(p * (y[k] - w) / steps for p, steps, y in moves) for k, w in enumerate(x)]
    expected = torch.cat([w.reshape(-1) for w in x])
    trained = tools.Regression()
    strategy = FederatedStrategy(partition=UNEVEN, cohort_size=3, local_epochs=2, algorithm=FedNova(), seed=SEED)
    tools.fit(strategy, trained, dataset, batch_size=4, max_epochs=ROUNDS)
    torch.testing.assert_close(tools.flat(trained), expected, rtol=1e-12, atol=1e-14)


def test_ditto_trains_a_model_of_its_own_and_leaves_the_global_one_alone(tools):
    strength, own = 0.5, {}

    def local(module: Any, x: Weights, batch: list[Tensor], client: int, steps: int) -> Weights:
        v = own.get(client, [w.clone() for w in x])
        for _ in range(steps):
            found = gradients(module, v, batch)
            v = [w - LR * (g + strength * (w - w0)) for w, g, w0 in zip(v, found, x, strict=True)]
        own[client] = v
        return plain_local(module, x, batch, client, steps)

    expected = by_hand(tools, PARTITION, 3, lambda client: 4, local, average)
    module = tools.Regression()
    strategy = FederatedStrategy(
        partition=PARTITION, cohort_size=3, local_epochs=4, algorithm=Ditto(strength), seed=SEED
    )
    tools.fit(strategy, module, max_epochs=ROUNDS)
    torch.testing.assert_close(tools.flat(module), expected, rtol=1e-12, atol=1e-14)
    kept = strategy.client_memory()
    assert kept.keys() == own.keys()
    for client, memory in kept.items():
        reference = torch.cat([w.reshape(-1) for w in own[client]])
        torch.testing.assert_close(memory["personal_model"], reference, rtol=1e-12, atol=1e-14)


def test_fedadam_and_momentum_step_on_the_averaged_change(tools):
    for server in (FedAdam(lr=0.01), FedAvgM(lr=0.5, momentum=0.9)):
        module = tools.Regression()
        leaves = [nn.Parameter(w) for w in copies(module)]
        optimizer = server(leaves)

        def step(x: Weights, results: list[tuple[int, int, Weights]], leaves=leaves, optimizer=optimizer) -> Weights:
            for leaf, now, mean in zip(leaves, x, average(x, results), strict=True):
                leaf.grad = now - mean
            optimizer.step()
            return [leaf.detach().clone() for leaf in leaves]

        expected = by_hand(tools, PARTITION, 3, lambda client: 4, plain_local, step)
        torch.testing.assert_close(fitted(tools, PARTITION, server_optimizer=server), expected, rtol=1e-11, atol=1e-13)
