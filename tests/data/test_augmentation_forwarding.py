"""A wrapped DataModule is, in all that Lightning and its user see of it, the DataModule it was."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset, WeightedRandomSampler
from torchvision.transforms.v2 import RandomHorizontalFlip

from lightning_privacy._lightning import LightningDataModule, LightningModule, Trainer
from lightning_privacy.data.augmentation import AugmentationDataModule
from lightning_privacy.data.augmentation.batches import may_repeat
from lightning_privacy.data.augmentation.proxy import DataModuleProxy, LoaderDataModule
from lightning_privacy.errors import ConfigurationError, UnsupportedError

HOOKS = sorted(
    name
    for name in dir(LightningDataModule)
    if (not name.startswith("__") and inspect.isroutine(inspect.getattr_static(LightningDataModule, name)))
    or isinstance(inspect.getattr_static(LightningDataModule, name, None), classmethod)
)
OTHERS = sorted(name for name in dir(LightningDataModule()) if not name.startswith("__") and name not in HOOKS)
AUGMENTED = {"train_dataloader", "on_before_batch_transfer", "on_after_batch_transfer"}
OWN = {"from_datasets", "load_from_checkpoint"}


def loader(size=8, **options: Any):
    data = TensorDataset(torch.arange(size * 4.0).reshape(size, 1, 2, 2), torch.arange(size))
    return DataLoader(data, batch_size=4, **options)


class Plain(LightningDataModule):
    """Only what a DataModule must have."""

    def train_dataloader(self):
        return loader()


class Full(LightningDataModule):
    """Every hook, with a note of each call."""

    name = "full"
    CHECKPOINT_HYPER_PARAMS_KEY = "own_key"

    def __init__(self, size: int = 8):
        super().__init__()
        self.save_hyperparameters()
        self.calls: list[str] = []
        self.state = 0
        self.transforms = "the user's own"
        self.prepare_data_per_node = False
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(f"setup {stage}")

    def teardown(self, stage):
        self.calls.append(f"teardown {stage}")

    def train_dataloader(self):
        self.calls.append("train_dataloader")
        return loader(self.hparams.size)

    def val_dataloader(self):
        return loader(4)

    def test_dataloader(self):
        return loader(4)

    def predict_dataloader(self):
        return loader(4)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("before")
        return batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.calls.append("transfer")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("after")
        return batch

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, state_dict):
        self.state = state_dict["state"]

    def on_exception(self, exception):
        self.calls.append(f"exception {exception}")


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.batches: list[tuple[bool, Any]] = []
        self.order: list[str] = []

    def training_step(self, batch, batch_idx):
        self.batches.append((True, batch))
        return self.layer(batch[0].flatten(1)).square().mean()

    def validation_step(self, batch, batch_idx):
        self.batches.append((False, batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


class HookedModule(Module):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.order.append("before")
        return batch

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.order.append("after")
        return batch


def wrap(datamodule, **options: Any):
    return AugmentationDataModule(datamodule, transforms=[RandomHorizontalFlip(1.0)], **options)


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(**options: Any):
        defaults = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(**(defaults | quiet | options))

    return make


def test_the_hooks_are_those_of_lightning_2_6():
    """A hook that a later Lightning adds shows here, and is forwarded like all others."""
    assert HOOKS == [
        "_set_hparams",
        "_to_hparams_dict",
        "from_datasets",
        "load_from_checkpoint",
        "load_state_dict",
        "on_after_batch_transfer",
        "on_before_batch_transfer",
        "on_exception",
        "predict_dataloader",
        "prepare_data",
        "remove_ignored_hparams",
        "save_hyperparameters",
        "setup",
        "state_dict",
        "teardown",
        "test_dataloader",
        "train_dataloader",
        "transfer_batch_to_device",
        "val_dataloader",
    ]
    assert OTHERS == [
        "CHECKPOINT_HYPER_PARAMS_KEY",
        "CHECKPOINT_HYPER_PARAMS_NAME",
        "CHECKPOINT_HYPER_PARAMS_TYPE",
        "_log_hyperparams",
        "allow_zero_length_dataloader_with_multiple_devices",
        "hparams",
        "hparams_initial",
        "name",
        "prepare_data_per_node",
        "trainer",
    ]


@pytest.mark.parametrize("where", ["device", "workers"])
@pytest.mark.parametrize("kind", [Plain, Full])
@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_the_wrapped_ones(name, kind, where):
    inner = kind()
    outer = wrap(inner, where=where)
    if name in OWN or (name in AUGMENTED and where == "device") or name == "train_dataloader":
        assert getattr(outer, name) != getattr(inner, name)
    else:
        assert getattr(outer, name) == getattr(inner, name)
    if name not in OWN | {"on_before_batch_transfer", "on_after_batch_transfer"}:
        assert is_overridden(name, outer) == is_overridden(name, inner)


@pytest.mark.parametrize("kind", [Plain, Full])
@pytest.mark.parametrize("name", OTHERS)
def test_every_attribute_is_the_wrapped_ones(name, kind):
    inner = kind()
    outer = wrap(inner)
    assert getattr(outer, name) == getattr(inner, name)
    if name != "hparams_initial":  # which can't be set
        value = {"size": 3} if name == "hparams" else f"another {name}"
        if name == "hparams":
            outer.hparams["size"] = 3
        else:
            setattr(outer, name, value)
        assert getattr(inner, name) == getattr(outer, name)
        assert name == "hparams" or getattr(inner, name) == value


def test_attributes_of_the_users_own_are_read_set_and_deleted():
    inner = Full()
    outer = wrap(inner)
    assert outer.transforms == "the user's own"
    outer.batch_size = 32
    assert inner.batch_size == 32
    del outer.batch_size
    assert not hasattr(inner, "batch_size")
    inner.val_dataloader = lambda: "set later"
    assert outer.val_dataloader() == "set later"
    assert {"transforms", "calls", "preview", "augmentation"} <= set(dir(outer))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = outer.no_such_thing


def test_it_is_both_kinds_of_datamodule():
    outer = wrap(Full())
    assert isinstance(outer, Full)
    assert isinstance(outer, AugmentationDataModule)
    assert isinstance(outer, LightningDataModule)
    assert type(outer) is AugmentationDataModule
    assert outer.__class__.__qualname__ == "Full"  # under which Lightning saves its state
    assert repr(outer).startswith("AugmentationDataModule(")
    assert "size=8" in str(outer)
    assert outer.datamodule.hparams == outer.hparams


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("where", ["device", "workers"])
def test_copies_work_and_go_their_own_way(copied, where):
    outer = wrap(Full(), where=where)
    other = copied(outer)
    other.new = 1
    assert hasattr(outer, "new") == (copied is copy.copy)
    assert torch.equal(next(iter(other.train_dataloader()))[0], next(iter(outer.train_dataloader()))[0])
    assert other.hparams == outer.hparams


def test_a_copy_of_what_knows_its_trainer_ends():
    inner = Full()
    outer = wrap(inner)
    inner.trainer = type("Stand-in", (), {})()
    inner.trainer.datamodule = outer
    other = copy.deepcopy(outer)
    assert other.trainer.datamodule is other


@pytest.mark.parametrize("where", ["device", "workers"])
def test_a_fit_calls_the_same_hooks_and_augments_train_batches_only(trainer, where):
    runs = []
    for wrapped in (False, True):
        inner, module = Full(), Module()
        trainer(num_sanity_val_steps=1).fit(module, datamodule=wrap(inner, where=where) if wrapped else inner)
        runs.append((inner.calls, module.batches))
    (calls, plain), (wrapped_calls, augmented) = runs
    assert wrapped_calls == calls
    assert [training for training, _ in plain] == [training for training, _ in augmented]
    for (training, before), (_, after) in zip(plain, augmented, strict=True):
        assert torch.equal(after[0], before[0].flip(-1) if training else before[0])
        assert torch.equal(after[1], before[1])


def test_hooks_of_the_module_are_chained(trainer, recwarn):
    inner, module = Full(), HookedModule()
    trainer().fit(module, datamodule=wrap(inner))
    assert module.order.count("before") == module.order.count("after") == inner.calls.count("after")
    assert torch.equal(module.batches[-1][1][0], next(iter(loader()))[0].flip(-1)) or len(module.batches) > 0
    assert not [one for one in recwarn if "It will use the implementation" in str(one.message)]
    module = HookedModule()
    trainer().fit(module, datamodule=wrap(Plain()))
    assert module.order == ["before", "after"] * 2


def test_state_and_hyperparameters_go_into_the_checkpoint_as_before(trainer, tmp_path):
    inner, plain = Full(5), Full(5)
    inner.state = 7
    first = trainer()
    first.fit(Module(), datamodule=wrap(inner))
    first.save_checkpoint(tmp_path / "wrapped.ckpt")
    checkpoint = torch.load(tmp_path / "wrapped.ckpt", weights_only=False)
    assert checkpoint["Full"] == {"state": 7}
    assert checkpoint["own_key"] == {"size": 5}
    for again in (plain, wrap(Full(5))):
        trainer(max_epochs=2).fit(Module(), datamodule=again, ckpt_path=tmp_path / "wrapped.ckpt", weights_only=False)
        assert again.state == 7
    assert Full.load_from_checkpoint(tmp_path / "wrapped.ckpt", weights_only=False).hparams.size == 5
    with pytest.raises(UnsupportedError, match="wrap it again"):
        AugmentationDataModule.load_from_checkpoint(tmp_path / "wrapped.ckpt")


def test_an_exception_reaches_the_wrapped_one(trainer):
    class Failing(Module):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("stop")

    inner = Full()
    with pytest.raises(RuntimeError, match="stop"):
        trainer().fit(Failing(), datamodule=wrap(inner))
    assert "exception stop" in inner.calls


@pytest.mark.parametrize("where", ["device", "workers"])
@pytest.mark.parametrize("kind", [BatchSampler, type("Chosen", (BatchSampler,), {})], ids=["torch's", "of one's own"])
def test_a_batch_sampler_that_the_loader_was_given_is_kept(kind, where):
    data = TensorDataset(torch.arange(10.0).reshape(10, 1, 1, 1), torch.arange(10))
    loader = DataLoader(data, batch_sampler=kind(WeightedRandomSampler([0.0] * 9 + [1.0], 8), 4, False))
    datamodule = AugmentationDataModule(train_dataloader=loader, transforms=[RandomHorizontalFlip()], where=where)
    assert [batch[1].tolist() for batch in datamodule.train_dataloader()] == [[9] * 4] * 2
    assert may_repeat(loader)
    assert not may_repeat(DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 4, False)))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_loaders_in_place_of_a_datamodule(trainer):
    outer = AugmentationDataModule(
        train_dataloader=loader(), val_dataloader=loader(4), transforms=[RandomHorizontalFlip(1.0)]
    )
    module = Module()
    trainer(num_sanity_val_steps=0).fit(module, datamodule=outer)
    assert [training for training, _ in module.batches] == [True, True, False]
    assert not is_overridden("test_dataloader", outer)
    data = loader().dataset
    made = AugmentationDataModule.from_datasets(data, batch_size=2, transforms=[RandomHorizontalFlip(1.0)], seed=4)
    assert made.augmentation.seed == 4
    assert next(iter(made.train_dataloader()))[0].shape == (2, 1, 2, 2)


def test_what_is_no_datamodule_is_named():
    with pytest.raises(ConfigurationError, match="give a datamodule, or loaders"):
        AugmentationDataModule(transforms=[])
    with pytest.raises(ConfigurationError, match="give a datamodule, or loaders"):
        AugmentationDataModule(Plain(), train_dataloader=loader(), transforms=[])
    with pytest.raises(ConfigurationError, match="datamodule must be a LightningDataModule, got DataLoader"):
        AugmentationDataModule(loader(), transforms=[])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="training_dataloader is not the name of a loader"):
        LoaderDataModule(training_dataloader=loader())
    assert isinstance(DataModuleProxy(Plain()).datamodule, Plain)
