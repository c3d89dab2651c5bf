"""Pitfalls in a whole fit, from the training step to the account; each test carries the id of its row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import Callback
from lightning_privacy.accounting import SampledGaussian
from lightning_privacy.accounting.sweep import SWEEP_CAVEAT
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.errors import PrivacyViolation, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:noise_multiplier=0", "ignore:delta=0.01 is not below")


def exact() -> DifferentialPrivacy:
    """Changes nothing about training where the sample rate is 1."""
    return DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9)


def private(noise_multiplier: float = 1.0) -> DifferentialPrivacy:
    return DifferentialPrivacy(delta=0.01, noise_multiplier=noise_multiplier)


def with_term(tiny: Any, term: Callable[[Any, Tensor], Tensor]) -> Any:
    """A module whose loss has one more term."""

    class WithTerm(tiny.Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch) + term(self, batch[0])

    return WithTerm()


# P05: terms that do not depend on the examples one by one


@pytest.mark.parametrize(
    "term",
    [
        lambda module, x: 0.01 * sum(p.square().sum() for p in module.parameters()),
        lambda module, x: 0.01 * module.net[2].weight.abs().sum(),
        lambda module, x: 0.01 * torch.cat([p.flatten() for p in module.parameters()]).norm(),
        lambda module, x: module.net[0].weight.mean() * x.mean(),
    ],
    ids=["L2", "L1 of one layer", "norm of all", "times a mean of the batch"],
)
def test_p05_a_penalty_on_weights_ends_the_fit_before_a_step(tiny: Any, term: Callable[[Any, Tensor], Tensor]) -> None:
    module, privacy = with_term(tiny, term), private()
    before = module.weights()
    trainer = tiny.trainer(max_epochs=1, callbacks=[privacy])
    with pytest.raises((PrivacyViolation, UnsupportedError), match=r"'net\.\d\.(weight|bias)'.*weight_decay"):
        trainer.fit(module, tiny.loader(24, 4))
    assert torch.equal(module.weights(), before)
    assert trainer.global_step == 0
    assert privacy.ledger.history == []


@pytest.mark.parametrize("rows", [1, 5])
def test_p05_a_term_of_a_fixed_input_is_refused(tiny: Any, rows: int) -> None:
    module = with_term(tiny, lambda module, x: module.net(torch.ones(rows, 3, dtype=torch.float64)).mean())
    with pytest.raises((PrivacyViolation, UnsupportedError), match=r"batch|rows|example"):
        tiny.trainer(max_epochs=1, callbacks=[private()]).fit(module, tiny.loader(12, 12))


def test_p05_a_penalty_on_what_an_example_activates_is_right(tiny: Any) -> None:
    def term(module: Any, x: Tensor) -> Tensor:
        return 0.1 * module.net[:2](x).square().sum(1).mean()

    plain, module = with_term(tiny, term), with_term(tiny, term)
    tiny.trainer(max_epochs=4).fit(plain, tiny.loader(12, 12, shuffle=False))
    tiny.trainer(max_epochs=4, callbacks=[exact()]).fit(module, tiny.loader(12, 12))
    torch.testing.assert_close(module.weights(), plain.weights(), rtol=1e-12, atol=1e-13)


def test_p05_weight_decay_of_the_optimizer_is_right(tiny: Any) -> None:
    plain, module = tiny.Module(), tiny.Module()
    for each in (plain, module):
        each.configure_optimizers = lambda each=each: torch.optim.AdamW(each.parameters(), lr=0.05, weight_decay=0.3)
    tiny.trainer(max_epochs=4).fit(plain, tiny.loader(12, 12, shuffle=False))
    tiny.trainer(max_epochs=4, callbacks=[exact()]).fit(module, tiny.loader(12, 12))
    torch.testing.assert_close(module.weights(), plain.weights(), rtol=1e-12, atol=1e-13)


# P10: examples that are not finite


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_p10_a_fit_goes_on_as_without_the_example_that_is_not_finite(tiny: Any, value: float) -> None:
    x, y, ids = (tensor.clone() for tensor in tiny.dataset(12).tensors)

    class WithoutLast(tiny.Module):
        def loss(self, batch: Any) -> Tensor:
            return (self.net(batch[0][:-1]) - batch[1][:-1]).square().sum() / 12

    plain, module = WithoutLast(), tiny.Module()
    tiny.trainer(max_epochs=4).fit(plain, DataLoader(TensorDataset(x, y, ids), 12))
    x[-1] = value
    tiny.trainer(max_epochs=4, callbacks=[exact()]).fit(module, DataLoader(TensorDataset(x.clone(), y, ids), 12))
    torch.testing.assert_close(module.weights(), plain.weights(), rtol=1e-12, atol=1e-13)


# P12 and P20: how many steps there are, and what they cost


@pytest.mark.parametrize("batches", [93])
def test_p12_an_epoch_loses_no_step_to_rounding(tiny: Any, batches: int) -> None:
    assert int(1 / (1 / batches)) == batches - 1, "these are numbers of batches for which a rate loses a step"
    privacy = private()
    trainer = tiny.trainer(max_epochs=1, callbacks=[privacy])
    trainer.fit(tiny.Module(), tiny.loader(batches, 1))
    assert trainer.global_step == batches
    assert privacy.ledger.history == [(SampledGaussian(1.0, 1 / batches), batches, "training")]


@pytest.mark.parametrize(("limit", "steps"), [(3, 6), (0.5, 10), (1.0, 22)])
def test_p20_a_limited_epoch_is_charged_for_its_steps_at_the_rate_of_the_whole_set(
    tiny: Any, limit: float, steps: int
) -> None:
    privacy = private()
    trainer = tiny.trainer(max_epochs=2, limit_train_batches=limit, callbacks=[privacy])
    trainer.fit(tiny.Module(), tiny.loader(41, 4))
    assert trainer.global_step == steps
    assert privacy.ledger.history == [(SampledGaussian(1.0, 4 / 41), steps, "training")]


@pytest.mark.parametrize("option", ["overfit_batches", "reload_dataloaders_every_n_epochs"])
def test_p20_options_that_void_the_sample_rate_are_refused(tiny: Any, option: str) -> None:
    privacy = private()
    with pytest.raises(UnsupportedError, match=rf"{option}=2"):
        tiny.trainer(max_epochs=1, callbacks=[privacy], **{option: 2}).fit(tiny.Module(), tiny.loader(24, 4))
    assert privacy.ledger.history == []


# P22: who sees gradients


def test_p22_every_hook_on_gradients_sees_what_the_optimizer_steps_on(tiny: Any) -> None:
    """With a clipping norm of 1e-6 a raw gradient would stand out from the noise by a factor of thousands."""
    seen: dict[str, list[float]] = {}

    def look(hook: str, module: nn.Module) -> None:
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        seen.setdefault(hook, []).extend(float(grad.abs().max()) for grad in grads)

    class Look(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            look("on_after_backward", pl_module)

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            look("on_before_optimizer_step", pl_module)

        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            look("on_before_zero_grad", pl_module)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            look("on_train_batch_end", pl_module)

    class Clips(tiny.Module):
        def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
            look("configure_gradient_clipping", self)

    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, max_grad_norm=1e-6)
    trainer = tiny.trainer(max_epochs=3, accumulate_grad_batches=2, callbacks=[Look(), privacy])
    trainer.fit(Clips(), tiny.loader(24, 4))
    assert set(seen) >= {"on_after_backward", "on_before_optimizer_step", "configure_gradient_clipping"}
    # Noise of standard deviation 1e-6 / 8 and a sum of at most 24 C: raw gradients are above 1e-3.
    assert all(value < 1e-5 for values in seen.values() for value in values)
    assert len(seen["on_before_optimizer_step"]) == 4 * trainer.global_step


# P35: one notion of neighbouring data sets


def test_p35_a_run_is_accounted_under_one_adjacency_and_states_the_other_apart(tiny: Any) -> None:
    privacy = private(2.0)
    tiny.trainer(max_epochs=2, callbacks=[privacy]).fit(tiny.Module(), tiny.loader(24, 4))
    ledger = privacy.ledger
    own, other = ledger.epsilon(exact=True), ledger.replace_one_epsilon()
    assert other is not None
    assert own < other
    text = ledger.summary()
    assert f"epsilon {math.ceil(own * 1000) / 1000:.3f} at delta" in text
    assert f"replaced by any other example: epsilon {math.ceil(other * 1000) / 1000:.3f}." in text


# P32: a run of a sweep


@pytest.mark.parametrize("swept", [False, True], ids=["alone", "swept"])
def test_p32_a_run_of_a_sweep_says_that_the_sweep_costs_more(tiny: Any, monkeypatch: Any, swept: bool) -> None:
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    if swept:
        monkeypatch.setenv("WANDB_SWEEP_ID", "a1b2c3d4")
    privacy = private()
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(tiny.Module(), tiny.loader(24, 4))
    assert (SWEEP_CAVEAT in privacy.ledger.caveats) is swept
    assert (SWEEP_CAVEAT[:60] in " ".join(privacy.ledger.summary().split())) is swept
