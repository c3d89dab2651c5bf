"""The independence probe on parts declared public: what a batch, or the one before, does to how they are trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy._lightning import LightningModule
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.errors import UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:delta=0.01 is not below")


class Gan(LightningModule):
    """A generator without data, and a critic with them; subclasses say what else the step does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(2, 3), nn.Linear(3, 1)
        self.kept: Any = None

    def configure_optimizers(self) -> Any:
        generator = torch.optim.Adam(self.generator.parameters(), lr=0.05)
        return generator, torch.optim.SGD(self.critic.parameters(), lr=0.05)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0].float()
        fake = self.train_generator(real, batch_idx)
        _, optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.critic(fake.detach()) - self.critic(real)).mean())
        optimizer.step()

    def train_generator(self, real: Tensor, batch_idx: int) -> Tensor:
        optimizer, _ = self.optimizers()
        fake = self.generator(torch.randn(len(real), 2))
        optimizer.zero_grad()
        self.manual_backward(self.loss(fake, real))
        self.step(optimizer, real)
        return fake

    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        return -self.critic(fake).mean()

    def step(self, optimizer: Any, real: Tensor) -> None:
        optimizer.step()


class MatchingRemembered(Gan):
    """Feature matching with a running mean of the data of the batches before."""

    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        before, mean = self.kept, real.mean(0)
        self.kept = mean if before is None else 0.9 * before + 0.1 * mean
        return super().loss(fake, real) if before is None else (fake.mean(0) - before).square().mean()


class KeptAtBatchEnd(Gan):
    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        return super().loss(fake, real) if self.kept is None else (fake.mean(0) - self.kept).square().mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert outputs == {}
        self.kept = batch[0].float().mean(0)


class RememberingOutliers(Gan):
    """Another loss for good, once a value was too large."""

    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        before, self.kept = self.kept, self.kept or float(real.max()) > 20
        return super().loss(fake, real) * (2.0 if before else 1.0)


class RememberingLater(MatchingRemembered):
    """The same after a warm-up."""

    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        return Gan.loss(self, fake, real) if self.trainer.global_step == 0 else super().loss(fake, real)


class MatchingLater(Gan):
    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        loss = super().loss(fake, real)
        return loss if self.current_epoch == 0 else loss + (fake.mean(0) - real.mean(0)).square().mean()


class RateByData(Gan):
    def step(self, optimizer: Any, real: Tensor) -> None:
        optimizer.param_groups[0]["lr"] = 1e-5 * float(real.mean())
        optimizer.step()


class NextRateByData(Gan):
    def step(self, optimizer: Any, real: Tensor) -> None:
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 1e-5 * float(real.mean())


class StepByData(Gan):
    def step(self, optimizer: Any, real: Tensor) -> None:
        if float(real.max()) < 20:
            optimizer.step()


class StepsByData(Gan):
    def step(self, optimizer: Any, real: Tensor) -> None:
        for _ in range(1 + int(float(real.max()) > 20)):
            optimizer.step()


class WrittenGradient(Gan):
    def step(self, optimizer: Any, real: Tensor) -> None:
        self.generator.bias.grad.add_(real.mean(0))
        optimizer.step()


class ScaledByRawLoss(Gan):
    """The critic's loss as the step sees it decides how far the generator goes in the next batch."""

    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        before, self.kept = self.kept, float(self.critic(real).detach().mean())
        return super().loss(fake, real) * (1.0 if before is None else before)


class RunningMeanOfFakes(Gan):
    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        before, mean = self.kept, fake.detach().mean(0)
        self.kept = mean if before is None else 0.9 * before + 0.1 * mean
        return super().loss(fake, real) + (fake.mean(0) - self.kept).square().mean()


class KeptForTheLog(KeptAtBatchEnd):
    """Remembers the data, and trains nothing with that."""

    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        return Gan.loss(self, fake, real)


class ClippedTogether(Gan):
    """Clips by the norm of all gradients: the critic's are private by the time that anything sees them."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real, fake = batch[0].float(), self.generator(torch.randn(len(batch[0]), 2))
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward((self.critic(fake.detach()) - self.critic(real)).mean())
        self.manual_backward(-self.critic(fake).mean())
        nn.utils.clip_grad_norm_(self.parameters(), 0.01)
        for optimizer in self.optimizers():
            optimizer.step()


class WarmingUp(Gan):
    """Steps every second time, with a rate that grows, and averages the generator's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def train_generator(self, real: Tensor, batch_idx: int) -> Tensor:
        if batch_idx % 2:
            return self.generator(torch.randn(len(real), 2))
        self.optimizers()[0].param_groups[0]["lr"] = 0.01 * min(1.0, (self.trainer.global_step + 1) / 10)
        return super().train_generator(real, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for mean, weight in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(weight.detach(), 0.1)


class Accumulating(Gan):
    """Steps on the gradients of two batches."""

    def train_generator(self, real: Tensor, batch_idx: int) -> Tensor:
        fake = self.generator(torch.randn(len(real), 2))
        self.manual_backward(self.loss(fake, real))
        self.kept = (self.kept or 0) + 1
        if self.kept % 2 == 0:
            self.optimizers()[0].step()
            self.optimizers()[0].zero_grad()
        return fake


class WrittenForLater(Accumulating):
    """The same, with something added to the gradient that is left for the second batch."""

    def train_generator(self, real: Tensor, batch_idx: int) -> Tensor:
        fake = super().train_generator(real, batch_idx)
        if self.kept % 2:
            self.generator.bias.grad.add_(real.mean(0))
        return fake


@dataclass
class Fault:
    """A module in which data reach the generator, and what a note on the refusal says."""

    module: Callable[[], Gan]
    note: str = ""


FAULTS = [
    *map(Fault, (MatchingRemembered, KeptAtBatchEnd, RememberingOutliers, ScaledByRawLoss)),
    *map(Fault, (RateByData, NextRateByData, StepByData, StepsByData, WrittenGradient, WrittenForLater)),
    Fault(RememberingLater, "in epoch 1, at step 1, with batch_idx 1, and not before"),
    Fault(MatchingLater, "in epoch 1, at step 1, with batch_idx 1, and not before"),
]
SOUND = [Gan, RunningMeanOfFakes, KeptForTheLog, ClippedTogether, WarmingUp, Accumulating]


def private(**options: Any) -> DifferentialPrivacy:
    return DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, public="generator", **options)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.module.__name__)
def test_p24_data_that_reach_a_public_part_by_memory_or_by_its_steps_are_refused(tiny: Any, fault: Fault) -> None:
    privacy = private()
    with pytest.raises(UnsupportedError, match=r"'generator\.\w+' changed, which is declared public") as caught:
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(fault.module(), tiny.loader(24))
    assert not privacy.ledger.history
    assert fault.note in " ".join(getattr(caught.value, "__notes__", []))
    tiny.trainer(max_epochs=1, callbacks=[private(probe=False)]).fit(fault.module(), tiny.loader(24))


@pytest.mark.filterwarnings("ignore:'average.*', which no gradient trains, changed")
@pytest.mark.parametrize("module", SOUND, ids=lambda module: module.__name__)
def test_p24_public_parts_that_learn_from_no_data_are_trained(tiny: Any, module: type[Gan]) -> None:
    privacy, trained = private(), module()
    before = copy.deepcopy(trained.state_dict())
    tiny.trainer(max_epochs=2, callbacks=[privacy]).fit(trained, tiny.loader(24))
    assert sum(count for _, count in privacy.ledger.groups) == 12
    for part in ("generator.weight", "critic.weight"):
        assert not torch.equal(before[part], trained.state_dict()[part])


def test_public_parts_cost_some_more_rehearsals(tiny: Any) -> None:
    runs: list[int] = []

    class Counted(Gan):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            if type(self) is not Counted:  # a copy
                runs.append(len(batch[0]))
            super().training_step(batch, batch_idx)

    tiny.trainer(max_steps=2, callbacks=[private()]).fit(Counted(), tiny.loader(24))
    assert 60 <= len(runs) <= 85


def test_p03_what_a_hook_keeps_in_manual_optimisation_is_seen(tiny: Any) -> None:
    class Centred(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net, self.kept = nn.Linear(3, 1), torch.zeros(3)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = F.mse_loss(self.net(batch[0].float() - self.kept)[:, 0], batch[0].float()[:, 0])
            self.manual_backward(loss)
            optimizer.step()

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.kept = batch[0].float().mean(0)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
    with pytest.raises(UnsupportedError, match="the step remembers examples from batch to batch"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(Centred(), tiny.loader(24))
