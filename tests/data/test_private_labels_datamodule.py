"""Randomised labels around a DataModule, through fits, checkpoints and resumed fits."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset, WeightedRandomSampler
from torchvision.transforms.v2 import RandomRotation

from lightning_privacy._lightning import LightningDataModule, Trainer
from lightning_privacy.accounting import PrivacyLedger, RandomizedResponseRelease
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.data import AugmentationDataModule, DigitsDataModule, PrivateLabelsDataModule
from lightning_privacy.data.augmentation.proxy import LoaderDataModule
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyBudgetExceeded, UnsupportedError
from lightning_privacy.mechanisms import ForwardCorrection
from lightning_privacy.models import Classifier

CLASSES, EPSILON = 10, 2.0
RELEASE = RandomizedResponseRelease(EPSILON, CLASSES)


def digits(ledger=None, batch_size=256):
    return PrivateLabelsDataModule(
        DigitsDataModule(batch_size=batch_size), num_classes=CLASSES, epsilon=EPSILON, ledger=ledger
    )


def around(loader, **options):
    return PrivateLabelsDataModule(
        LoaderDataModule(train_dataloader=loader), **({"num_classes": CLASSES, "epsilon": EPSILON} | options)
    )


class Seen(Classifier):
    """Keeps the labels of each image it was trained and validated on."""

    def __init__(self):
        network = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES), ForwardCorrection(CLASSES, EPSILON))
        network(torch.zeros(1, 1, 28, 28))
        super().__init__(network, num_classes=CLASSES, optimizer=functools.partial(torch.optim.SGD, lr=0.1))
        self.seen = {}
        self.validated = []

    def training_step(self, batch, batch_idx):
        for image, label in zip(batch[0].numpy(), batch[1].tolist(), strict=True):
            self.seen.setdefault(image.tobytes(), set()).add(label)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.validated += batch[1].tolist()
        return super().validation_step(batch, batch_idx)


def fit(datamodule, tmp_path, *, callbacks=(), epochs=1, ckpt_path=None):
    model = Seen()
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    return model, trainer


def test_p26_a_fit_and_its_resumption_see_the_same_labels_and_pay_once(tmp_path):
    ledger = PrivacyLedger(delta=1e-5)
    first, trainer = fit(digits(ledger), tmp_path, epochs=2)
    assert all(len(labels) == 1 for labels in first.seen.values()), "one answer about each label"
    truth = {image.numpy().tobytes(): int(label) for image, label in DigitsDataModule(batch_size=1).splits.train}
    kept = sum(first.seen[image] == {label} for image, label in truth.items()) / len(truth)
    # 0.451 stay: 5 standard errors of 1,000 and more are 0.08.
    assert 0.37 < kept < 0.54
    validation = DigitsDataModule(batch_size=1).splits.val
    assert first.validated[-len(validation) :] == [int(label) for _, label in validation]
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    other = PrivacyLedger(delta=1e-5)
    resumed, _ = fit(digits(other), tmp_path, epochs=3, ckpt_path=tmp_path / "two.ckpt")
    assert resumed.seen == first.seen
    assert ledger.history == other.history
    assert [(release, count) for release, count, _ in ledger.history] == [(RELEASE, 1)]


def test_p26_beside_private_training_one_ledger_has_both_and_keeps_them(tmp_path):
    ledgers = [PrivacyLedger(delta=1e-5) for _ in range(2)]
    counts = []
    for ledger, epochs, path in zip(ledgers, (1, 2), (None, tmp_path / "one.ckpt"), strict=True):
        privacy = DifferentialPrivacy(delta=1e-5, noise_multiplier=2.0, ledger=ledger)
        _, trainer = fit(digits(ledger), tmp_path, callbacks=[privacy], epochs=epochs, ckpt_path=path)
        trainer.save_checkpoint(tmp_path / "one.ckpt")
        assert ledger.count(RELEASE) == 1
        counts.append(sum(count for _, count, _ in ledger.history))
    assert counts[1] == 2 * (counts[0] - 1) + 1
    assert ledgers[1].history[0] == ledgers[0].history[0]


def test_the_training_accuracy_of_the_corrected_network_is_of_its_own_logits(tmp_path):
    """In evaluation the correction is gone: predictions are for true labels."""
    model, _ = fit(digits(), tmp_path)
    model.eval()
    images, _ = next(iter(DigitsDataModule(batch_size=8).train_dataloader()))
    assert torch.equal(model(images), model.backbone[:2](images))


def test_a_checkpoint_without_labels_is_refused(tmp_path):
    datamodule = digits()
    with pytest.raises(CheckpointError, match="the checkpoint has no randomised labels"):
        datamodule.load_state_dict({})
    assert digits().state_dict() == {}


def test_state_of_the_data_module_behind_is_kept():
    class Counting(DigitsDataModule):
        count = 3

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state_dict):
            self.count = state_dict["count"]

    def make():
        return PrivateLabelsDataModule(Counting(batch_size=8), num_classes=CLASSES, epsilon=EPSILON)

    one, two = make(), make()
    one.datamodule.count = 7
    one.train_dataloader()
    two.load_state_dict(one.state_dict())
    assert two.count == 7
    assert torch.equal(two.train_dataloader().dataset.labels, one.train_dataloader().dataset.labels)
    # From a state that was loaded and not used yet.
    assert torch.equal(two.state_dict()["private_labels"]["labels"], one.state_dict()["private_labels"]["labels"])
    used = make()
    used.train_dataloader()
    used.load_state_dict(one.state_dict())
    assert torch.equal(used.train_dataloader().dataset.labels, one.train_dataloader().dataset.labels)


def test_loaders_keep_what_they_are_and_data_loaded_anew_get_the_same_labels():
    class Fresh(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.zeros(50, 2), torch.arange(50) % 10), batch_size=7, drop_last=True)

    datamodule = PrivateLabelsDataModule(Fresh(), num_classes=CLASSES, epsilon=EPSILON)
    one, two = datamodule.train_dataloader(), datamodule.train_dataloader()
    assert (one.batch_size, one.drop_last) == (7, True)
    assert torch.equal(torch.cat([batch[1] for batch in one]), torch.cat([batch[1] for batch in two]))
    assert isinstance(datamodule.correction(), ForwardCorrection)


def test_augmentation_goes_around_it():
    inside = digits(batch_size=32)
    augmented = AugmentationDataModule(inside, transforms=[RandomRotation(5)])
    assert next(iter(augmented.train_dataloader()))[1].shape == (32,)
    with pytest.raises(ConfigurationError, match="put AugmentationDataModule around PrivateLabelsDataModule"):
        PrivateLabelsDataModule(augmented, num_classes=CLASSES, epsilon=EPSILON)


DATA = TensorDataset(torch.zeros(20, 2), torch.arange(20) % 10)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([DataLoader(DATA)], "must give one DataLoader .*, got list"),
        (DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * 20, 20)), "has a WeightedRandomSampler, which may"),
        (
            DataLoader(DATA, batch_sampler=type("Chosen", (BatchSampler,), {})(SequentialSampler(DATA), 2, False)),
            "Chosen",
        ),
        (
            DataLoader(DATA, batch_sampler=BatchSampler(WeightedRandomSampler([1.0] * 20, 20), 2, False)),
            "has a WeightedRandomSampler, which may",
        ),
    ],
    ids=["several", "weighted", "batches", "weighted batches"],
)
def test_p16_loaders_that_may_tell_the_labels_are_refused(loader, message):
    ledger = PrivacyLedger(delta=1e-5)
    with pytest.raises(UnsupportedError, match=message):
        around(loader, ledger=ledger).train_dataloader()
    assert ledger.groups == ()


def test_p30_without_a_budget_there_is_no_loader():
    ledger = PrivacyLedger(delta=1e-5, budget=0.1)
    with pytest.raises(PrivacyBudgetExceeded):
        around(DataLoader(DATA), ledger=ledger).train_dataloader()


def test_bad_arguments_are_named():
    for options, message in (
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
        ({"num_classes": 1}, "num_classes must be a whole number >= 2, got 1"),
        ({"ledger": 3}, "ledger must be a PrivacyLedger or None, got 3"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            around(DataLoader(DATA), **options)


def test_the_ledger_is_set_before_the_labels_are_drawn():
    datamodule, ledger = around(DataLoader(DATA)), PrivacyLedger(delta=1e-5)
    datamodule.ledger = ledger
    datamodule.train_dataloader()
    assert ledger.count(RELEASE) == 1
    with pytest.raises(ConfigurationError, match="set ledger before the train loader is asked for"):
        datamodule.ledger = PrivacyLedger(delta=1e-5)


def test_p26_another_ledger_than_the_one_that_was_charged_is_named(tmp_path):
    """Training with a ledger of its own would report an epsilon without the labels."""
    labels, training = PrivacyLedger(delta=1e-5), PrivacyLedger(delta=1e-5)
    for charged in (labels, None):
        privacy = DifferentialPrivacy(delta=1e-5, noise_multiplier=2.0, ledger=training)
        with pytest.raises(UnsupportedError, match=r"learns from the records it prepares, and charges (no|another)"):
            fit(digits(charged), tmp_path, callbacks=[privacy])
        assert training.groups == ()


def test_p26_the_data_module_behind_gets_the_ledger_too():
    class Learning(DigitsDataModule):
        ledger = None

    datamodule = PrivateLabelsDataModule(Learning(batch_size=8), num_classes=CLASSES, epsilon=EPSILON)
    ledger = PrivacyLedger(delta=1e-5)
    datamodule.ledger = ledger
    assert datamodule.datamodule.ledger is ledger
    datamodule.train_dataloader()
    with pytest.raises(ConfigurationError, match="the labels are drawn already"):
        datamodule.ledger = PrivacyLedger(delta=1e-5)
    assert datamodule.datamodule.ledger is datamodule.ledger is ledger


def test_batches_keep_their_order_where_the_loader_was_given_a_batch_sampler():
    batches = BatchSampler(SequentialSampler(DATA), 3, drop_last=True)
    loader = around(DataLoader(DATA, batch_sampler=batches)).train_dataloader()
    assert [len(batch[1]) for batch in loader] == [3] * 6


def test_data_of_another_length_are_refused():
    class Growing(LightningDataModule):
        size = 20

        def train_dataloader(self):
            self.size += 1
            return DataLoader(TensorDataset(torch.zeros(self.size, 2), torch.arange(self.size) % 10))

    datamodule = PrivateLabelsDataModule(Growing(), num_classes=CLASSES, epsilon=EPSILON)
    datamodule.train_dataloader()
    with pytest.raises(ConfigurationError, match="had 21 examples when its labels were randomised, and has 22 now"):
        datamodule.train_dataloader()
