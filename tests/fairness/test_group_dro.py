"""Group DRO: the paper's loop, written out; processes that share a batch; states."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.fairness.group_dro import GroupDROLoss


def _batches(seed=0, count=12, size=9, groups=3):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(size, 2, generator=generator, dtype=torch.float64)
        # Some batches lack a group.
        yield x, (x[:, 0] - x[:, 1]).sign(), torch.randint(0, groups, (size,), generator=generator)


def _losses(theta, x, y):
    return torch.nn.functional.softplus(-y * (x @ theta))


@pytest.mark.parametrize("adjustment", [0.0, 2.0], ids=["plain", "adjusted"])
def test_training_goes_where_the_paper_s_loop_goes(adjustment):
    sizes, step, rate = [100, 25, 4], 0.5, 0.3
    objective = GroupDROLoss(3, step_size=step, adjustment=adjustment, group_sizes=sizes)
    ours = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    theirs, q = [0.0, 0.0], [1 / 3] * 3
    lacking = 0
    for x, y, groups in _batches(size=5):
        loss = objective(_losses(ours, x, y), groups)
        (gradient,) = torch.autograd.grad(loss, ours)
        with torch.no_grad():
            ours -= rate * gradient

        # Algorithm 1, one example after the other; the loss of a group is the mean over its examples.
        members = [[i for i in range(5) if int(groups[i]) == g] for g in range(3)]
        lacking += sum(not m for m in members)
        margins = [float(y[i]) * (theirs[0] * float(x[i, 0]) + theirs[1] * float(x[i, 1])) for i in range(5)]
        means = [sum(math.log1p(math.exp(-margins[i])) for i in m) / len(m) if m else None for m in members]
        for g in range(3):
            if means[g] is not None:
                q[g] *= math.exp(step * (means[g] + adjustment / math.sqrt(sizes[g])))
        q = [weight / sum(q) for weight in q]
        descent = [0.0, 0.0]
        for g, m in enumerate(members):
            for i in m:
                slope = -float(y[i]) / (1 + math.exp(margins[i])) / len(m)
                for k in range(2):
                    descent[k] += q[g] * slope * float(x[i, k])
        theirs = [theirs[k] - rate * descent[k] for k in range(2)]
        assert objective.weights == pytest.approx(q, rel=1e-9)
        total = sum(q[g] * means[g] for g in range(3) if means[g] is not None)
        assert float(loss.detach()) == pytest.approx(total, rel=1e-9)
    assert lacking
    assert ours.tolist() == pytest.approx(theirs, rel=1e-9)


def test_processes_that_share_a_batch_do_what_one_does():
    alone, shared = GroupDROLoss(3, step_size=1.0), [GroupDROLoss(3, step_size=1.0) for _ in range(2)]
    theta = torch.tensor([0.3, -0.1], dtype=torch.float64, requires_grad=True)
    for x, y, groups in _batches(1):
        losses = _losses(theta, x, y)
        whole = torch.autograd.grad(alone(losses, groups), theta, retain_graph=True)[0]
        parts = [slice(0, 3), slice(3, None)]
        sums = torch.zeros(2, 3, dtype=torch.float64)
        sums[0].index_add_(0, groups, losses.detach())
        sums[1].index_add_(0, groups, torch.ones(len(groups), dtype=torch.float64))
        seen, gradients = [], []
        for objective, part in zip(shared, parts, strict=True):

            def add_up(own, seen=seen, sums=sums):
                seen.append(own)
                return sums

            loss = objective(losses[part], groups[part], add_up=add_up, processes=2)
            gradients.append(torch.autograd.grad(loss, theta, retain_graph=True)[0])
        torch.testing.assert_close(seen[0] + seen[1], sums)  # what each has to add
        torch.testing.assert_close((gradients[0] + gradients[1]) / 2, whole, rtol=1e-9, atol=0)
        for objective in shared:
            assert objective.weights == pytest.approx(alone.weights, rel=1e-9)


def test_a_group_whose_loss_is_not_a_number_does_not_take_all_weight():
    objective = GroupDROLoss(3, step_size=1.0)
    objective(torch.tensor([1.0, math.nan]), torch.tensor([0, 1]))
    assert objective.weights == pytest.approx([math.e / (math.e + 2), 1 / (math.e + 2), 1 / (math.e + 2)], rel=1e-6)


def test_losses_that_grow_for_long_do_not_overflow():
    objective = GroupDROLoss(2, step_size=10.0)
    for _ in range(50):
        objective(torch.tensor([100.0, 1.0]), torch.tensor([0, 1]))
    assert objective.weights == (1.0, 0.0)


def test_it_goes_on_from_a_saved_state():
    one = GroupDROLoss(3)
    for x, y, groups in _batches(2, count=3):
        one(_losses(torch.ones(2, dtype=torch.float64), x, y), groups)
    other = GroupDROLoss(3)
    other.load_state_dict(one.state_dict())
    assert other.weights == pytest.approx(one.weights, rel=1e-12) != GroupDROLoss(3).weights
    for state in ({}, {"logarithms": [0.0]}, {"logarithms": [0.0, 0.0, math.nan]}):
        with pytest.raises(CheckpointError, match="no weights of 3 groups"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_groups": 0}, "num_groups must be a whole number >= 1, got 0"),
        ({"step_size": 0.0}, "step_size must be a finite number > 0, got 0.0"),
        ({"adjustment": -1}, "adjustment must be a finite number >= 0, got -1"),
        ({"adjustment": 1.0}, "adjustment=1.0 needs group_sizes.* of the 2 groups, got None"),
        ({"adjustment": 1.0, "group_sizes": [3]}, r"needs group_sizes.* got \[3\]"),
        ({"adjustment": 1.0, "group_sizes": [3, 0]}, "group_sizes must be a finite number > 0, got 0"),
    ],
    ids=["groups", "step", "adjustment", "no sizes", "few sizes", "empty group"],
)
def test_numbers_out_of_range_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        GroupDROLoss(**{"num_groups": 2, **arguments})
