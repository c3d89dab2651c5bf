"""Modules that optimise by hand, with several optimizers, and optimizers that evaluate their closure several times."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy import DifferentialPrivacy
from lightning_privacy._lightning import LightningModule
from lightning_privacy.accounting import GaussianRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded, PrivacyViolation, UnsupportedError

NOISELESS = pytest.mark.filterwarnings("ignore:noise_multiplier=0")


class Gan(LightningModule):
    """Only the critic sees data."""

    def __init__(self, *, toggle: bool = True, leaks: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        self.critic = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        self.toggle, self.leaks = toggle, leaks
        self.critic_gradients: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        real = batch[0]
        optimizer_g, optimizer_c = self.optimizers()
        noise = torch.randn(len(real), 2, dtype=torch.float64)
        if self.toggle:
            self.toggle_optimizer(optimizer_g)
        optimizer_g.zero_grad()
        fake = self.generator(noise)
        loss = -self.critic(fake).mean()
        if self.leaks:
            loss = loss + (fake - real).square().mean()
        self.manual_backward(loss)
        optimizer_g.step()
        if self.toggle:
            self.untoggle_optimizer(optimizer_g)
            self.toggle_optimizer(optimizer_c)
        optimizer_c.zero_grad()
        self.manual_backward((self.critic(self.generator(noise).detach()) - self.critic(real)).mean())
        self.critic_gradients.append(torch.cat([p.grad.flatten() for p in self.critic.parameters()]).clone())
        optimizer_c.step()
        if self.toggle:
            self.untoggle_optimizer(optimizer_c)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.generator.parameters()), torch.optim.Adam(self.critic.parameters())


class Plain(LightningModule):
    """One network, an optimizer for each half, by hand."""

    def __init__(self, backwards: int = 1) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.automatic_optimization = False
        self.first, self.second = nn.Linear(3, 4).double(), nn.Linear(4, 1).double()
        self.backwards = backwards

    def loss(self, batch: list[Tensor]) -> Tensor:
        return (self.second(torch.tanh(self.first(batch[0]))) - batch[1]).square().mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        for _ in range(self.backwards):
            self.manual_backward(self.loss(batch))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9) for part in (self.first, self.second)]


@pytest.mark.parametrize("toggle", [True, False], ids=["toggled", "both"])
def test_p24_a_generator_that_sees_no_data_costs_nothing(tiny: Any, toggle: bool) -> None:
    module = Gan(toggle=toggle)
    before = copy.deepcopy(module.generator.state_dict())
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, public="generator")
    tiny.trainer(max_epochs=2, callbacks=[privacy]).fit(module, tiny.loader(24))
    assert privacy.ledger.groups == ((SampledGaussian(1.0, 4 / 24), 12),)
    assert any(not torch.equal(before[name], value) for name, value in module.generator.state_dict().items())
    assert len(module.critic_gradients) == 12


class Usual(Gan):
    """As GANs are written: the critic first, a loss for each kind of image."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        real = batch[0]
        optimizer_g, optimizer_c = self.optimizers()
        ones, zeros = torch.ones(len(real), 1).double(), torch.zeros(len(real), 1).double()
        criterion = nn.functional.binary_cross_entropy_with_logits
        if self.toggle:
            self.toggle_optimizer(optimizer_c)
        optimizer_c.zero_grad()
        fake = self.generator(torch.randn(len(real), 2, dtype=torch.float64))
        loss = criterion(self.critic(real), ones) + criterion(self.critic(fake.detach()), zeros)
        self.manual_backward(loss)
        optimizer_c.step()
        if self.toggle:
            self.untoggle_optimizer(optimizer_c)
            self.toggle_optimizer(optimizer_g)
        optimizer_g.zero_grad()
        fake = self.generator(torch.randn(len(real), 2, dtype=torch.float64))
        self.manual_backward(criterion(self.critic(fake), ones))
        optimizer_g.step()
        if self.toggle:
            self.untoggle_optimizer(optimizer_g)


@NOISELESS
@pytest.mark.parametrize("probe", [True, False], ids=["probe", "no probe"])
@pytest.mark.parametrize("toggle", [True, False], ids=["toggled", "both"])
def test_p24_a_gan_as_it_is_usually_written(tiny: Any, toggle: bool, probe: bool) -> None:
    weights = []
    for private in (False, True):
        privacy = DifferentialPrivacy(
            delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9, public="generator", probe=probe
        )
        module = Usual(toggle=toggle)
        torch.manual_seed(7)
        trainer = tiny.trainer(max_epochs=3, callbacks=[privacy] if private else [])
        trainer.fit(module, tiny.loader(24, batch_size=24, shuffle=False))
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-9)


def test_p24_data_that_reaches_a_public_part_is_refused(tiny: Any) -> None:
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, public="generator")
    with pytest.raises(UnsupportedError, match="public"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Gan(leaks=True), tiny.loader(24))
    assert not privacy.ledger.history


class Polyak(torch.optim.Optimizer):
    """Sets its step by the loss."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1.0})
        self.losses: list[float] = []

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = closure()
        self.losses.append(float(loss))
        return loss


def test_p24_an_optimizer_is_not_shown_the_loss(tiny: Any) -> None:
    module = tiny.Module()
    optimizer = Polyak(module.parameters())
    module.configure_optimizers = lambda: optimizer
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, probe=False)
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(module, tiny.loader(24))
    assert len(optimizer.losses) == 6
    assert all(loss != loss for loss in optimizer.losses)


def test_p24_a_gradient_that_nobody_steps_on_is_a_caveat(tiny: Any) -> None:
    class Choosy(Plain):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            loss = self.loss(batch)
            self.manual_backward(loss)
            if loss < 0:
                self.optimizers()[0].step()

    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, probe=False)
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Choosy(), tiny.loader(24))
    assert any("no optimizer stepped on" in caveat for caveat in privacy.ledger.caveats)


@NOISELESS
def test_p24_the_generator_learns_as_without_privacy(tiny: Any) -> None:
    """With all data in each batch, no noise and a huge bound, every weight is that of a plain run."""
    weights = []
    for callbacks in (
        [],
        [DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9, public="generator")],
    ):
        module = Gan()
        torch.manual_seed(7)
        tiny.trainer(max_epochs=3, callbacks=callbacks).fit(module, tiny.loader(24, batch_size=24, shuffle=False))
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-9)


def test_p24_a_part_that_is_not_declared_public_is_private(tiny: Any) -> None:
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, probe=False)
    with pytest.raises(PrivacyViolation, match=r"no private step was due|second backward"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Gan(), tiny.loader(24))


def test_p24_a_public_part_must_exist(tiny: Any) -> None:
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, public="generators")
    with pytest.raises(ConfigurationError, match="public='generators' names no part of Gan: it has 'generator', 'cri"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Gan(), tiny.loader(24))


@NOISELESS
def test_p24_two_optimizers_step_on_one_release(tiny: Any) -> None:
    weights = []
    for callbacks in ([], [DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9)]):
        module = Plain()
        trainer = tiny.trainer(max_epochs=4, callbacks=callbacks)
        trainer.fit(module, tiny.loader(24, batch_size=24, shuffle=False))
        assert trainer.global_step == 8  # Lightning counts the steps of both
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-9)


def test_p24_each_batch_is_charged_once_and_drawn_whole(tiny: Any) -> None:
    module = Plain()
    sizes: list[int] = []
    module.loss = lambda batch, loss=module.loss: (sizes.append(len(batch[0])), loss(batch))[1]
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, probe=False)
    trainer = tiny.trainer(max_epochs=5, callbacks=[privacy])
    trainer.fit(module, tiny.loader(24))
    assert privacy.ledger.groups == ((SampledGaussian(1.0, 4 / 24), 30),)
    assert len(sizes) == 30
    assert max(sizes) > 4  # a draw is not cut, as every batch is a step


def test_p24_a_second_gradient_of_the_same_random_batch_is_refused(tiny: Any) -> None:
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, probe=False)
    with pytest.raises(PrivacyViolation, match="Add the losses up and call backward once"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Plain(backwards=2), tiny.loader(24))
    assert sum(count for _, count in privacy.ledger.groups) == 1


def test_p24_batches_without_a_private_step_are_a_caveat(tiny: Any) -> None:
    class Seldom(Plain):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            if batch_idx % 2:
                super().training_step(batch, batch_idx)

    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, probe=False)
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Seldom(), tiny.loader(24))
    assert privacy.ledger.groups == ((SampledGaussian(1.0, 4 / 24), 3),)
    assert any("made no private step" in caveat for caveat in privacy.ledger.caveats)


def _quadratic(rows: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    y = (x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)).tanh()
    return DataLoader(TensorDataset(x, y, torch.arange(rows)), batch_size=rows)


@NOISELESS
def test_p24_lbfgs_on_the_whole_data_is_plain_lbfgs_and_each_evaluation_is_charged(tiny: Any) -> None:
    weights, evaluations = [], 0
    for private in (False, True):
        module = tiny.Module()
        calls: list[int] = []
        module.loss = lambda batch, loss=module.loss, calls=calls: (calls.append(1), loss(batch))[1]
        module.configure_optimizers = lambda module=module: torch.optim.LBFGS(module.parameters(), lr=0.5, max_iter=5)
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9, probe=False)
        trainer = tiny.trainer(max_epochs=3, callbacks=[privacy] if private else [])
        trainer.fit(module, _quadratic(16))
        weights.append(module.weights())
        evaluations = len(calls)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-8, atol=1e-8)
    assert evaluations > 3
    assert sum(count for _, count in privacy.ledger.groups) == evaluations


@NOISELESS
def test_p24_lbfgs_learns_nothing_from_the_loss_itself(tiny: Any) -> None:
    """Its value has no noise: a search that ends where it stops to change would tell something about the data."""
    weights = []
    for flat in (False, True):
        module = tiny.Module()
        if flat:
            module.loss = lambda batch, loss=module.loss: (lambda value: value - value.detach())(loss(batch))
        module.configure_optimizers = lambda module=module: torch.optim.LBFGS(module.parameters(), lr=0.5, max_iter=5)
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=0.0, max_grad_norm=1e9, probe=False)
        tiny.trainer(max_epochs=2, callbacks=[privacy]).fit(module, _quadratic(16))
        weights.append(module.weights())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=1e-12)
    module = tiny.Module()
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters(), line_search_fn="strong_wolfe")
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, probe=False)
    with pytest.raises(UnsupportedError, match="line search, which compares losses"):
        tiny.trainer(max_epochs=2, callbacks=[privacy]).fit(module, _quadratic(16))


def test_p24_lbfgs_costs_what_its_evaluations_cost_and_keeps_the_budget(tiny: Any) -> None:
    module = tiny.Module()
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=4)
    privacy = DifferentialPrivacy(delta=1e-3, epsilon=2.0)
    tiny.trainer(max_epochs=3, callbacks=[privacy]).fit(module, _quadratic(16))
    ((release, count),) = privacy.ledger.groups
    assert release == SampledGaussian(privacy.noise_multiplier, 1.0)
    assert 3 < count <= 3 * 5
    reference = PrivacyLedger(delta=1e-3)
    reference.charge(GaussianRelease(privacy.noise_multiplier), count)
    assert privacy.ledger.epsilon(exact=True) == pytest.approx(reference.epsilon(exact=True), rel=1e-6)
    assert privacy.ledger.epsilon(exact=True) <= 2.0


def test_p24_lbfgs_stops_before_a_step_it_may_not_be_able_to_pay(tiny: Any) -> None:
    module = tiny.Module()
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=4)
    privacy = DifferentialPrivacy(delta=1e-3, epsilon=8.0, noise_multiplier=2.0, probe=False)
    trainer = tiny.trainer(max_epochs=50, callbacks=[privacy])
    try:
        trainer.fit(module, _quadratic(16))
    except PrivacyBudgetExceeded:
        pytest.fail("training should stop before the budget does")
    assert 0 < trainer.global_step < 50
    assert privacy.ledger.epsilon(exact=True) <= 8.0


def test_p24_lbfgs_on_random_batches_is_refused(tiny: Any) -> None:
    module = tiny.Module()
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters())
    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    with pytest.raises(UnsupportedError, match=r"LBFGS evaluates its closure several times.*batch_size = number of"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(module, tiny.loader(24))


def test_p26_a_resumed_manual_run_goes_on(tiny: Any, tmp_path: Any) -> None:
    checkpoint = tmp_path / "half.ckpt"
    whole, half = Plain(), Plain()

    def private() -> DifferentialPrivacy:
        return DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, noise=tiny.noise(), probe=False)

    tiny.trainer(max_epochs=4, callbacks=[private()]).fit(whole, tiny.loader(24))
    first = tiny.trainer(max_epochs=2, callbacks=[private()], default_root_dir=tmp_path)
    first.fit(half, tiny.loader(24))
    first.save_checkpoint(checkpoint)
    again, privacy = Plain(), private()
    tiny.trainer(max_epochs=4, callbacks=[privacy], default_root_dir=tmp_path).fit(
        again, tiny.loader(24), ckpt_path=checkpoint
    )
    assert privacy.ledger.groups == ((SampledGaussian(1.0, 4 / 24), 24),)
    for one, two in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
