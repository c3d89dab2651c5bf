"""Several processes share the batch of a step, whatever stands around the data."""

from __future__ import annotations

import pytest

from lightning_privacy._lightning import LightningDataModule
from lightning_privacy.data import AugmentationDataModule, DigitsDataModule
from lightning_privacy.data.augmentation import Affine
from lightning_privacy.data.step_batches import step_batches


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("whole", "processes", "share"), [(256, 1, 256), (256, 4, 64), (10, 3, 3), (2, 8, 1)])
def test_a_batch_is_shared_out_and_put_together_again(whole, processes, share, wrapped):
    digits = DigitsDataModule(batch_size=whole)
    datamodule = AugmentationDataModule(digits, transforms=[Affine(5)]) if wrapped else digits
    with step_batches(datamodule, processes):
        assert len(next(iter(datamodule.train_dataloader()))[1]) == share
    assert digits.batch_size == whole


def test_it_is_put_together_after_an_error():
    digits = DigitsDataModule(batch_size=256)
    with pytest.raises(KeyError), step_batches(digits, 2):
        raise KeyError
    assert digits.batch_size == 256


def test_data_without_a_batch_size_are_left_as_they_are():
    datamodule = LightningDataModule()
    before = dict(vars(datamodule))
    with step_batches(datamodule, 2):
        assert vars(datamodule) == before
