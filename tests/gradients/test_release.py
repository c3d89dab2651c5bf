"""When a gradient becomes visible, what is charged for it, and what is left behind (P21, P25, P27, P30)."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from brute_force import clipped_sum, engine_for, example_gradients, grads, norm, outputs_loss, relative_error, slices
from torch import Tensor, nn

from lightning_privacy.errors import PrivacyBudgetExceeded, PrivacyViolation
from lightning_privacy.gradients import PrivateGradients
from lightning_privacy.mechanisms.noise import NoiseSource


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(60)


class Network(nn.Module):
    """Importable, so that it can be pickled: a layer with a rule, a fallback, and a layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.prelu = nn.PReLU(4)
        self.head = nn.Linear(4, 4)
        self.again = self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.head(self.prelu(self.first(x))))


def _x(size: int = 4) -> Tensor:
    return torch.randn(size, 5, dtype=torch.float64)


def _network() -> Network:
    return Network().double()


def _step(engine: PrivateGradients, model: nn.Module, x: Tensor, step: int = 0, **options: Any) -> None:
    engine.arm(batch_size=len(x), step=step, **options)
    outputs_loss(model, x).mean().backward()


def _expected(model: nn.Module, x: Tensor, bound: float) -> list[Tensor]:
    return clipped_sum(example_gradients(model, slices((x,)), outputs_loss), bound)


# P21


def test_p21_no_hook_ever_sees_a_gradient_that_is_not_private() -> None:
    """Hooks on every layer look at every parameter's ``grad`` throughout forward and backward."""
    model, x = _network(), _x()
    seen: list[Tensor] = []

    def look(*_: Any) -> None:
        seen.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)

    calls: list[str] = []
    x = x.requires_grad_()
    for layer in model.modules():
        layer.register_forward_hook(look)
        layer.register_full_backward_pre_hook(look)
        layer.register_full_backward_hook(look)
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: calls.append(name))
        parameter.register_hook(lambda _, name=name: calls.append(name))
    engine = engine_for(model, max_grad_norm=0.1, noise_multiplier=1.0)
    for step in range(2):
        seen.clear()
        before = [p.grad for p in model.parameters()]
        copies = [None if g is None else g.clone() for g in before]
        _step(engine, model, x, step)
        # What was seen is nothing, or what the step before released.
        released = [g for g in copies if g is not None]
        assert all(any(g.shape == r.shape and torch.equal(g, r) for r in released) for g in seen)
        assert len(seen) == 0 or step == 1
    assert calls == []


def test_p21_gradients_appear_all_at_once_at_the_end_of_the_last_micro_batch() -> None:
    model, x = _network(), _x()
    engine = engine_for(model)
    _step(engine, model, x, closes_step=False)
    assert all(p.grad is None for p in model.parameters())
    assert not engine.is_private()
    _step(engine, model, x)
    assert all(p.grad is not None for p in model.parameters())
    assert engine.is_private()


def test_p21_is_private_knows_its_own_gradients() -> None:
    model, x = _network(), _x()
    engine = engine_for(model)
    assert not engine.is_private()
    _step(engine, model, x)
    assert engine.is_private()
    model.first.weight.grad.mul_(0.5)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    assert engine.is_private(), "changes in place are post-processing"
    model.first.weight.grad = torch.ones_like(model.first.weight)
    assert not engine.is_private()
    _step(engine, model, x, 1)
    model.zero_grad()
    model.first.bias.grad = torch.ones_like(model.first.bias)
    assert not engine.is_private()
    _step(engine, model, x, 2)
    engine.consume()
    assert not engine.is_private()


# P25


def test_p25_the_same_step_again_has_other_noise() -> None:
    model, x = _network(), _x()
    engine = engine_for(model, noise_multiplier=1.0, noise=NoiseSource())
    noise = []
    for _ in range(2):
        torch.manual_seed(0)
        _step(engine, model, x, 7)
        noise.append(torch.cat([g.flatten() for g in grads(model)]))
    assert not bool((noise[0] == noise[1]).any())


@pytest.mark.filterwarnings("ignore::lightning_privacy.mechanisms.noise.SeededNoiseWarning")
def test_p25_a_seed_repeats_the_noise_of_a_step_and_no_other() -> None:
    model, x = _network(), _x()
    noise = []
    for step in (7, 7, 8):
        engine = engine_for(model, noise_multiplier=1.0, noise=NoiseSource(3))
        _step(engine, model, x, step)
        noise.append(torch.cat([g.flatten() for g in grads(model)]))
        engine.detach()
    assert torch.equal(noise[0], noise[1])
    assert not bool((noise[0] == noise[2]).any())


# P27


def _dictionaries(model: nn.Module) -> list[dict[str, Any]]:
    return [dict(vars(layer)) for layer in model.modules()]


def test_p27_detaching_leaves_the_module_as_it_was() -> None:
    model, x = _network(), _x()
    before, plain = _dictionaries(model), model(x).detach()
    engine = engine_for(model)
    _step(engine, model, x)
    engine.attach()
    engine.detach()
    engine.detach()
    for old, new in zip(before, _dictionaries(model), strict=True):
        assert old.keys() == new.keys()
        assert all(old[key] is new[key] for key in old)
    assert all(p.grad is None and not p._backward_hooks for p in model.parameters())
    assert torch.equal(model(x), plain)
    outputs_loss(model, x).mean().backward()
    raw = _expected(model, x, 1e9)
    assert relative_error([p.grad for p in model.parameters() if p.grad is not None], [g / 4 for g in raw]) < 1e-12
    reference = weakref.ref(engine)
    del engine
    gc.collect()
    assert reference() is None, "something on the module still holds the engine"


def test_p27_a_forward_that_was_replaced_before_is_put_back() -> None:
    model = _network()

    def patched(x: Tensor) -> Tensor:
        return 2 * x

    model.head.forward = patched
    engine = engine_for(model)
    assert copy.deepcopy(model).head(torch.ones(1)) == 2
    engine.detach()
    assert vars(model.head)["forward"] is patched


def _pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def _saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": _pickled,
    "torch.save": _saved,
    "copy of a copy": lambda model: copy.deepcopy(copy.deepcopy(model)),
    "average": lambda model: torch.optim.swa_utils.AveragedModel(model).module,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_p27_copies_carry_nothing_and_compute_with_their_own_weights(
    duplicate: Callable[[nn.Module], nn.Module],
) -> None:
    model, x = _network(), _x()
    engine = engine_for(model, max_grad_norm=0.1)
    _step(engine, model, x)
    other = duplicate(model)
    assert [p.grad is None or not p._backward_hooks for p in other.parameters()]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
        plain = _network()
        plain.load_state_dict(other.state_dict())
        assert torch.equal(other(x), plain(x))
        assert not torch.equal(other(x), model(x))
        assert torch.equal(other.first(x), plain.first(x))

    # A backward through the copy is an ordinary one, and is no business of the engine.
    other.zero_grad()
    outputs_loss(other, x).mean().backward()
    outputs_loss(plain, x).mean().backward()
    for mine, theirs in zip(other.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    assert engine.released == 1
    assert engine.is_private()

    # The copy can be trained privately by rules, not by the fallback.
    fresh = engine_for(other, max_grad_norm=0.1)
    other.first.weight.data.copy_(model.first.weight.data)
    _step(fresh, other, x)
    assert relative_error(grads(other), _expected(plain_copy(other), x, 0.1)) < 1e-9


def plain_copy(model: nn.Module) -> nn.Module:
    plain = _network()
    plain.load_state_dict(model.state_dict())
    return plain


def test_p27_attaching_twice_is_attaching_once() -> None:
    model, x = _network(), _x()
    engine = engine_for(model, max_grad_norm=0.1)
    engine.attach()
    _step(engine, model, x)
    assert relative_error(grads(model), _expected(model, x, 0.1)) < 1e-9
    engine.detach()
    assert all("forward" not in vars(layer) for layer in model.modules())


def test_p27_a_second_engine_on_the_same_module_is_refused() -> None:
    model, x = _network(), _x()
    engine = engine_for(model, max_grad_norm=0.1)
    with pytest.raises(PrivacyViolation, match="detach"):
        engine_for(model)
    _step(engine, model, x)
    assert relative_error(grads(model), _expected(model, x, 0.1)) < 1e-9
    engine.detach()
    second = engine_for(model, max_grad_norm=0.1)
    _step(second, model, x)
    assert relative_error(grads(model), _expected(model, x, 0.1)) < 1e-9


def test_p27_the_state_dictionary_is_the_plain_one() -> None:
    model = _network()
    before = model.state_dict()
    engine_for(model)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


# P30


class Charges:
    """Counts charges, and refuses from the n-th on."""

    def __init__(self, model: nn.Module, limit: int) -> None:
        self.model, self.limit, self.count = model, limit, 0

    def __call__(self) -> None:
        assert all(p.grad is None for p in self.model.parameters()), "released before it was charged"
        if self.count == self.limit:
            raise PrivacyBudgetExceeded("no budget left")
        self.count += 1


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_p30_what_can_not_be_charged_is_not_released(micro_batches: int) -> None:
    model, x = _network(), _x()
    charges = Charges(model, limit=1)
    engine = engine_for(model, noise_multiplier=1.0, charge=charges)

    def step(number: int) -> None:
        for part in range(micro_batches):
            _step(engine, model, x, number, closes_step=part == micro_batches - 1)

    step(0)
    assert (charges.count, engine.released) == (1, 1)
    with pytest.raises(PrivacyBudgetExceeded, match="no budget left"):
        step(1)
    assert (charges.count, engine.released) == (1, 1)
    assert all(p.grad is None for p in model.parameters())
    assert not engine.is_private()
    assert not engine.pending
    assert all(float(flat.abs().max()) == 0 for flat in engine._total.buffers.flat), "a noisy sum was left in memory"

    # After that, the next step starts from nothing.
    charges.limit, engine.noise_multiplier = 5, 0.0
    step(1)
    expected = [g * micro_batches for g in _expected(model, x, 1e9)]
    assert relative_error(grads(model), expected) < 1e-9


def test_p30_each_step_is_charged_once_and_micro_batches_are_not() -> None:
    model, x = _network(), _x()
    charges = Charges(model, limit=100)
    engine = engine_for(model, charge=charges)
    for step in range(3):
        for last in (False, False, True):
            _step(engine, model, x, step, closes_step=last)
    _step(engine, model, x[:0], 3)
    _step(engine, model, x, 4, empty=True)
    assert (charges.count, engine.released) == (5, 5)


def test_p30_noise_alone_is_charged_too() -> None:
    model = _network()
    charges = Charges(model, limit=1)
    engine = engine_for(model, noise_multiplier=1.0, charge=charges)
    engine.release_noise(step=0)
    assert engine.is_private()
    assert norm(grads(model)) > 0
    with pytest.raises(PrivacyBudgetExceeded):
        engine.release_noise(step=1)
    assert all(p.grad is None for p in model.parameters())


def test_discarding_leaves_no_partial_sum() -> None:
    model, x = _network(), _x()
    engine = engine_for(model, noise_multiplier=1.0)
    _step(engine, model, x, closes_step=False)
    assert any(float(flat.abs().max()) > 0 for flat in engine._total.buffers.flat)
    engine.discard()
    assert all(float(flat.abs().max()) == 0 for flat in engine._total.buffers.flat)
    assert not engine.is_private()


def test_a_backward_that_fails_midway_leaves_nothing() -> None:
    model, x = _network(), _x()
    engine = engine_for(model, max_grad_norm=0.1)

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise ValueError("broken")

    engine.arm(batch_size=4, step=0)
    with pytest.raises(ValueError, match="broken"):
        model.head(Broken.apply(model.first(x))).sum(1).mean().backward()
    assert engine.released == 0
    assert all(p.grad is None for p in model.parameters())
    _step(engine, model, x)
    assert relative_error(grads(model), _expected(model, x, 0.1)) < 1e-9


def test_knows_its_parameters() -> None:
    model = _network()
    engine = engine_for(model)
    assert all(engine.knows(p) for p in model.parameters())
    assert not engine.knows(nn.Parameter(torch.zeros(1)))
    assert engine.module is model


def test_p11_a_summed_loss_stays_bounded_when_an_example_is_replaced_by_nothing() -> None:
    """The guarantee replaces a record by an empty one: the draw keeps its size, so the others' parts stay the same."""
    bound = 1.0
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def clipped_sum(weights: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 1).double()
        engine = PrivateGradients(
            model, max_grad_norm=bound, noise_multiplier=0.0, expected_batch_size=1, noise=NoiseSource()
        )
        engine.attach()
        engine.arm(batch_size=6, step=0)
        (weights * model(x).square().squeeze(1)).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        engine.detach()
        return gradient

    everyone = torch.ones(6, dtype=torch.float64)
    for absent in range(6):
        without = everyone.clone()
        without[absent] = 0.0
        assert (clipped_sum(everyone) - clipped_sum(without)).norm() <= bound * (1 + 1e-9)
