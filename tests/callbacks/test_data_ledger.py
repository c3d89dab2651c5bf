"""A DataModule that learns from its records must charge the ledger of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import ConcatDataset, DataLoader, Subset

from lightning_privacy import DifferentialPrivacy, PrivacyLedger
from lightning_privacy._lightning import LightningDataModule
from lightning_privacy.accounting import LaplaceRelease
from lightning_privacy.data.augmentation import AugmentationDataModule
from lightning_privacy.errors import UnsupportedError


class Learning(LightningDataModule):
    """Learns something when it is set up, charged where there is a ledger."""

    learns_from_records = True

    def __init__(self, tiny: Any) -> None:
        super().__init__()
        self.tiny = tiny
        self.ledger: PrivacyLedger | None = None

    def setup(self, stage: str) -> None:
        if self.ledger is not None:
            self.ledger.charge(LaplaceRelease(epsilon=0.25), label="a median")

    def train_dataloader(self) -> Any:
        return self.tiny.loader(16)


def fit(tiny: Any, datamodule: LightningDataModule, privacy: DifferentialPrivacy) -> None:
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(tiny.Module(), datamodule=datamodule)


@pytest.mark.parametrize("ledger", ["no", "another"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_p33_what_is_in_no_ledger_or_in_another_one_is_refused(tiny: Any, ledger: str, wrapped: bool) -> None:
    datamodule = Learning(tiny)
    datamodule.ledger = None if ledger == "no" else PrivacyLedger(delta=1e-3)
    privacy = DifferentialPrivacy(delta=1e-3, epsilon=3.0)
    given = AugmentationDataModule(datamodule, transforms=[]) if wrapped else datamodule
    with pytest.raises(UnsupportedError, match=rf"charges {ledger} ledger.*datamodule\.ledger = privacy\.ledger"):
        fit(tiny, given, privacy)
    assert privacy.ledger.history == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_p33_one_ledger_has_all_and_training_gets_what_is_left(tiny: Any, wrapped: bool) -> None:
    datamodule, privacy = Learning(tiny), DifferentialPrivacy(delta=1e-3, epsilon=3.0)
    given: Any = AugmentationDataModule(datamodule, transforms=[]) if wrapped else datamodule
    given.ledger = privacy.ledger
    fit(tiny, given, privacy)
    assert privacy.ledger.history[0] == (LaplaceRelease(epsilon=0.25), 1, "a median")
    assert privacy.ledger.epsilon(exact=True) <= 3.0
    alone = DifferentialPrivacy(delta=1e-3, epsilon=3.0)
    tiny.trainer(max_epochs=1, callbacks=[alone]).fit(tiny.Module(), tiny.loader(16))
    noise = [ledger.history[-1][0].noise_multiplier for ledger in (privacy.ledger, alone.ledger)]
    assert noise[0] > noise[1]


def test_p26_a_caveat_of_this_process_outlives_the_restored_ledger(tiny: Any, tmp_path: Path) -> None:
    first = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    trainer = tiny.trainer(max_epochs=1, callbacks=[first], default_root_dir=tmp_path)
    trainer.fit(tiny.Module(), tiny.loader(16))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    again.ledger.add_caveat("rows were compared without noise")
    trainer = tiny.trainer(max_epochs=2, callbacks=[again], default_root_dir=tmp_path)
    trainer.fit(tiny.Module(), tiny.loader(16), ckpt_path=tmp_path / "one.ckpt")
    assert "rows were compared without noise" in again.ledger.caveats


@pytest.mark.parametrize(
    "behind", [lambda data: data, lambda data: Subset(data, range(16)), lambda data: ConcatDataset([data])]
)
def test_p33_a_loader_given_without_its_data_module_is_refused_too(tiny: Any, behind: Any) -> None:
    loader, privacy = tiny.loader(16), DifferentialPrivacy(delta=1e-3, epsilon=3.0)
    learning = loader.dataset
    learning.learns_from_records, learning.ledger, learning.max_records_per_person = True, None, 3
    loader = DataLoader(behind(learning), batch_size=4, collate_fn=loader.collate_fn)
    with pytest.raises(UnsupportedError, match="charges no ledger"):
        tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(tiny.Module(), loader)
    assert privacy.ledger.history == []
    learning.ledger = privacy.ledger
    tiny.trainer(max_epochs=1, callbacks=[privacy]).fit(tiny.Module(), loader)
    assert privacy.ledger.history
    assert any("3" in caveat and "person" in caveat for caveat in privacy.ledger.caveats)
