"""DPOptimizer in plain PyTorch loops."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.errors import (
    ConfigurationError,
    PrivacyBudgetExceeded,
    PrivacyViolation,
    UnsupportedError,
)
from lightning_privacy.gradients import DPOptimizer
from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def _data(size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(size, 3, generator=generator, dtype=torch.float64),
        torch.randint(0, 2, (size,), generator=generator),
    )


def _wrap(model: nn.Module, inner: torch.optim.Optimizer | None = None, **settings) -> DPOptimizer:
    settings = {"noise_multiplier": 0.0, "max_grad_norm": 1e9, "expected_batch_size": 6, **settings}
    return DPOptimizer(inner or torch.optim.SGD(model.parameters(), lr=0.1), model, **settings)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_without_noise_and_clipping_it_is_the_plain_optimizer(kind):
    model = _model()
    plain = copy.deepcopy(model)
    private = _wrap(model, kind(model.parameters(), lr=0.05))
    reference = kind(plain.parameters(), lr=0.05)
    x, y = _data()
    for _ in range(5):
        for network, optimizer in ((model, private), (plain, reference)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore::lightning_privacy.mechanisms.noise.SeededNoiseWarning")
def test_p17_micro_batches_make_the_step_of_the_whole_batch():
    x, y = _data()
    results = []
    for split in ([6], [2, 4], [1, 2, 3]):
        model = _model()
        optimizer = _wrap(model, max_grad_norm=0.1, noise_multiplier=1.0, noise=NoiseSource(seed=3))
        *first, last = zip(x.split(split), y.split(split), strict=True)
        for part, labels in first:
            with optimizer.accumulate():
                nn.functional.cross_entropy(model(part), labels).backward()
            assert all(p.grad is None for p in model.parameters())
        nn.functional.cross_entropy(model(last[0]), last[1]).backward()
        optimizer.step()
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(results[2], results[0], rtol=1e-12, atol=1e-14)


def test_zero_grad_drops_what_was_accumulated():
    x, y = _data()
    model, once = _model(), _model()
    optimizer, reference = _wrap(model), _wrap(once)
    with optimizer.accumulate():
        nn.functional.cross_entropy(model(x), y).backward()
    optimizer.zero_grad()
    for network, each in ((model, optimizer), (once, reference)):
        nn.functional.cross_entropy(network(x), y).backward()
        each.step()
    for ours, theirs in zip(model.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_closure_is_evaluated_once_and_its_loss_returned():
    model = _model()
    optimizer = _wrap(model)
    x, y = _data()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    expected = nn.functional.cross_entropy(model(x), y).item()
    assert optimizer.step(closure).item() == pytest.approx(expected)


def test_every_step_is_charged_before_and_the_budget_stops_it():
    model = _model()
    release = SampledGaussian(1.0, 0.5)
    probe = PrivacyLedger(delta=1e-5)
    probe.charge(release, count=2)
    ledger = PrivacyLedger(delta=1e-5, budget=probe.epsilon(exact=True))
    optimizer = _wrap(model, noise_multiplier=1.0, max_grad_norm=1.0, ledger=ledger, sample_rate=0.5)
    x, y = _data()
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert ledger.count(release) == 2
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    with pytest.raises(PrivacyBudgetExceeded):
        nn.functional.cross_entropy(model(x), y).backward()
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(PrivacyViolation):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_p18_an_empty_batch_is_charged_and_steps_on_noise():
    model = _model()
    ledger = PrivacyLedger(delta=1e-5)
    optimizer = _wrap(model, noise_multiplier=1.0, max_grad_norm=1.0, ledger=ledger, sample_rate=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.empty_step()
    assert ledger.count(SampledGaussian(1.0, 0.1)) == 1
    assert all((p != b).all() for p, b in zip(model.parameters(), before, strict=True))


def test_p21_no_step_without_a_private_gradient():
    model = _model()
    optimizer = _wrap(model)
    with pytest.raises(PrivacyViolation, match="no private gradient"):
        optimizer.step()
    x, y = _data()
    nn.functional.cross_entropy(model(x), y).backward()
    for parameter in model.parameters():
        parameter.grad = parameter.grad.clone()
    with pytest.raises(PrivacyViolation, match="in place"):
        optimizer.step()


def test_the_same_gradient_is_not_used_twice():
    model = _model()
    optimizer = _wrap(model)
    x, y = _data()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    with pytest.raises(PrivacyViolation):
        optimizer.step()


def test_schedulers_work_on_the_wrapper():
    model = _model()
    optimizer = _wrap(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    x, y = _data()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert optimizer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.filterwarnings("ignore::lightning_privacy.mechanisms.noise.SeededNoiseWarning")
def test_a_restored_optimizer_goes_on_with_the_next_noise():
    x, y = _data()

    def steps(model: nn.Module, optimizer: DPOptimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    settings = {"noise_multiplier": 1.0, "max_grad_norm": 1.0}
    whole = _model()
    steps(whole, _wrap(whole, torch.optim.Adam(whole.parameters()), noise=NoiseSource(seed=5), **settings), 4)
    first = _model()
    optimizer = _wrap(first, torch.optim.Adam(first.parameters()), noise=NoiseSource(seed=5), **settings)
    steps(first, optimizer, 2)
    second = _model()
    second.load_state_dict(first.state_dict())
    resumed = _wrap(second, torch.optim.Adam(second.parameters()), noise=NoiseSource(seed=5), **settings)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(second, resumed, 2)
    for ours, theirs in zip(second.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_p25_a_seed_is_a_caveat_in_the_ledger():
    model = _model()
    ledger = PrivacyLedger(delta=1e-5)
    with pytest.warns(SeededNoiseWarning):
        noise = NoiseSource(seed=1)
    _wrap(model, noise_multiplier=1.0, noise=noise, ledger=ledger, sample_rate=0.1)
    assert "NOT PRIVATE" in ledger.summary()


def test_what_cannot_be_private_is_refused():
    model = _model()
    with pytest.raises(UnsupportedError, match="LBFGS"):
        _wrap(model, torch.optim.LBFGS(model.parameters()))
    foreign = nn.Linear(2, 2)
    with pytest.raises(
        ConfigurationError, match=r"no parameters of Sequential \(shape \(2, 2\) in group 0, \(2,\) in group 0\)"
    ):
        _wrap(model, torch.optim.SGD([*model.parameters(), *foreign.parameters()], lr=0.1))
    with pytest.raises(ConfigurationError, match="sample_rate"):
        _wrap(model, ledger=PrivacyLedger(delta=1e-5))
    with pytest.raises(ConfigurationError, match="max_grad_norm"):
        _wrap(model, max_grad_norm=0)
    with pytest.raises(ConfigurationError, match="clipping"):
        _wrap(model, clipping="per_weight")


def test_the_network_must_be_called_as_a_whole():
    model = _model()
    _wrap(model)
    x, _ = _data()
    with pytest.raises(ConfigurationError, match="call the module"):
        model[0](x)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_second_optimizer_on_the_same_gradients_is_refused(duplicate):
    with pytest.raises(TypeError, match="state_dict"):
        duplicate(_wrap(_model()))


def test_detach_gives_the_module_back():
    model = _model()
    optimizer = _wrap(model)
    x, y = _data()
    optimizer.detach()
    nn.functional.cross_entropy(model(x), y).backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(PrivacyViolation):
        optimizer.step()


def test_p28_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UnsupportedError, match=r"group of 2 processes .* strategy='ddp'"):
        _wrap(_model())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_fabric_sets_up_a_private_optimizer_as_any_other(precision: str):
    from lightning_fabric import Fabric

    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    ledger = PrivacyLedger(delta=1e-5)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.5),
        model,
        noise_multiplier=1e-6,
        max_grad_norm=0.1,
        expected_batch_size=4,
        ledger=ledger,
        sample_rate=0.1,
    )
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    wrapped, stepping = fabric.setup(model, optimizer)
    before = torch.cat([p.detach().flatten().double() for p in model.parameters()]).clone()
    stepping.zero_grad()
    fabric.backward(100 * wrapped(torch.ones(4, 3)).mean())
    stepping.step()
    after = torch.cat([p.detach().flatten().double() for p in model.parameters()])
    # Four gradients along (1, 1, 1, 1), each clipped to 0.1.
    torch.testing.assert_close(before - after, torch.full((4,), 0.5 * 0.1 / 2).double(), rtol=1e-3, atol=1e-4)
    assert len(ledger.history) == 1
