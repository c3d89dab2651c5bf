"""What was learned to prepare a data set is a part of every training on it, with its data module or without."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split

from lightning_privacy._lightning import ModelCheckpoint, Trainer
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks._preconditions import check_data_ledger
from lightning_privacy.data import PersonaDataModule
from lightning_privacy.data.augmentation import AugmentationDataModule
from lightning_privacy.data.persona.generator import PersonaGenerator
from lightning_privacy.errors import ConfigurationError, PrivacyViolation, UnsupportedError
from lightning_privacy.models import Classifier
from lightning_privacy.preparation import FillMean, FillMedian, FillMode, SuppressToK

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Logged while training.*"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]
KEY = bytes(range(32))
PEOPLE = PersonaGenerator(num_persons=300, public_share=0.5)
MEDIAN = "quantile 0.5"


class Around(torch.utils.data.Dataset):
    """Changes each example of another data set."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


behind = pytest.mark.parametrize(
    "behind",
    [
        lambda data: data,
        lambda data: Subset(data, range(100)),
        lambda data: random_split(data, [0.5, 0.5])[0],
        lambda data: ConcatDataset([Subset(data, range(50)), Subset(data, range(50, 100))]),
        lambda data: data.take(np.arange(100)),
    ],
    ids=["all", "subset", "random split", "concatenated", "taken"],
)


def make(**settings) -> PersonaDataModule:
    """With a median that is released, and no search for duplicates, which takes seconds."""
    median = FillMedian("age", bounds={"age": (18, 95)}, epsilon=0.5)
    return PersonaDataModule(source=PEOPLE, preparation=[], train_preparation=[median], **settings)


def loader(data) -> DataLoader:
    return DataLoader(data, batch_size=32, shuffle=True, collate_fn=PersonaDataModule.collate)


def fit(folder, data, *callbacks, max_epochs=1, **arguments) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    module = Classifier(backbone, num_classes=10, optimizer=partial(torch.optim.SGD, lr=0.1))
    trainer = Trainer(
        default_root_dir=folder, callbacks=list(callbacks), enable_checkpointing=saves, max_epochs=max_epochs, **quiet
    )
    trainer.fit(module, data, **arguments)


@behind
@pytest.mark.parametrize("side", ["train", "test"])
def test_p33_data_that_were_learned_from_without_a_ledger_are_refused(tmp_path, behind, side):
    """The people held out are changed by what was learned from the others."""
    privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-5)
    data = getattr(make(val_share=0.0).splits, side)
    with pytest.raises(UnsupportedError, match=r"PersonaDataset learns from the records .* charges no ledger"):
        fit(tmp_path, loader(behind(data)), privacy)
    assert privacy.ledger.history == []


@behind
def test_p33_training_gets_what_the_preparation_of_a_data_set_left_over(tmp_path, behind):
    privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-5)
    fit(tmp_path, loader(behind(make(ledger=privacy.ledger).splits.train)), privacy)
    labels = [label for _, _, label in privacy.ledger.history]
    assert labels[0] == MEDIAN
    assert len(labels) == 2
    assert 2.5 < privacy.ledger.epsilon(exact=True) <= 3.0
    assert not any("does not say who a record is about" in caveat for caveat in privacy.ledger.caveats)


def test_p33_a_ledger_that_comes_later_is_that_of_the_data_set():
    first, second = (PrivacyLedger(delta=1e-5) for _ in range(2))
    datamodule = make(ledger=first)
    train = datamodule.splits.train
    part = Subset(train.take(np.arange(50)), range(20))
    assert train.ledger is first
    datamodule.ledger = second
    check_data_ledger(part, second)
    assert second.history == first.history
    with pytest.raises(UnsupportedError, match="charges another ledger"):
        check_data_ledger(part, first)
    late = make()
    late.ledger = second
    assert late.splits.train.ledger is second


def test_p33_an_augmented_data_set_is_no_other():
    train = make().splits.train
    around = AugmentationDataModule(train_dataloader=loader(train), transforms=[lambda image: image], where="workers")
    with pytest.raises(UnsupportedError, match="charges no ledger"):
        check_data_ledger(around.train_dataloader().dataset, PrivacyLedger(delta=1e-5))


def test_p33_a_copy_in_another_process_is_known_by_the_ledger_that_went_with_it():
    ledger = PrivacyLedger(delta=1e-5)
    datamodule = make(ledger=ledger, key=KEY)
    written = pickle.dumps((datamodule.splits.train, ledger))
    assert KEY not in written
    copy, of_both = pickle.loads(written)
    check_data_ledger(copy, of_both)
    with pytest.raises(UnsupportedError, match="charges another ledger"):
        check_data_ledger(copy, ledger)


def test_p26_data_prepared_anew_for_a_resumed_run_are_charged_anew(tmp_path):
    """The model has seen both: with its data module such a run is refused, and with a store it needs the first only."""

    def run(folder, **arguments):
        privacy = DifferentialPrivacy(noise_multiplier=1.0, delta=1e-5)
        saved = ModelCheckpoint(dirpath=tmp_path / folder, filename="last")
        fit(tmp_path, loader(make(ledger=privacy.ledger).splits.train), privacy, saved, **arguments)
        return [count for _, count, label in privacy.ledger.history if label == MEDIAN], saved.best_model_path

    counts, path = run("first")
    again, _ = run("second", max_epochs=2, ckpt_path=path)
    assert (counts, again) == ([1], [2])


@pytest.mark.parametrize(
    ("copied", "most"),
    [
        (lambda data: ConcatDataset([data] * 5), 5),
        (lambda data: Subset(data, [0] * 50), 50),
        (lambda data: Subset(ConcatDataset([data, Subset(data, [3])]), range(len(data) + 1)), 2),
        (lambda data: ConcatDataset([Around(data)] * 3), 3),
    ],
    ids=["joined", "repeated", "inside", "augmented"],
)
def test_p34_copies_of_a_record_count_for_its_person(copied, most):
    """Each is drawn and charged by itself: one record a person it is no more."""
    data = PersonaDataModule(source=PEOPLE, preparation=[], train_preparation=[]).splits.train
    with pytest.raises(PrivacyViolation, match=f"up to {most} records of one are trained on"):
        check_data_ledger(copied(data), PrivacyLedger(delta=1e-5, unit="person"))
    ledger = PrivacyLedger(delta=1e-5)
    check_data_ledger(copied(data), ledger)
    assert f"Up to {most} records of one person are trained on" in " ".join(ledger.caveats)


def test_p34_parts_that_share_nobody_are_one_record_a_person():
    data = PersonaDataModule(source=PEOPLE, preparation=[], train_preparation=[]).splits.train
    whole = ConcatDataset([Subset(data, range(50)), Subset(data, range(50, 100))])
    ledger = PrivacyLedger(delta=1e-5, unit="person")
    check_data_ledger(whole, ledger)
    assert [caveat for caveat in ledger.caveats if "told apart by" not in caveat] == []


@pytest.mark.parametrize(
    "mistake",
    [
        {"train_preparation": [FillMean(["age"], epsilon=0.5)]},
        {"train_preparation": [SuppressToK(5, columns=["gender"])]},
        {"train_preparation": [FillMode("no_such", categories={"no_such": ["a"]}, epsilon=0.5)]},
        {"later": [FillMode("no_such", categories={"no_such": ["a"]}, epsilon=0.5)]},
    ],
    ids=["bounds", "caveat", "column", "column in the first part"],
)
def test_p33_a_mistake_in_a_later_step_is_found_before_an_earlier_one_charges(mistake):
    first = [
        FillMode("gender", categories={"gender": ["female", "male", "other"]}, epsilon=1.0),
        *mistake.pop("later", []),
    ]
    ledger = PrivacyLedger(delta=1e-5)
    with pytest.raises((ConfigurationError, PrivacyViolation)):
        PersonaDataModule(source=PEOPLE, preparation=first, ledger=ledger, **mistake).setup("fit")
    assert ledger.history == []
