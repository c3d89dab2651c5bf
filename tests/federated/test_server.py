from __future__ import annotations

import math

import pytest
import torch

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.server import DiLoCo, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi

DELTAS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
START = [0.3, -0.2, 1.0]


# Each reference is the paper's update of one number, in plain floats.


def fed_avg(deltas, x, lr=0.5):
    for delta in deltas:
        x = x + lr * delta
    return x


def fed_avg_m(deltas, x, lr=0.5, momentum=0.8):
    velocity = 0.0
    for delta in deltas:
        velocity = momentum * velocity + delta
        x = x + lr * velocity
    return x


def diloco(deltas, x, lr=0.7, momentum=0.9):
    velocity = 0.0
    for delta in deltas:
        velocity = momentum * velocity + delta
        x = x + lr * (delta + momentum * velocity)
    return x


def adaptive(deltas, x, rule, lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3):
    m, v = 0.0, tau**2
    for delta in deltas:
        m = beta1 * m + (1 - beta1) * delta
        if rule == "adam":
            v = beta2 * v + (1 - beta2) * delta**2
        elif rule == "yogi":
            v = v - (1 - beta2) * delta**2 * math.copysign(1.0, v - delta**2)
        else:
            v = v + delta**2
        x = x + lr * m / (math.sqrt(v) + tau)
    return x


CASES = {
    "FedAvg": (FedAvg(lr=0.5), fed_avg),
    "FedAvgM": (FedAvgM(lr=0.5, momentum=0.8), fed_avg_m),
    "DiLoCo": (DiLoCo(), diloco),
    "FedAdam": (FedAdam(lr=0.1), lambda deltas, x: adaptive(deltas, x, "adam")),
    "FedAdam, large tau": (
        FedAdam(lr=0.1, betas=(0.5, 0.6), tau=0.3),
        lambda deltas, x: adaptive(deltas, x, "adam", 0.1, 0.5, 0.6, 0.3),
    ),
    "FedYogi": (FedYogi(lr=0.1), lambda deltas, x: adaptive(deltas, x, "yogi")),
    "FedYogi, squares fall": (
        FedYogi(lr=0.1, betas=(0.5, 0.6), tau=1.3),
        lambda deltas, x: adaptive(deltas, x, "yogi", 0.1, 0.5, 0.6, 1.3),
    ),
    "FedAdagrad": (FedAdagrad(lr=0.1), lambda deltas, x: adaptive(deltas, x, "adagrad", beta1=0.0)),
    "FedAdagrad, momentum": (
        FedAdagrad(lr=0.1, momentum=0.7, tau=0.01),
        lambda deltas, x: adaptive(deltas, x, "adagrad", 0.1, 0.7, tau=0.01),
    ),
}


def step(optimizer, parameters, deltas):
    for delta in deltas:
        parameters[0].grad = -torch.tensor(delta[:2], dtype=torch.float64)
        parameters[1].grad = -torch.tensor(delta[2:], dtype=torch.float64)
        optimizer.step()


def make(factory, values=START):
    tensors = torch.tensor(values[:2], dtype=torch.float64), torch.tensor(values[2:], dtype=torch.float64)
    parameters = [torch.nn.Parameter(each) for each in tensors]
    return factory(parameters), parameters


@pytest.mark.parametrize("name", CASES)
def test_each_equals_the_papers_update(name):
    factory, reference = CASES[name]
    optimizer, parameters = make(factory)
    step(optimizer, parameters, DELTAS)
    expected = [reference([delta[entry] for delta in DELTAS], START[entry]) for entry in range(3)]
    assert torch.cat(parameters).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_p43_moments_survive_a_resume(name):
    factory, _ = CASES[name]
    whole, wanted = make(factory)
    step(whole, wanted, DELTAS)
    first, before = make(factory)
    step(first, before, DELTAS[:3])
    second, after = make(factory, torch.cat(before).tolist())
    second.load_state_dict(first.state_dict())
    step(second, after, DELTAS[3:])
    assert torch.equal(torch.cat(after), torch.cat(wanted))


def test_a_parameter_without_an_aggregate_stays_and_a_closure_is_called():
    optimizer, parameters = make(FedAdam(lr=0.1))
    parameters[0].grad = torch.ones(2, dtype=torch.float64)
    assert optimizer.step(lambda: 0.25) == 0.25
    assert parameters[1].tolist() == START[2:]
    assert len(optimizer.state) == 1


def test_a_scheduler_sets_the_learning_rate():
    optimizer, parameters = make(FedYogi(lr=1.0))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.0)
    step(optimizer, parameters, DELTAS[:1])
    scheduler.step()
    before = torch.cat(parameters).clone()
    step(optimizer, parameters, DELTAS[1:])
    assert torch.equal(torch.cat(parameters), before)


@pytest.mark.parametrize(
    ("make_bad", "message"),
    [
        (lambda: FedAvg(lr=0.0), "lr must be.*0.0"),
        (lambda: FedAvgM(momentum=1.0), r"momentum must be a number in \[0, 1\), got 1.0"),
        (lambda: FedAvgM(lr=-1.0), "lr must be.*-1.0"),
        (lambda: DiLoCo(momentum=0.0), "momentum.*0.0"),
        (lambda: FedAdam(betas=(0.9, 1.0)), "betas must be a number.*1.0"),
        (lambda: FedAdam(betas=(0.9,)), "betas must be two numbers"),
        (lambda: FedYogi(tau=0.0), "tau must be.*0.0"),
        (lambda: FedAdagrad(momentum=True), "momentum.*True"),
        (lambda: FedAdagrad(tau=math.nan), "tau must be.*nan"),
    ],
)
def test_bad_numbers_are_named(make_bad, message):
    with pytest.raises(ConfigurationError, match=message):
        make_bad()
