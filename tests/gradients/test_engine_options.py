"""Clipping policies, views, public parameters, loss scales, half precision and several processes, in the engine."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from brute_force import (
    clipped_sum,
    engine_for,
    example_gradients,
    grads,
    norm,
    outputs_loss,
    relative_error,
    slices,
    trainable,
)
from torch import Tensor, nn

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyViolation, UnsupportedError
from lightning_privacy.gradients import DPOptimizer, PrivateGradients
from lightning_privacy.gradients.clipping import AdaptiveClipping, AutomaticClipping, PerLayerClipping
from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning


def _seeded(seed: int = 3, *, secure: bool = False) -> NoiseSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed, secure=secure)


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * 25, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    ).double()


def _images(count: int) -> Tensor:
    return torch.randn(count, 2, 5, 5, generator=torch.Generator().manual_seed(1)).double()


# Policies


def test_per_layer_clipping_bounds_every_layer() -> None:
    model, x = _net(), _images(5)
    raw = example_gradients(model, slices((x,)), outputs_loss)
    bounds = [0.05, 0.02, 0.1, 0.01]
    engine = engine_for(model, clipping="per_layer", max_grad_norm=bounds)
    engine.arm(batch_size=5, step=0)
    outputs_loss(model, x).mean().backward()
    expected: list[Tensor] = []
    for layer, bound in enumerate(bounds):
        expected += clipped_sum([g[2 * layer : 2 * layer + 2] for g in raw], bound)
    assert relative_error(grads(model), expected) < 1e-9


def test_per_layer_bounds_of_the_wrong_number_are_refused() -> None:
    engine = PrivateGradients(
        _net(),
        max_grad_norm=[1.0, 2.0],
        clipping="per_layer",
        noise_multiplier=0.0,
        expected_batch_size=1,
        noise=NoiseSource(),
    )
    with pytest.raises(ConfigurationError, match=r"4 bounds, .*\(0, 1, 4, 6\), got 2"):
        engine.attach()


def test_per_layer_noise_covers_all_bounds_together() -> None:
    model = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 100))
    engine = engine_for(
        model, clipping=PerLayerClipping([3.0, 4.0]), max_grad_norm=1.0, noise_multiplier=2.0, noise=_seeded()
    )
    engine.release_noise(step=0)
    # 80,300 normals: the standard error of the deviation is 0.25%; 2% is eight of them.
    assert torch.cat([p.grad.flatten() for p in model.parameters()]).std().item() == pytest.approx(10.0, rel=0.02)


def test_automatic_clipping_scales_every_example() -> None:
    model, x = _net(), _images(5)
    raw = example_gradients(model, slices((x,)), outputs_loss)
    engine = engine_for(model, clipping=AutomaticClipping(0.5, gamma=0.1))
    engine.arm(batch_size=5, step=0)
    outputs_loss(model, x).mean().backward()
    expected = [
        sum(g * 0.5 / (norm(each) + 0.1) for g, each in zip(column, raw, strict=True))
        for column in zip(*raw, strict=True)
    ]
    assert relative_error(grads(model), expected) < 1e-9


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_p13_the_count_of_adaptive_clipping_is_noised_and_moves_the_bound(secure: bool) -> None:
    moved = []
    for step in range(400):
        policy = AdaptiveClipping(1.0, count_noise_std=3.0, learning_rate=1.0)
        model = nn.Linear(1, 1)
        engine = engine_for(
            model, clipping=policy, noise_multiplier=1.0, expected_batch_size=10, noise=_seeded(step, secure=secure)
        )
        engine.arm(batch_size=4, step=0)
        (100 * model(torch.ones(4, 1))).mean().backward()  # nobody is within the bound: the sum is -2
        moved.append(-math.log(policy.norm_bound) * 10)  # (count / m + 1/2 - 1/2) m
    counts = torch.tensor(moved)
    # 400 draws: the standard error of the mean is 0.15 and of the deviation 0.106; six of them each.
    assert abs(float(counts.mean()) + 2.0) < 0.9
    assert abs(float(counts.std()) - 3.0) < 0.64


def test_p13_micro_batches_and_empty_ones_are_counted_once() -> None:
    policy = AdaptiveClipping(1.0, count_noise_std=1e-9, learning_rate=1.0)
    model = nn.Linear(1, 1)
    engine = engine_for(model, clipping=policy, noise_multiplier=1e-9, expected_batch_size=8)
    for size, closes, empty in ((3, False, False), (1, False, True), (2, True, False)):
        engine.arm(batch_size=size, step=0, closes_step=closes, empty=empty)
        (100 * model(torch.ones(size, 1))).mean().backward()
    assert -math.log(policy.norm_bound) * 8 == pytest.approx(-2.5, abs=1e-6)
    before = policy.norm_bound
    engine.release_noise(step=1)  # nobody at all: half, as nobody says anything
    assert policy.norm_bound == pytest.approx(before, rel=1e-6)


def test_p13_two_optimizers_may_not_move_one_bound() -> None:
    policy = AdaptiveClipping(1.0, count_noise_std=1.0)
    one, two = nn.Linear(1, 1), nn.Linear(1, 1)
    first, second = (engine_for(m, clipping=policy, noise_multiplier=1.0, expected_batch_size=4) for m in (one, two))
    first.arm(batch_size=2, step=0, closes_step=False)
    one(torch.ones(2, 1)).mean().backward()
    second.release_noise(step=0)
    first.arm(batch_size=2, step=0)
    with pytest.raises(PrivacyViolation, match=r"changed from 1 to .* policy of its own"):
        one(torch.ones(2, 1)).mean().backward()


# Views


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_views_are_averaged_before_clipping(reduction: str) -> None:
    model, x = _net(), _images(12)
    raw = example_gradients(model, slices((x,)), outputs_loss)
    averaged = [[sum(v) / 3 for v in zip(*raw[3 * i : 3 * i + 3], strict=True)] for i in range(4)]
    bound = sorted(norm(g) for g in averaged)[2]
    engine = engine_for(model, views=3, max_grad_norm=bound, loss_reduction=reduction)
    engine.arm(batch_size=4, step=0)
    loss = outputs_loss(model, x)
    (loss.mean() if reduction == "mean" else loss.sum()).backward()
    assert relative_error(grads(model), clipped_sum(averaged, bound)) < 1e-9


@pytest.mark.parametrize("layer", ["embedding", "unknown"])
def test_views_of_other_layers(layer: str) -> None:
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(5).double())

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(x * self.scale)

    torch.manual_seed(0)
    if layer == "embedding":
        model: nn.Module = nn.Embedding(7, 3).double()
        x = torch.randint(0, 7, (6, 4))
    else:
        model, x = Unknown(), torch.randn(6, 5).double()
    raw = example_gradients(model, slices((x,)), outputs_loss)
    averaged = [[sum(v) / 2 for v in zip(*raw[2 * i : 2 * i + 2], strict=True)] for i in range(3)]
    bound = sorted(norm(g) for g in averaged)[1]
    engine = engine_for(model, views=2, max_grad_norm=bound)
    engine.arm(batch_size=3, step=0)
    outputs_loss(model, x).mean().backward()
    assert relative_error(grads(model), clipped_sum(averaged, bound)) < 1e-9


def test_views_that_do_not_divide_the_batch_are_refused() -> None:
    model = nn.Linear(3, 1)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        model,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=4,
        views=3,
    )
    with pytest.raises(ConfigurationError, match="views=3 doesn't divide the batch of 8 rows"):
        model(torch.ones(8, 3))
    optimizer.detach()
    engine = engine_for(model, views=3)
    engine.arm(batch_size=2, step=0)
    with pytest.raises(UnsupportedError, match=r"shape \(8, 1\), but the batch has 6"):
        model(torch.ones(8, 3))


# Public parameters


def test_p24_a_public_part_has_its_ordinary_gradient_and_is_never_private() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"critic": nn.Linear(3, 1), "generator": nn.Linear(2, 3)}).double()
    plain = copy.deepcopy(model)
    engine = engine_for(model, public=["generator.weight", "generator.bias"], noise_multiplier=1.0, max_grad_norm=1.0)
    z = torch.randn(7, 2).double()  # as many as it likes: it is no batch of examples
    engine.arm(batch_size=4, step=0)
    model["critic"].requires_grad_(False)
    model["critic"](model["generator"](z)).mean().backward()
    model["critic"].requires_grad_(True)
    plain["critic"](plain["generator"](z)).mean().backward()
    assert torch.equal(model["generator"].weight.grad, plain["generator"].weight.grad)
    assert (engine.released, engine.pending) == (0, True)
    assert model["critic"].weight.grad is None
    real = torch.randn(4, 3).double()
    model["critic"](real).mean().backward()
    assert engine.released == 1
    assert model["critic"].weight.grad is not None


def test_a_layer_that_is_public_in_part_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    engine = PrivateGradients(
        model, max_grad_norm=1.0, noise_multiplier=1.0, expected_batch_size=1, noise=NoiseSource(), public=["0.weight"]
    )
    with pytest.raises(UnsupportedError, match=r"layer '0' has private parameters \(bias\) and public ones"):
        engine.attach()
    with pytest.raises(ConfigurationError, match="covers every trainable parameter"):
        engine_for(model, public=[name for name, _ in model.named_parameters()])
    with pytest.raises(ConfigurationError, match=r"'2\.weight', which are no parameters"):
        engine_for(model, public=["2.weight"])


# Loss scales and precision


def test_p09_a_scaled_loss_gives_a_gradient_scaled_as_much() -> None:
    model, x = _net(), _images(4)
    raw = example_gradients(model, slices((x,)), outputs_loss)
    engine = engine_for(model, max_grad_norm=0.1)
    engine.arm(batch_size=4, step=0, loss_scale=1024.0, gradient_scale=1024.0)
    (1024.0 * outputs_loss(model, x).mean()).backward()
    assert relative_error([g / 1024.0 for g in grads(model)], clipped_sum(raw, 0.1)) < 1e-9
    noisy = engine_for(nn.Linear(500, 100), noise_multiplier=2.0, max_grad_norm=0.5, noise=_seeded())
    noisy.arm(batch_size=1, step=0, loss_scale=64.0, gradient_scale=64.0, empty=True)
    noisy.module(torch.ones(1, 500)).sum().backward()
    # 50,000 normals: 0.32% a standard error.
    assert noisy.module.weight.grad.std().item() == pytest.approx(64.0, rel=0.025)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_p09_half_precision_parameters_have_sums_in_single(dtype: torch.dtype) -> None:
    """A thousand examples that add the same little: in bfloat16 a sum stops growing at 256 of them."""
    model = nn.Linear(1, 1, bias=False).to(dtype)
    engine = engine_for(model, max_grad_norm=1.0)
    for part in range(100):
        engine.arm(batch_size=10, step=0, closes_step=part == 99)
        (3 * model(torch.ones(10, 1, dtype=dtype))).mean().backward()
    assert model.weight.grad.dtype == dtype
    assert model.weight.grad.item() == pytest.approx(1000.0, rel=0.005)


# Several evaluations, several processes, secure noise


def test_p24_each_further_backward_is_charged_and_has_its_own_noise() -> None:
    charges: list[int] = []
    model, x = nn.Linear(3, 2).double(), torch.zeros(4, 3).double()
    engine = engine_for(
        model, noise_multiplier=1.0, max_grad_norm=1.0, noise=_seeded(), charge=lambda: charges.append(1)
    )
    engine.arm(batch_size=4, step=0, again=True)
    released = []
    for _ in range(3):
        outputs_loss(model, x).mean().backward()
        released.append(grads(model)[0])
    assert len(charges) == engine.released == 3
    assert not torch.equal(released[0], released[1])
    assert not torch.equal(released[1], released[2])
    assert not engine.pending


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_p28_processes_add_up_and_one_adds_the_noise(secure: bool) -> None:
    """Two engines whose sums are put together by hand, against one that sees the whole batch."""
    x = _images(6)
    whole = _net()
    alone = engine_for(whole, max_grad_norm=0.1, noise_multiplier=0.5, noise=_seeded(secure=secure))
    alone.arm(batch_size=6, step=0)
    outputs_loss(whole, x).mean().backward()

    mailbox: list[Tensor] = []

    def follower(flat: Tensor) -> None:
        mailbox.append(flat.clone())

    def leader(flat: Tensor) -> None:
        if mailbox:
            flat += mailbox.pop(0)

    one, two = _net(), _net()
    options: dict[str, Any] = {"max_grad_norm": 0.1, "noise_multiplier": 0.5}
    second = engine_for(two, **options, noise=_seeded(9, secure=secure), reduce=follower, leader=False)
    second.arm(batch_size=2, step=0)
    outputs_loss(two, x[4:]).mean().backward()
    first = engine_for(one, **options, noise=_seeded(secure=secure), reduce=leader, leader=True)
    first.arm(batch_size=4, step=0)
    outputs_loss(one, x[:4]).mean().backward()
    assert relative_error(grads(one), grads(whole)) < (1e-9 if not secure else 1e-2)
    assert not any(g.any() for g in grads(two)) if secure else all(torch.isfinite(g).all() for g in grads(two))


def test_p29_a_secure_source_leaves_sums_on_a_grid() -> None:
    model, x = nn.Linear(40, 30), torch.randn(4, 40)
    engine = engine_for(
        model, max_grad_norm=1.0, noise_multiplier=1.0, expected_batch_size=3.0, noise=NoiseSource(secure=True)
    )
    engine.arm(batch_size=4, step=0)
    outputs_loss(model, x).mean().backward()
    std = 1.0 / 3.0
    grid = 2.0 ** math.floor(math.log2(std / 256))
    values = torch.cat([g.flatten() for g in grads(model)]).double() / grid
    assert torch.equal(values, values.round())
    assert float(values.std()) * grid == pytest.approx(std, rel=0.2)


def test_the_ledger_of_an_optimizer_holds_the_policy_s_release() -> None:
    model, ledger = nn.Linear(2, 1), PrivacyLedger(delta=1e-5)
    policy = AdaptiveClipping(1.0, count_noise_std=2.0)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        model,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=10,
        clipping=policy,
        ledger=ledger,
        sample_rate=0.1,
    )
    model(torch.ones(9, 2)).mean().backward()
    optimizer.step()
    assert ledger.groups == ((policy.release(1.0, 0.1), 1),)
    assert len(trainable(model)) == 2
