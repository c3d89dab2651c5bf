"""Callbacks that change the loss, with clients that train one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_privacy.callbacks import GroupDRO, Reweighing
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.federated import ExamplePrivacy, IIDPartition
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.mechanisms.noise import SeededNoiseWarning
from lightning_privacy.strategies import FederatedStrategy

COUNTS = [[30, 10], [10, 30]]


def grouped() -> TensorDataset:
    """Inputs, labels and groups of 24 people."""
    generator = torch.Generator().manual_seed(1)
    labels, groups = (torch.randint(0, 2, (24,), generator=generator) for _ in range(2))
    return TensorDataset(torch.randn(24, 3, generator=generator, dtype=torch.float64), labels, groups)


def module_of(tools: Any, *, by_hand: bool = False) -> Any:
    class Module(tools.Regression):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            losses = nn.functional.binary_cross_entropy_with_logits(
                self.net(batch[0])[:, 0], batch[1].double(), reduction="none"
            )
            if not by_hand:
                return {"loss": losses.mean(), "losses": losses}
            weights = torch.tensor([[2 / 3, 2.0], [2.0, 2 / 3]], dtype=torch.float64)
            return (weights[batch[2], batch[1]] * losses).mean()

    return Module()


def test_group_dro_is_refused(tools):
    with pytest.raises(UnsupportedError, match=r"GroupDRO.*QFFL"):
        tools.fit(
            FederatedStrategy(partition=IIDPartition(4)),
            module_of(tools),
            grouped(),
            callbacks=[GroupDRO(groups=2, num_groups=2)],
        )


def test_reweighing_does_not_count_over_the_clients(tools):
    with pytest.raises(UnsupportedError, match=r"Reweighing\(counts="):
        tools.fit(
            FederatedStrategy(partition=IIDPartition(4)),
            module_of(tools),
            grouped(),
            callbacks=[Reweighing(groups=2, labels=1, num_groups=2)],
        )


@pytest.mark.parametrize("private", [False, True])
def test_reweighing_with_public_counts_weighs_every_clients_examples(tools, private):
    """Against a module that weighs by itself; with private examples each gradient is weighted before it is clipped."""
    found = []
    for by_hand in (True, False):
        options = {}
        if private:
            options["example_privacy"] = ExamplePrivacy(
                delta=1e-5, noise_multiplier=1e-9, max_grad_norm=0.3, noise=seeded(), probe=False
            )
        module = module_of(tools, by_hand=by_hand)
        callbacks = [] if by_hand else [Reweighing(groups=2, labels=1, num_groups=2, counts=COUNTS)]
        tools.fit(
            FederatedStrategy(partition=IIDPartition(4), seed=1, local_epochs=2, **options),
            module,
            grouped(),
            batch_size=3,
            max_epochs=2,
            callbacks=callbacks,
        )
        found.append(tools.flat(module))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


def seeded() -> Any:

    with pytest.warns(SeededNoiseWarning):
        return NoiseSource(seed=3)
