"""Architectures trained for a few steps by an unchanged LightningModule and trainer, the probe included."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy import DifferentialPrivacy
from lightning_privacy._lightning import LightningModule

sys.path.insert(0, str(Path(__file__).parents[1] / "gradients"))

from architectures import IMAGE_NETWORKS, NETWORKS, bert, gpt2

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*check that you are in eager:UserWarning"),
]


class Trained(LightningModule):
    def __init__(self, network: nn.Module, losses: Callable[[Any, list[Tensor]], Tensor]) -> None:
        super().__init__()
        self.network, self.losses = network.float(), losses
        self.temperature = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return (self.losses(self, batch) * self.temperature.exp()).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def _fit(tiny: Any, network: nn.Module, losses: Callable[[Any, list[Tensor]], Tensor], *data: Tensor) -> None:
    module = Trained(network, losses)
    before = [p.detach().clone() for p in module.parameters() if p.requires_grad]
    privacy = DifferentialPrivacy(noise_multiplier=1.0, delta=1e-3, noise=tiny.noise())
    trainer = tiny.trainer(max_steps=3, max_epochs=2, callbacks=[privacy])
    trainer.fit(module, DataLoader(TensorDataset(*data), batch_size=4, shuffle=True))
    assert trainer.global_step == 3
    assert privacy.ledger.epsilon() > 0
    after = [p.detach() for p in module.parameters() if p.requires_grad]
    assert all(bool(p.isfinite().all()) and not torch.equal(b, p) for b, p in zip(before, after, strict=True))


def _classes(m: Any, batch: list[Tensor]) -> Tensor:
    return F.cross_entropy(m.network(batch[0]), batch[1], reduction="none")


def _outputs(m: Any, batch: list[Tensor]) -> Tensor:
    return torch.tanh(m.network(batch[0])).flatten(1).sum(1)


@pytest.mark.parametrize(("make", "size", "_laid_out"), IMAGE_NETWORKS.values(), ids=IMAGE_NETWORKS)
def test_image_network_fits(make: Callable[[], nn.Module], size: int, _laid_out: bool, tiny: Any) -> None:
    torch.manual_seed(4)
    _fit(tiny, make(), _classes, torch.randn(12, 3, size, size), torch.randint(0, 3, (12,)))


@pytest.mark.parametrize(("make", "data"), NETWORKS.values(), ids=NETWORKS)
def test_network_fits(make: Callable[[], nn.Module], data: Callable[[], Tensor], tiny: Any) -> None:
    torch.manual_seed(4)
    _fit(tiny, make(), _outputs, torch.cat([data() for _ in range(3)]))


def test_gpt2_fits(tiny: Any) -> None:
    torch.manual_seed(4)

    def losses(m: Any, batch: list[Tensor]) -> Tensor:
        logits = m.network(input_ids=batch[0], use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), batch[0][:, 1:], reduction="none").mean(1)

    _fit(tiny, gpt2(), losses, torch.randint(0, 11, (12, 5)))


def test_bert_fits(tiny: Any) -> None:
    torch.manual_seed(4)

    def losses(m: Any, batch: list[Tensor]) -> Tensor:
        logits = m.network(input_ids=batch[0], attention_mask=torch.ones_like(batch[0])).logits
        return F.cross_entropy(logits, batch[1], reduction="none")

    _fit(tiny, bert(), losses, torch.randint(0, 11, (12, 5)), torch.randint(0, 3, (12,)))
