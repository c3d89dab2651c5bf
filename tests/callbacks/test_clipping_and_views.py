"""Clipping policies, augmentation multiplicity and secure noise through the callback."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_privacy import AdaptiveClipping, DifferentialPrivacy, PerLayerClipping
from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.mechanisms.noise import NoiseSource


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic", "adaptive"])
def test_every_policy_trains_at_the_epsilon_asked_for(tiny: Any, clipping: str) -> None:
    module = tiny.Module()
    before = module.weights()
    privacy = DifferentialPrivacy(delta=1e-3, epsilon=3.0, clipping=clipping)
    trainer = tiny.trainer(max_epochs=2, callbacks=[privacy])
    trainer.fit(module, tiny.loader(400, batch_size=40))
    assert trainer.global_step == 20
    assert 2.9 < privacy.ledger.epsilon(exact=True) <= 3.0
    assert not torch.equal(before, module.weights())


def test_p13_the_ledger_holds_both_shares_of_adaptive_clipping(tiny: Any) -> None:
    policy = AdaptiveClipping(0.5, count_noise_std=1.5)
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0, clipping=policy)
    tiny.trainer(max_epochs=2, callbacks=[privacy]).fit(tiny.Module(), tiny.loader(40))
    ((release, count),) = privacy.ledger.groups
    assert (release, count) == (policy.release(1.0, 0.1), 20)
    reference = PrivacyLedger(delta=1e-3)
    reference.charge(SampledGaussian(1.0, 0.1), 20)
    assert privacy.ledger.epsilon(exact=True) == pytest.approx(reference.epsilon(exact=True), rel=1e-9)
    assert policy.norm_bound != 0.5


def test_p43_a_resumed_run_goes_on_with_the_bound_it_had(tiny: Any, tmp_path: Any) -> None:
    def private() -> DifferentialPrivacy:
        policy = AdaptiveClipping(0.5, count_noise_std=1.5)
        return DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0, clipping=policy, noise=tiny.noise())

    whole = tiny.Module()
    tiny.trainer(max_epochs=4, callbacks=[private()]).fit(whole, tiny.loader(40))
    half = tiny.trainer(max_epochs=2, callbacks=[private()])
    half.fit(tiny.Module(), tiny.loader(40))
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = tiny.Module()
    tiny.trainer(max_epochs=4, callbacks=[private()]).fit(resumed, tiny.loader(40), ckpt_path=tmp_path / "half.ckpt")
    torch.testing.assert_close(whole.weights(), resumed.weights(), rtol=1e-12, atol=1e-12)
    other = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0, clipping="automatic")
    with pytest.raises(CheckpointError, match=r"clipping|another clipping policy"):
        tiny.trainer(max_epochs=4, callbacks=[other]).fit(
            tiny.Module(), tiny.loader(40), ckpt_path=tmp_path / "half.ckpt"
        )


def test_groups_of_parameters_with_bounds_of_their_own(tiny: Any) -> None:
    privacy = DifferentialPrivacy(
        delta=1e-3, noise_multiplier=1.0, clipping="per_layer", max_grad_norm={"net.0": 0.5, "net.2": 2.0}
    )
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(tiny.Module(), tiny.loader(40))
    assert privacy.ledger.groups == ((SampledGaussian(1.0, 0.1), 10),)
    wrong = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0, clipping=PerLayerClipping([1.0, 2.0, 3.0]))
    with pytest.raises(ConfigurationError, match=r"max_grad_norm must have 2 bounds.*net\.0, net\.2.*got 3"):
        tiny.trainer(max_epochs=1, callbacks=[wrong]).fit(tiny.Module(), tiny.loader(40))


class _Noisy(Dataset[list[Tensor]]):
    """Augments at random."""

    def __init__(self, tiny: Any, size: int) -> None:
        self.inner = tiny.dataset(size)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> list[Tensor]:
        x, y, number = self.inner[index]
        return [x + 0.1 * torch.randn(3, dtype=torch.float64), y, number]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_views_come_next_to_each_other_and_cost_nothing(tiny: Any, accumulate: int) -> None:
    module = tiny.Module()
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0, views=2)
    trainer = tiny.trainer(max_epochs=2, callbacks=[privacy], accumulate_grad_batches=accumulate)
    trainer.fit(module, DataLoader(_Noisy(tiny, 40), batch_size=4))
    assert all(rows[::2] == rows[1::2] for rows in module.seen)
    assert max(len(rows) for rows in module.seen) <= 4  # rows in memory at once stay what the user's batch has
    assert privacy.ledger.groups == ((SampledGaussian(1.0, accumulate * 0.1), 20 // accumulate),)


@pytest.mark.filterwarnings("ignore:noise_multiplier=0")
def test_views_of_data_without_augmentation_change_nothing(tiny: Any) -> None:
    weights = []
    for views in (1, 4):
        module = tiny.Module()
        privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=0.0, max_grad_norm=0.1, views=views)
        tiny.trainer(max_epochs=3, callbacks=[privacy]).fit(module, tiny.loader(20, batch_size=20))
        weights.append(module.weights())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("views", [0, 1.5, -1])
def test_views_out_of_range(views: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"views .*{views}"):
        DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0, views=views)


def test_p29_secure_noise_in_a_fit(tiny: Any) -> None:
    privacy = DifferentialPrivacy(delta=1e-3, epsilon=3.0, noise=NoiseSource(secure=True))
    trainer = tiny.trainer(max_epochs=1, callbacks=[privacy])
    trainer.fit(tiny.Module(), tiny.loader(40))
    assert trainer.global_step == 10
    assert privacy.ledger.epsilon(exact=True) <= 3.0
