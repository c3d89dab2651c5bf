"""The ``resample`` option of the data modules: training data only, by class or by a group's name."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from omegaconf import OmegaConf

from lightning_privacy.data import DigitsDataModule, InMemoryDataset
from lightning_privacy.data.in_memory import InMemoryDataModule, Splits
from lightning_privacy.errors import ConfigurationError


class Table(InMemoryDataModule):
    fields = ("inputs", "labels", "sex")

    def load(self):
        rows = torch.arange(20)
        part = InMemoryDataset(rows.float(), (rows >= 16).long(), rows % 5 // 4)
        return Splits(train=part, val=part, test=part)


def _train(resample):
    module = Table(batch_size=4, eval_batch_size=20, resample=resample)
    module.setup("fit")
    return module, [torch.cat(part).tolist() for part in zip(*module.train_dataloader(), strict=True)]


def test_without_the_option_everything_is_trained_on():
    _, (inputs, _, _) = _train(None)
    assert sorted(inputs) == list(range(20))


def test_classes_are_cut_and_validation_is_left_alone():
    module, (inputs, labels, _) = _train(OmegaConf.create({"replacement": False}))
    assert Counter(labels) == {0: 4, 1: 4}
    assert len(set(inputs)) == 8
    for loader in (module.val_dataloader(), module.test_dataloader()):
        assert len(loader.dataset) == 20
    assert sorted(_train({"replacement": False})[1][0]) == sorted(inputs), "the same in every epoch and run"


@pytest.mark.parametrize(("balance", "smallest"), [("group", 4), ("class*group", 1)])
def test_groups_are_named(balance, smallest):
    _, (_, labels, groups) = _train({"balance": balance, "groups": "sex", "replacement": False})
    cells = Counter(groups if balance == "group" else zip(labels, groups, strict=True))
    assert set(cells.values()) == {smallest}
    assert len(cells) == {"group": 2, "class*group": 4}[balance]


def test_an_unknown_group_is_named():
    with pytest.raises(ConfigurationError, match="must be one of inputs, labels, sex, got 'race'"):
        _train({"balance": "group", "groups": "race"})


def test_digits_take_it():
    module = DigitsDataModule(resample={"num_samples": 100})
    assert len(module.train_dataloader().dataset) == 100
