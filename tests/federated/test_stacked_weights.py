"""Stacked weights and their optimizer, against one optimizer for each client."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_privacy.federated.stacked_weights import StackedWeights

SHAPES = [(3, 2), (4,), ()]
OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.1, amsgrad=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1, centered=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.1),
}


def _weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def _groups(parameters):
    """Two groups, the second with settings of its own, in another order than the parameters."""
    return [{"params": [parameters[2], parameters[0]]}, {"params": [parameters[1]], "lr": 0.03, "weight_decay": 0.1}]


def _alone(make, start, gradients):
    """What a client's own optimizer makes of its gradients."""
    parameters = [nn.Parameter(weight.clone()) for weight in start]
    optimizer = make(_groups(parameters))
    for gradient in gradients:
        for parameter, value in zip(parameters, gradient, strict=True):
            parameter.grad = value
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_row_is_stepped_as_by_an_optimizer_of_its_own(name):
    """Clients with 5, 3 and 1 steps: who is done leaves, and the others keep their moments."""
    counts = [5, 3, 1]
    starts = [_weights(client) for client in range(3)]
    gradients = [[_weights(100 * client + step + 7) for step in range(5)] for client in range(3)]
    model = [nn.Parameter(weight) for weight in _weights(99)]
    before = [parameter.detach().clone() for parameter in model]
    stack = StackedWeights(OPTIMIZERS[name](_groups(model)), model, starts)
    found = [[], [], []]
    for step in range(5):
        active = sum(count > step for count in counts)
        for row in range(active, stack.rows):
            found[row] = stack.take(row)
        stack.shrink(active)
        assert stack.rows == active == len(stack.parameters[0])
        for place, parameter in enumerate(stack.parameters):
            parameter.grad = torch.stack([gradients[row][step][place] for row in range(active)])
        stack.step()
        assert all(parameter.grad is None for parameter in stack.parameters)
    found[0] = stack.take(0)
    for client in range(3):
        expected = _alone(OPTIMIZERS[name], starts[client], gradients[client][: counts[client]])
        for got, wanted in zip(found[client], expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(parameter, weight) for parameter, weight in zip(model, before, strict=True))


def test_what_is_taken_is_a_copy():
    weight = nn.Parameter(torch.zeros(2))
    stack = StackedWeights(torch.optim.SGD([weight], lr=1.0), [weight], [[torch.zeros(2)], [torch.ones(2)]])
    (taken,) = stack.take(1)
    taken += 5
    assert torch.equal(stack.take(1)[0], torch.ones(2))
    stack.parameters[0].grad = torch.ones(2, 2)
    stack.step()
    assert torch.equal(taken, torch.full((2,), 6.0))


def test_a_parameter_that_is_not_stacked_is_left_out():
    """A frozen one is in the optimizer's groups and not among the clients' weights."""
    free, frozen, alone = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [free, frozen]}, {"params": [alone]}], lr=1.0)
    stack = StackedWeights(optimizer, [free], [[torch.zeros(2)]] * 2)
    stack.parameters[0].grad = torch.ones(2, 2)
    stack.step()
    assert torch.equal(stack.parameters[0], -torch.ones(2, 2))
    assert frozen.tolist() == alone.tolist() == [1.0, 1.0]
