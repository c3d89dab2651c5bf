"""P31: figures of a validation on examples that are trained on are a caveat, and a warning where something acts."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, random_split

from lightning_privacy._lightning import ModelCheckpoint, pl
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks import DifferentialPrivacy, GroupFairness
from lightning_privacy.callbacks import _monitored_metrics as monitored
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.report.sentences import pitfall_of

EarlyStopping = pl.callbacks.EarlyStopping

CAVEAT = (
    "Logged while validating: val_loss. These are figures of rows that are trained on, without noise, so epsilon does "
    "not cover publishing them."
)

QUIET: dict[str, Any] = {"show": False, "write": False}


class Doubled(Dataset[Any]):
    """Changes examples and leaves them where they are."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        features, *rest = self.dataset[index]
        return [2 * features, *rest]


class First(Doubled):
    """Some examples of a data set, by a rule of its own."""

    def __len__(self) -> int:
        return 5


class Stream(IterableDataset[Any]):
    """Has a data set and no length."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Any:
        return (self.dataset[index] for index in range(3))


def silent(tiny: Any, **options: Any) -> Any:
    class Silent(tiny.Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.loss(batch)

    return Silent(**options)


def sorting(tiny: Any) -> Any:
    class Sorting(type(silent(tiny))):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            score = self.net(batch[0])
            return {"logits": torch.cat([-score, score], 1), "target": batch[2] % 2}

    return Sorting()


def fit(tiny: Any, train: Any, validation: Any, *callbacks: Any, module: Any = None, **options: Any) -> tuple[str, ...]:
    """The caveats of a private run over two data sets, the second of which may be loaders."""
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=1.0)
    options.setdefault("max_epochs", 2)
    trainer = tiny.trainer(
        callbacks=[*callbacks, privacy],
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        **options,
    )
    loaders = DataLoader(validation, batch_size=4) if isinstance(validation, Dataset) else validation
    trainer.fit(module or silent(tiny), DataLoader(train, batch_size=4, shuffle=True), loaders)
    assert trainer.global_step > 0
    return privacy.ledger.caveats


SHARED: dict[str, Any] = {
    "same": lambda data: (data, data),
    "subset": lambda data: (data, Subset(data, [3, 4])),
    "of_subset": lambda data: (Subset(data, range(10)), data),
    "overlap": lambda data: (Subset(data, range(10)), Subset(data, range(9, 24))),
    "nested": lambda data: (Subset(Subset(data, range(2, 24)), range(8)), Subset(data, [9])),
    "wrapped": lambda data: (Subset(data, range(10)), Doubled(Subset(data, range(9, 12)))),
    "joined": lambda data: (ConcatDataset([Subset(data, range(4)), Subset(data, range(8, 12))]), Subset(data, [8])),
    "some": lambda data: (data, First(data)),
    "stream": lambda data: (data, Stream(data)),
    "tensors": lambda data: (data, torch.utils.data.TensorDataset(*(tensor[20:] for tensor in data.tensors))),
}
APART: dict[str, Any] = {
    "split": lambda data: random_split(data, [16, 8], generator=torch.Generator().manual_seed(1)),
    "split_wrapped": lambda data: (Doubled(Subset(data, range(12))), Subset(Doubled(data), range(12, 24))),
    "joined": lambda data: (ConcatDataset([Subset(data, range(4)), Subset(data, range(8, 12))]), Subset(data, [5])),
    "nested": lambda data: (Subset(Subset(data, range(2, 24)), range(8)), Subset(data, [1, 10])),
    "some": lambda data: (Subset(data, range(12)), First(data)),
    "tensors": lambda data: tuple(
        torch.utils.data.TensorDataset(*(tensor[part] for tensor in data.tensors))
        for part in (slice(0, 16), slice(16, 24))
    ),
}


@pytest.mark.parametrize("sets", SHARED.values(), ids=SHARED)
def test_p31_figures_of_training_examples_are_one_caveat(tiny: Any, sets: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*acts? on")
        assert fit(tiny, *sets(tiny.dataset(24))) == (CAVEAT,)
    assert pitfall_of(CAVEAT) == "P31"


@pytest.mark.parametrize("sets", APART.values(), ids=APART)
def test_p31_other_examples_of_one_data_set_are_no_caveat(tiny: Any, tmp_path: Any, sets: Any) -> None:
    watchers = (EarlyStopping("val_loss"), ModelCheckpoint(tmp_path, monitor="val_loss"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*acts? on")
        assert fit(tiny, *sets(tiny.dataset(24)), *watchers) == ()


def test_p31_equal_data_in_another_object_is_no_caveat(tiny: Any) -> None:
    assert fit(tiny, tiny.dataset(24), tiny.dataset(24)) == ()


@pytest.mark.parametrize("sanity", [0, 2])
def test_p31_what_acts_on_a_figure_of_training_examples_is_told_once(tiny: Any, tmp_path: Any, sanity: int) -> None:
    class Plateau(type(silent(tiny))):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    data = tiny.dataset(24)
    watchers = (EarlyStopping("val_loss", patience=9), ModelCheckpoint(tmp_path, monitor="val_loss"))
    acting = "EarlyStopping and ModelCheckpoint and ReduceLROnPlateau act on 'val_loss'"
    with pytest.warns(UserWarning, match=f"{acting}.*Monitor a metric of a validation set of other people") as told:
        caveats = fit(tiny, data, data, *watchers, module=Plateau(), num_sanity_val_steps=sanity, max_epochs=3)
    assert sum("val_loss" in str(warning.message) for warning in told) == 1
    assert [caveat.startswith(acting) for caveat in caveats] == [True, False]
    assert caveats[1] == CAVEAT


def test_p31_the_checkpoint_that_a_validation_writes_knows_of_it(tiny: Any, tmp_path: Any) -> None:
    data = tiny.dataset(24)
    with pytest.warns(UserWarning, match="ModelCheckpoint acts on 'val_loss'"):
        fit(tiny, data, data, ModelCheckpoint(tmp_path, filename="one", monitor="val_loss"), max_epochs=1)
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert CAVEAT in str(saved["callbacks"])


def test_p31_a_check_of_sanity_alone_shows_nothing(tiny: Any) -> None:
    data = tiny.dataset(24)
    assert fit(tiny, data, data, max_epochs=1, check_val_every_n_epoch=2) == ()


def test_p31_what_a_validation_does_not_log_has_no_caveat(tiny: Any) -> None:
    class Mute(type(silent(tiny))):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.loss(batch)

    data = tiny.dataset(24)
    assert fit(tiny, data, data, module=Mute()) == ()


def test_p31_of_several_loaders_the_one_of_training_examples_is_told(tiny: Any) -> None:
    class Several(type(silent(tiny))):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self.loss(batch))

    train, held_out = random_split(tiny.dataset(24), [16, 8])
    loaders = {"held out": DataLoader(held_out, batch_size=4), "train": DataLoader(train, batch_size=4)}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*acts? on")
        caveats = fit(tiny, train, loaders, EarlyStopping("val_loss/dataloader_idx_0"), module=Several())
    assert caveats == (CAVEAT.replace("val_loss", "val_loss/dataloader_idx_1"),)
    with pytest.warns(UserWarning, match="EarlyStopping acts on 'val_loss/dataloader_idx_1'"):
        fit(tiny, train, loaders, EarlyStopping("val_loss/dataloader_idx_1"), module=Several())


def test_p31_data_sets_are_looked_into_once(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(monitored, "gives_training_rows", lambda *loaders: looked.append(loaders) or True)
    data = tiny.dataset(24)
    assert fit(tiny, data, data, max_epochs=4, val_check_interval=2) == (CAVEAT,)
    assert len(looked) == 1


def test_p31_fairness_of_other_people_may_be_acted_on(tiny: Any) -> None:
    train, held_out = random_split(tiny.dataset(24), [16, 8])
    loaders = [DataLoader(held_out, batch_size=8), DataLoader(train, batch_size=8)]
    for place, expected in ((0, False), (1, True)):
        fairness = GroupFairness(groups=lambda batch: batch[2] // 12, num_groups=2, num_classes=2, **QUIET)
        watcher = EarlyStopping(f"fairness/dataloader_{place}/worst_group_accuracy", patience=9)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            fit(tiny, train, loaders, fairness, watcher, module=sorting(tiny))
        assert any("acts on" in str(warning.message) for warning in told) is expected


@pytest.mark.parametrize("paid", [False, True], ids=["exact", "noisy"])
def test_p31_figures_that_were_paid_for_may_be_acted_on(tiny: Any, paid: bool) -> None:
    options = {"private_epsilon": 1.0, "ledger": PrivacyLedger(delta=1e-3)} if paid else {}
    fairness = GroupFairness(groups=lambda batch: batch[2] // 12, num_groups=2, num_classes=2, **QUIET, **options)
    data = tiny.dataset(24)
    watcher = EarlyStopping("fairness/worst_group_accuracy", patience=9, strict=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        caveats = fit(tiny, data, data, fairness, watcher, module=sorting(tiny))
    assert any("acts on" in str(warning.message) for warning in told) is not paid
    assert not [caveat for caveat in caveats if caveat.startswith("Logged while validating")]
    assert any(caveat.startswith("GroupFairness") for caveat in caveats)


def test_validation_metrics_are_those_of_the_validation_with_their_keys(tiny: Any) -> None:
    class Both(tiny.Module):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val", 1.0, on_step=True, on_epoch=True)
            self.log(f"own_{dataloader_idx}", 1.0, add_dataloader_idx=False)

        def on_validation_epoch_end(self) -> None:
            self.log("end", 1.0)

    trainer = tiny.trainer(max_epochs=1)
    loaders = [tiny.loader(4, shuffle=False), tiny.loader(4, shuffle=False)]
    trainer.fit(Both(), tiny.loader(8, 4), loaders)
    found = {metric.name: metric for metric in internals.validation_metrics(trainer)}
    names = [f"val{fork}/dataloader_idx_1" for fork in ("", "_step", "_epoch")]
    assert found[names[0]] == internals.LoggedMetric("validation_step", names[0], tuple(names), 1)
    assert found["own_1"] == internals.LoggedMetric("validation_step", "own_1", ("own_1",), 1)
    assert found["end"] == internals.LoggedMetric("on_validation_epoch_end", "end", ("end",), None)
    keys = {key for metric in found.values() for key in metric.keys}
    # Lightning shows no steps of a validation there, and the plain name for the mean of the epoch.
    assert {key for key in keys if "_step/" not in key} == set(trainer.callback_metrics) - {"train_loss"}
