"""The data module of people with everything that takes batches: callbacks, samplers, partitions, checkpoints."""

from __future__ import annotations

import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lightning_privacy._lightning import ModelCheckpoint, Trainer
from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger, SelectionRelease
from lightning_privacy.callbacks import DifferentialPrivacy, GroupFairness
from lightning_privacy.data import AugmentationDataModule, Damage, PersonaBatch, PersonaDataModule
from lightning_privacy.data.persona.columns import AGE_BANDS, GENDERS
from lightning_privacy.data.persona.generator import PersonaGenerator
from lightning_privacy.data.persona.places import PLACES, REGIONS
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.federated import NaturalPartition
from lightning_privacy.models import Classifier
from lightning_privacy.preparation import FillFromPerson, Preparation, Step
from lightning_privacy.sampling import BalancedSampler

KEY = bytes(range(32))
PEOPLE = 400


class NoisyStep(Step):
    """Charges a release."""

    name = "noisy step"
    private = "released"
    learns = True

    def planned(self, schema, context):
        return [(LaplaceRelease(0.25), 1)] if context.private else ()

    def _fit(self, frame, context):
        if context.ledger is not None:
            context.ledger.charge(LaplaceRelease(0.25), label=self.name)

    def _apply(self, frame):
        return frame


def _datamodule(**settings) -> PersonaDataModule:
    """Without near duplicates' search, which takes seconds."""
    defaults = {"num_persons": PEOPLE, "preparation": [], "batch_size": 64}
    return PersonaDataModule(**{**defaults, **settings})


def _module() -> Classifier:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return Classifier(backbone, num_classes=10, optimizer=partial(torch.optim.SGD, lr=0.1))


def _trainer(tmp_path, *callbacks, **settings) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    checkpoints = {"enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks)}
    return Trainer(
        default_root_dir=tmp_path, callbacks=list(callbacks), **quiet, **checkpoints, **{"max_epochs": 1, **settings}
    )


@pytest.fixture(scope="module")
def prepared():
    datamodule = PersonaDataModule(num_persons=1500, batch_size=256, ledger=PrivacyLedger(delta=1e-5))
    datamodule.setup("fit")
    return datamodule


# The default, from end to end.


def test_p34_by_default_each_person_has_one_record(prepared):
    splits = prepared.splits
    people = np.concatenate([splits.train.person, splits.val.person, splits.test.person])
    assert len(set(people)) == len(people)
    # De-duplication is not perfect; against the truth, few people are left twice, or taken for somebody else.
    assert 0.97 * 1500 < len(people) < 1.02 * 1500
    assert prepared.counts["recorded"] > 1.2 * 1500


def test_people_of_training_and_test_are_apart_in_truth(prepared):
    truth = prepared.truth().records
    table = prepared._stage.table.join(truth.select("record", "base", true="person"), on="record")
    train, held_out = (set(table.filter(side=side)["base"]) for side in ("train", "test"))
    assert not train & held_out
    train, held_out = (set(table.filter(side=side)["true"]) for side in ("train", "test"))
    assert not train & held_out


def test_p33_the_default_preparation_releases_one_median_and_says_what_it_compares(prepared):
    assert prepared.ledger.history == [(SelectionRelease(0.05), 1, "quantile 0.5")]
    assert prepared.ledger.epsilon(exact=True) == pytest.approx(0.05, rel=1e-2)
    (caveat,) = prepared.ledger.caveats
    assert "by comparing all of them" in caveat
    assert [step.name for step in prepared.preparation_report.steps if step.private == "compares"] == ["deduplicate"]


def test_nobody_is_named_after_the_preparation(prepared):
    table = prepared._stage.table
    assert not {"given_name", "surname", "email"} & set(table.columns)
    customers = set(prepared.truth().records["customer"])
    assert not customers & set(table["customer"])


def test_batches_have_the_groups_by_name(prepared):
    batch = next(iter(prepared.train_dataloader()))
    assert isinstance(batch, PersonaBatch)
    assert batch.images.shape == (256, 1, 28, 28)
    assert batch.images.dtype == torch.float32
    assert -1 <= batch.images.min() < -0.99 < 0.9 < batch.images.max() <= 1
    for column, names in (("gender", GENDERS), ("age_band", AGE_BANDS), ("location", (*REGIONS, "unknown"))):
        values = getattr(batch, column)
        assert values.dtype == torch.int64
        assert 0 <= values.min() <= values.max() < len(names)
    assert batch.labels.unique().tolist() == list(range(10))


def test_the_labels_of_people_held_out_are_true(prepared):
    table = prepared._stage.table.join(prepared.truth().records.select("record", true="label"), on="record")
    right = {side: (rows["label"] == rows["true"]).mean() for (side,), rows in table.group_by("side")}
    assert right["test"] == right["val"] == 1
    assert 0.93 < right["train"] < 0.98


# With what takes batches.


def test_fairness_finds_the_groups(tmp_path, prepared):
    sizes = {"gender": len(GENDERS), "location": len(REGIONS) + 1}
    fairness = GroupFairness(groups=["gender", "location"], num_groups=sizes, show=False)
    trainer = _trainer(tmp_path, fairness)
    trainer.fit(_module(), prepared)
    assert {name.split("/")[0] for name in trainer.callback_metrics} >= {"val"}
    assert any("gender" in name for name in trainer.callback_metrics)
    assert any("location" in name for name in trainer.callback_metrics)


def test_the_balanced_sampler_takes_its_columns(prepared):
    train = prepared.splits.train
    sampler = BalancedSampler(train.labels, groups=train.gender, balance="class*group", num_samples=6000, seed=0)
    drawn = train.gender[torch.tensor(list(sampler))]
    assert np.allclose(np.bincount(drawn) / 6000, 1 / 3, atol=0.05)


@pytest.mark.parametrize("balance", ["class", "group", "class*group"])
def test_loaders_are_balanced_when_asked(balance):
    datamodule = _datamodule(balance=balance, balance_groups="location")
    datamodule.setup("fit")
    loader = datamodule.train_dataloader()
    assert isinstance(loader.sampler, BalancedSampler)
    assert loader.sampler.balance == balance
    labels = datamodule.splits.train.labels
    cells = {"class": labels.unique(), "group": datamodule.splits.train.location.unique()}
    if balance in cells:
        assert len(loader.sampler.counts) == len(cells[balance])


def test_private_training_runs_on_balanced_batches(tmp_path):
    datamodule = _datamodule(balance="class")
    privacy = DifferentialPrivacy(epsilon=3.0, delta=1e-5)
    datamodule.ledger = privacy.ledger
    _trainer(tmp_path, privacy).fit(_module(), datamodule)
    assert 2.5 < privacy.ledger.epsilon() <= 3.0


def test_towns_are_the_clients(prepared):
    train = prepared.splits.train
    partition = NaturalPartition("client").bind(train)
    assert set(partition.names) <= {place.name for place in PLACES} | {"unknown"}
    parts = partition.split(None, len(train), seed=0)
    assert sum(map(len, parts)) == len(train)
    london = partition.names.index("London")
    assert set(train.client[parts[london]]) == {"London"}


def test_images_can_be_augmented(tmp_path):
    datamodule = AugmentationDataModule(_datamodule(), transforms=[lambda_flip()], seed=0)
    privacy = DifferentialPrivacy(noise_multiplier=1.0, delta=1e-5)
    datamodule.ledger = privacy.ledger
    assert datamodule.datamodule.ledger is privacy.ledger
    trainer = _trainer(tmp_path, privacy)
    trainer.fit(_module(), datamodule)
    assert trainer.global_step > 0


def lambda_flip():
    from torchvision.transforms import v2

    return v2.RandomHorizontalFlip()


# The ledger.


def test_what_the_preparation_spent_is_taken_from_what_training_gets(tmp_path):
    datamodule = _datamodule(train_preparation=[NoisyStep()])
    privacy = DifferentialPrivacy(epsilon=2.0, delta=1e-5)
    datamodule.ledger = privacy.ledger
    _trainer(tmp_path, privacy).fit(_module(), datamodule)
    kinds = [(type(release).__name__, label) for release, _, label in privacy.ledger.history]
    assert kinds[0] == ("LaplaceRelease", "noisy step")
    assert len(kinds) == 2
    assert privacy.ledger.epsilon(exact=True) <= 2.0


def test_a_ledger_that_comes_after_the_preparation_is_refused():
    datamodule = _datamodule()
    datamodule.setup("fit")
    with pytest.raises(ConfigurationError, match="the data are prepared already"):
        datamodule.ledger = PrivacyLedger(delta=1e-5)
    with pytest.raises(ConfigurationError, match="ledger must be a PrivacyLedger or None"):
        datamodule.ledger = "ledger"


def test_a_second_ledger_learns_of_the_releases():
    first, second = PrivacyLedger(delta=1e-5), PrivacyLedger(delta=1e-5)
    datamodule = _datamodule(train_preparation=[NoisyStep()], ledger=first)
    datamodule.setup("fit")
    datamodule.ledger = second
    assert second.history == first.history != []
    assert second.caveats == first.caveats
    datamodule.ledger = second  # and not twice
    assert second.history == first.history
    with pytest.raises(ConfigurationError, match="prepared already"):
        datamodule.ledger = None


# Checkpoints and processes.


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("kept", [True, False], ids=["store", "memory"])
def test_p26_a_run_goes_on_with_the_preparation_that_was_charged(tmp_path, kept):
    """With a store the second run reads it; without, it has learned anew, which its checkpoint's ledger can't know."""

    def make(folder):
        place = {"store": tmp_path / "store", "key": KEY} if kept else {}
        privacy = DifferentialPrivacy(noise_multiplier=1.0, delta=1e-5)
        datamodule = _datamodule(train_preparation=[NoisyStep()], ledger=privacy.ledger, **place)
        saved = ModelCheckpoint(dirpath=tmp_path / folder, filename="last")
        return privacy, datamodule, saved

    privacy, datamodule, saved = make("first")
    _trainer(tmp_path, privacy, saved).fit(_module(), datamodule)
    spent = privacy.ledger.epsilon(exact=True)
    again, datamodule, saving = make("second")
    trainer = _trainer(tmp_path, again, saving, max_epochs=2)
    if not kept:
        with pytest.raises(CheckpointError, match="prepared anew"):
            trainer.fit(_module(), datamodule, ckpt_path=saved.best_model_path)
        return
    trainer.fit(_module(), datamodule, ckpt_path=saved.best_model_path)
    assert again.ledger.count(LaplaceRelease(0.25)) == 1
    assert again.ledger.epsilon(exact=True) > spent


def test_p26_what_was_released_is_charged_whatever_ledger_is_restored(tmp_path):
    """The checkpoint has no private run, so that nothing brings the charge back; it is there before training."""
    settings = {"store": tmp_path / "store", "key": KEY, "train_preparation": [NoisyStep()]}
    datamodule = _datamodule(ledger=PrivacyLedger(delta=1e-5), **settings)
    trainer = _trainer(tmp_path)
    trainer.fit(_module(), datamodule)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(LaplaceRelease(0.25), 2, "noisy step")  # something else of the same kind and name
    ledger.charge(LaplaceRelease(0.5))
    _trainer(tmp_path, max_epochs=2).fit(
        _module(), _datamodule(ledger=ledger, **settings), ckpt_path=tmp_path / "last.ckpt"
    )
    assert ledger.count(LaplaceRelease(0.25)) == 3
    assert ledger.count(LaplaceRelease(0.5)) == 1


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_p26_a_resume_that_is_refused_takes_nothing_out_of_the_ledger(tmp_path):
    """The checkpoint's ledger has the release, and was about to come: it is of another delta, and does not."""
    settings = {"store": tmp_path / "store", "key": KEY, "train_preparation": [NoisyStep()]}

    def make(delta):
        privacy = DifferentialPrivacy(noise_multiplier=1.0, delta=delta)
        return privacy, _datamodule(ledger=privacy.ledger, **settings)

    privacy, datamodule = make(1e-5)
    saved = ModelCheckpoint(dirpath=tmp_path / "first", filename="last")
    _trainer(tmp_path, privacy, saved).fit(_module(), datamodule)
    again, datamodule = make(1e-6)
    datamodule.setup("fit")
    before = again.ledger.state_dict()
    with pytest.raises(CheckpointError, match="delta"):
        _trainer(tmp_path, again, ModelCheckpoint(dirpath=tmp_path / "second"), max_epochs=2).fit(
            _module(), datamodule, ckpt_path=saved.best_model_path
        )
    assert again.ledger.count(LaplaceRelease(0.25)) == 1
    assert again.ledger.state_dict() == before


def test_p26_whatever_ledger_is_restored_has_releases_and_caveats_of_the_data():
    ledger = PrivacyLedger(delta=1e-5)
    steps = [FillFromPerson("location", person="customer", caveat=True)]
    datamodule = _datamodule(preparation=steps, train_preparation=[NoisyStep()], ledger=ledger)
    datamodule.setup("fit")
    before = ledger.state_dict()
    assert any("fill from person" in caveat for caveat in ledger.caveats)
    ledger.load_state_dict(PrivacyLedger(delta=1e-5).state_dict())
    datamodule.train_dataloader()
    assert ledger.state_dict() == before
    datamodule.train_dataloader()
    assert ledger.state_dict() == before


def test_a_checkpoint_is_tested_on_data_prepared_anew(tmp_path):
    datamodule = _datamodule(train_preparation=[NoisyStep()], ledger=PrivacyLedger(delta=1e-5))
    trainer = _trainer(tmp_path)
    trainer.fit(_module(), datamodule)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    other = _datamodule(train_preparation=[NoisyStep()], ledger=PrivacyLedger(delta=1e-5))
    (result,) = _trainer(tmp_path).test(_module(), other, ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert "test/acc" in result


@pytest.mark.parametrize("settings", [{}, {"store": "here"}], ids=["memory", "no key"])
def test_several_processes_need_a_store_and_a_key(tmp_path, settings):
    datamodule = _datamodule(**{name: tmp_path / value for name, value in settings.items()})
    datamodule.trainer = type("Two", (), {"world_size": 2})()
    with pytest.raises(ConfigurationError, match="store and key must be given when 2 processes train"):
        datamodule.prepare_data()
    with pytest.raises(ConfigurationError, match="store and key must be given"):
        datamodule.setup("fit")


def test_two_processes_have_the_same_data_and_both_account_for_it(tmp_path):
    ledgers = [PrivacyLedger(delta=1e-5) for _ in range(2)]
    settings = {"store": tmp_path, "key": KEY, "train_preparation": [NoisyStep()]}
    first, second = (_datamodule(ledger=ledger, **settings) for ledger in ledgers)
    first.prepare_data()
    for datamodule in (first, second):
        datamodule.setup("fit")
    for one, other in zip(first.splits.train.tensors, second.splits.train.tensors, strict=True):
        assert torch.equal(one, other)
    assert ledgers[0].history == ledgers[1].history


def test_artefacts_are_the_files_of_the_store(tmp_path):
    datamodule = _datamodule(store=tmp_path / "deep" / "store", key=KEY)
    assert datamodule.artefacts == {}
    datamodule.prepare_data()
    assert {"records", "images", "prepared"} <= set(datamodule.artefacts)
    assert all(path.is_file() for path in datamodule.artefacts.values())
    assert _datamodule().artefacts == {}


def test_the_truth_is_read_from_the_store_when_asked_for(tmp_path):
    _datamodule(store=tmp_path, key=KEY).prepare_data()
    truth = _datamodule(store=tmp_path, key=KEY).truth()
    assert truth.records.equals(PersonaGenerator(num_persons=PEOPLE).generate().truth.records)


# Arguments.


def test_a_source_of_ones_own_is_taken():
    source = PersonaGenerator(num_persons=50, damage=None, public_share=0.5)
    datamodule = PersonaDataModule(source=source, preparation=[], val_share=0.0)
    datamodule.setup("fit")
    assert len(datamodule.splits.train) + len(datamodule.splits.test) == 50
    assert datamodule.splits.val is None
    assert datamodule.val_dataloader() == []


def test_steps_are_given_in_any_form():
    steps = {"one": NoisyStep(), "none": None}
    for preparation in (steps, list(steps.values()), Preparation(steps)):
        assert len(_datamodule(preparation=preparation).preparation_report.steps) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_persons": 0}, "num_persons must be a whole number >= 1"),
        ({"images": "cifar"}, "images must be one of"),
        ({"images": "digits", "root": "here"}, "root=here is for images='fashion-mnist'"),
        ({"damage": {"typos": 0.1}}, "typos"),
        ({"damage": {"wrong_labels": 2.0}}, "wrong_labels must be a number from 0 to 1"),
        ({"max_records_per_person": 0}, "max_records_per_person must be"),
        ({"held_out": 1.5}, "held_out must be a number from 0 to 1"),
        ({"val_share": -0.1}, "val_share must be a number from 0 to 1"),
        ({"balance": "labels"}, "balance must be one of"),
        ({"balance_groups": "labels"}, "balance_groups must be one of gender, age_band, location"),
        ({"key": "secret"}, "key must be"),
        ({"roles": {"label": "label", "client": "label"}}, "roles"),
        ({"preparation": ["deduplicate"]}, "steps must be steps of a preparation"),
        ({"source": PersonaGenerator(num_persons=5), "num_persons": 7}, "num_persons can't be given with a source"),
        ({"damage": Damage(), "seed": -1}, "seed must be"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        PersonaDataModule(**settings)


def test_without_polars_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("lightning_privacy.data.persona.datamodule.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'lightning-privacy\[persona\]'"):
        PersonaDataModule()


def test_importing_the_room_does_not_load_polars_or_mimesis():
    import subprocess

    code = "import sys, lightning_privacy.data; print({'polars', 'mimesis'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_the_data_set_can_be_pickled_for_workers(prepared):
    train = pickle.loads(pickle.dumps(prepared.splits.train))
    assert torch.equal(train.labels, prepared.splits.train.labels)
    assert (train.client == prepared.splits.train.client).all()
