"""The callback on modules, batches and loaders of every form, against the metrics of all rows at once."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import subprocess
import sys
import warnings
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks._fairness_alignment import RowOrder
from lightning_privacy.callbacks.group_fairness import GroupFairness
from lightning_privacy.data.augmentation import AugmentationDataModule, Noise
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.fairness import GroupSample
from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning
from lightning_privacy.sweeps import run_account

ROWS = 90
Row = namedtuple("Row", "x y sex")


@dataclasses.dataclass
class Batch:
    x: Tensor
    y: Tensor
    sex: Tensor


class Data(Dataset[Any]):
    """Rows with a group; ``form`` says how a row, and so a batch, looks."""

    def __init__(self, form: str = "tuple", size: int = ROWS, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.form = form
        self.x = torch.randn(size, 3, generator=generator)
        self.y = (self.x.sum(1) + torch.randn(size, generator=generator) > 0).long()
        self.sex = torch.randint(3, (size,), generator=generator)
        self.race = torch.randint(2, (size,), generator=generator)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        x, y, sex, race = self.x[index], self.y[index], self.sex[index], self.race[index]
        return {
            "tuple": (x, y, sex, race),
            "pair": (x, y),
            "mapping": {"image": x, "label": y, "sex": sex, "race": race},
            "named": Row(x, y, sex),
            "text": (x, y, "fmx"[int(sex) % 3]),
        }[self.form]


def as_data_class(rows: list[Any]) -> Batch:
    return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)))


class Model(LightningModule):
    """A linear classifier; ``returns`` says what a step gives."""

    def __init__(self, returns: str | None = None, classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(3, classes)
        self.returns = returns
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.layer(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        if self.returns is None:
            return None
        logits = self.layer(batch[0])
        return {
            "loss": logits.mean(),
            "logits": {"logits": logits, "loss": logits.mean()},
            "one logit": {"logits": logits[:, 1:] - logits[:, :1]},
            "probs": {"probs": logits.softmax(1)},
            "probability": {"probs": logits.softmax(1)[:, 1]},
            "preds": {"preds": logits.argmax(1)},
            "float preds": {"preds": logits},
            "label": {"logits": logits, "target": 1 - batch[1]},
        }[self.returns]

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fairness(**options: Any) -> GroupFairness:
    return GroupFairness(**({"groups": {"sex": 2}, "show": False, "write": False} | options))


def validate(
    tiny: Any, callback: GroupFairness, loader: Any, model: Any = None, **options: Any
) -> list[dict[str, float]]:
    return tiny.trainer(callbacks=[callback], **options).validate(model or Model(), loader, verbose=False)


def expected(data: Data, groups: Tensor | None = None, *, scores: bool = True, flip: bool = False) -> GroupSample:
    with torch.no_grad():
        probs = Model().layer(data.x).softmax(1)[:, 1]
    groups = data.sex if groups is None else groups
    return GroupSample.of_rows(
        preds=(probs > 0.5).long(),
        target=1 - data.y if flip else data.y,
        groups=groups,
        num_groups=int(groups.max()) + 1,
        num_classes=2,
        probs=probs if scores else None,
    )


def check(callback: GroupFairness, sample: GroupSample, position: int = 0) -> None:
    figures = sample.figures()
    assert list(callback.tables[position].figures) == list(figures)
    for name, values in figures.items():
        torch.testing.assert_close(callback.tables[position].figures[name], values, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("returns", "runs_forward"),
    [(None, True), ("loss", True), ("logits", False), ("one logit", False), ("probs", False), ("probability", False),
     ("preds", False), ("float preds", False), ("label", False)],
)  # fmt: skip
def test_predictions_from_the_step_or_from_forward(tiny, returns, runs_forward):
    data, model, callback = Data(), Model(returns), fairness()
    validate(tiny, callback, DataLoader(data, 20), model)
    check(callback, expected(data, scores=returns != "preds", flip=returns == "label"))
    assert model.forwards == (5 if runs_forward else 0)


@pytest.mark.parametrize(
    "groups", ["sex", 2, {"who": "sex"}, {"who": lambda batch: batch[2]}], ids=["key", "place", "mapping", "function"]
)
def test_groups_in_a_batch(tiny, groups):
    form = "tuple" if groups == 2 else "named"
    data, callback = Data(form), fairness(groups=groups)
    validate(tiny, callback, DataLoader(data, 20))
    check(callback, expected(data))
    assert callback.tables[0].group_names == ("0", "1", "2")


def test_a_mapping_and_a_data_class(tiny):
    data, callback = Data("mapping"), fairness(groups="sex")
    loader = DataLoader(data, 20)
    model = Model()
    model.validation_step = lambda batch, batch_idx: None
    validate(tiny, callback, loader, model)
    check(callback, expected(data))
    named, callback = Data("named"), fairness(groups=lambda batch: batch.sex, target=lambda batch: batch.y)
    validate(tiny, callback, DataLoader(named, 20, collate_fn=as_data_class), model)
    check(callback, expected(named))


def as_series(sex: Tensor) -> Any:
    import pandas as pd  # slow to import, which the processes of the last test are spared

    return pd.Series(sex.numpy())


@pytest.mark.parametrize(
    "convert",
    [lambda sex: sex, lambda sex: sex.numpy(), lambda sex: sex.tolist(), as_series,
     lambda sex: np.array(["a", "b", "c"])[sex.numpy()], lambda sex: sex.numpy().astype(float)],
    ids=["tensor", "numpy", "list", "pandas", "texts", "floats"],
)  # fmt: skip
def test_an_array_aligned_with_the_data_set(tiny, convert):
    data = Data("pair")
    callback = fairness(groups=convert(data.sex))
    validate(tiny, callback, DataLoader(data, 20), limit_val_batches=3)
    first = Data("pair")
    first.x, first.y, first.sex = data.x[:60], data.y[:60], data.sex[:60]
    check(callback, expected(first))


def test_an_attribute_of_the_data_set_also_through_subsets(tiny):
    data, callback = Data("pair"), fairness(groups="sex")
    validate(tiny, callback, DataLoader(data, 20))
    check(callback, expected(data))
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    shuffled = Data("pair")
    shuffled.x, shuffled.y, shuffled.sex = data.x[order], data.y[order], data.sex[order]
    parts = ConcatDataset([Subset(data, order[:50].tolist()), Subset(data, order[50:].tolist())])
    validate(tiny, callback, DataLoader(parts, 20))
    check(callback, expected(shuffled))


def test_texts_are_groups_with_and_without_names(tiny):
    data = Data("text")
    for names, order in ((None, ["f", "m", "x"]), (["x", "f", "m", "none"], ["x", "f", "m", "none"])):
        callback = fairness(groups={"sex": 2}, group_names=names)
        validate(tiny, callback, DataLoader(data, 20))
        assert callback.tables[0].group_names == tuple(order)
        mapped = torch.tensor([order.index(text) for text in ("f", "m", "x")])[data.sex]
        sample = expected(data, mapped)
        accuracy = sample.figures()["accuracy"].tolist() + [math.nan] * (len(order) - sample.num_groups)
        assert callback.tables[0].figures["accuracy"].tolist() == pytest.approx(accuracy, nan_ok=True)


def test_values_that_are_no_consecutive_numbers_are_groups_as_they_are(tiny):
    data = Data()
    data.sex[:20] = 2  # met first, and the last in order
    data.sex = torch.tensor([70, -1, 1994])[data.sex]
    callback = fairness()
    validate(tiny, callback, DataLoader(data, 20))
    assert callback.tables[0].group_names == ("-1", "70", "1994")
    check(callback, expected(data, torch.searchsorted(torch.tensor([-1, 70, 1994]), data.sex)))


def test_several_attributes_and_their_intersections(tiny):
    data = Data("mapping")
    callback = fairness(groups=["sex", "race"], num_groups={"race": 2}, group_names={"sex": ["f", "m", "x"]})
    model = Model()
    model.validation_step = lambda batch, batch_idx: None
    (logged,) = validate(tiny, callback, DataLoader(data, 20), model)
    assert [table.attribute for table in callback.tables] == ["sex", "race", "sex x race"]
    check(callback, expected(data))
    check(callback, expected(data, data.race), 1)
    check(callback, expected(data, data.sex * 2 + data.race), 2)
    assert callback.tables[2].group_names == ("f & 0", "f & 1", "m & 0", "m & 1", "x & 0", "x & 1")
    assert logged["fairness/sex/accuracy/f"] == pytest.approx(callback.tables[0].figures["accuracy"][0].item())
    assert "fairness/sex x race/worst_group_accuracy" in logged
    assert "fairness/sex x race/accuracy/f & 0" not in logged


def test_what_is_logged_in_validation_and_test(tiny):
    data = Data()
    callback = fairness(group_names=["f", "m", "x"], min_group_size=0)
    trainer = tiny.trainer(callbacks=[callback])
    (validated,) = trainer.validate(Model(), DataLoader(data, 20), verbose=False)
    (tested,) = trainer.test(Model(), DataLoader(data, 20), verbose=False)
    sample = expected(data)
    for name, value in sample.disparities().items():
        assert validated[f"fairness/{name}"] == pytest.approx(value.item(), abs=1e-6)
        assert tested[f"fairness/test/{name}"] == pytest.approx(value.item(), abs=1e-6)
    for figure in ("accuracy", "selection_rate", "tpr", "fpr"):
        for group, value in zip("fmx", sample.figures()[figure].tolist(), strict=True):
            assert validated[f"fairness/{figure}/{group}"] == pytest.approx(value, abs=1e-6)
    assert len(validated) == 11 + 4 * 3


def test_the_sanity_check_is_skipped_and_each_validation_starts_anew(tiny):
    data, seen = Data(), []

    class Watch(GroupFairness):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_validation_epoch_end(trainer, pl_module)
            seen.append((trainer.sanity_checking, len(self.tables)))

    callback = Watch(groups={"sex": 2}, show=False, write=False)
    trainer = tiny.trainer(callbacks=[callback], max_epochs=2, num_sanity_val_steps=1)
    trainer.fit(Model(), DataLoader(data, 30), DataLoader(data, 20))
    assert seen == [(True, 0), (False, 1), (False, 1)]
    check(callback, expected(data))
    assert "fairness/equalized_odds_ratio" in trainer.callback_metrics


def test_what_is_not_found_is_told_before_the_first_epoch(tiny):
    trainer = tiny.trainer(callbacks=[fairness(groups="gender")], max_epochs=1, num_sanity_val_steps=1)
    with pytest.raises(ConfigurationError, match="groups='gender' is not in the batch"):
        trainer.fit(Model(), DataLoader(Data(), 30), DataLoader(Data("mapping"), 20))
    assert trainer.global_step == 0


def test_several_loaders_have_a_table_each(tiny):
    first, second = Data("pair"), Data("pair", size=40, seed=1)
    callback = fairness(groups="sex")
    logged = validate(tiny, callback, [DataLoader(first, 20), DataLoader(second, 30)])
    check(callback, expected(first))
    check(callback, expected(second), 1)
    name = "worst_group_accuracy"
    for position, data in enumerate((first, second)):
        worst = expected(data).disparities(min_group_size=30)[name].item()
        assert logged[0][f"fairness/dataloader_{position}/{name}"] == pytest.approx(worst, nan_ok=True)


def test_several_classes(tiny):
    data, model, callback = Data(), Model(classes=3), fairness(positive_class=2)
    data.y = torch.randint(3, (ROWS,), generator=torch.Generator().manual_seed(4))
    validate(tiny, callback, DataLoader(data, 20), model)
    with torch.no_grad():
        probs = model.layer(data.x).softmax(1)
    sample = GroupSample.of_rows(
        preds=probs.argmax(1), target=data.y, groups=data.sex, num_groups=3, num_classes=3, probs=probs
    )
    for name, values in sample.figures(positive_class=2).items():
        torch.testing.assert_close(callback.tables[0].figures[name], values, rtol=0, atol=1e-6)


def test_own_function_for_predictions_and_labels(tiny):
    data = Data()
    with torch.no_grad():
        layer = Model().layer
    callback = fairness(
        predict=lambda module, batch: layer(batch[0]).diff(dim=1),
        prediction_kind="logits",
        target=lambda batch: batch[1],
    )
    model = Model()
    validate(tiny, callback, DataLoader(data, 20), model)
    assert model.forwards == 0
    check(callback, expected(data))


def test_the_table_is_printed_and_small_groups_are_marked(tiny, capsys):
    data = Data()
    data.sex[:] = 0
    data.sex[:50] = 1
    data.sex[:3] = 2
    callback = fairness(show=True, group_names=["f", "m", "[bold]x"], min_group_size=10, bootstrap=30)
    validate(tiny, callback, DataLoader(data, 20))
    printed = capsys.readouterr().out
    assert "Validation after 0 steps: sex" in printed
    assert "[bold]x *" in printed
    assert "1 of 3 groups have fewer than 10 rows" in printed
    for word in ("AUROC", "calib. error", "demographic parity", "interval", "Accuracy of the worst group"):
        assert word in printed
    assert callback.tables[0].too_small == ("[bold]x",)
    accuracy = expected(data).disparities(min_group_size=10)["worst_group_accuracy"].item()
    assert callback.tables[0].disparities["worst_group_accuracy"] == pytest.approx(accuracy)


def test_files_hold_every_figure(tiny, tmp_path):
    data, callback = Data(), fairness(write=True, bootstrap=20, min_group_size=31)
    trainer = tiny.trainer(callbacks=[callback], default_root_dir=tmp_path)
    for _ in range(2):
        trainer.validate(Model(), DataLoader(data, 20), verbose=False)
    assert sorted(path.name for path in (tmp_path / "fairness").iterdir()) == ["val-step=0-v1.csv", "val-step=0.csv"]
    with (tmp_path / "fairness" / "val-step=0.csv").open() as file:
        rows = list(csv.DictReader(file))
    figures = expected(data).figures()
    small = {str(group) for group in range(3) if figures["n"][group] < 31}
    assert 0 < len(small) < 3
    for group in range(3):
        for name, values in figures.items():
            (row,) = [row for row in rows if row["group"] == str(group) and row["figure"] == name]
            assert float(row["value"]) == pytest.approx(values[group].item(), abs=1e-6)
            assert float(row["low"]) <= float(row["high"])
            assert (row["stage"], row["attribute"], row["dataloader"]) == ("val", "sex", "0")
            assert int(row["too_small"]) == (str(group) in small)
    assert len([row for row in rows if row["group"] == "(all)"]) == 12
    assert len([row for row in rows if row["group"] == ""]) == 11


def test_a_folder_of_ones_own_and_none_when_developing(tiny, tmp_path):
    folder = tmp_path / "deep" / "er"
    validate(tiny, fairness(write=folder), DataLoader(Data(), 20), default_root_dir=tmp_path / "root")
    assert [path.name for path in folder.iterdir()] == ["val-step=0.csv"]
    validate(tiny, fairness(write=tmp_path / "no"), DataLoader(Data(), 20), fast_dev_run=True)
    assert not (tmp_path / "no").exists()
    assert not (tmp_path / "root").exists()


@pytest.mark.filterwarnings("ignore:.*barebones")
def test_a_barebones_run_has_no_folder_to_write_to_but_the_one_that_is_given(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where in (True, tmp_path / "given"):
        callback = fairness(write=where)
        trainer = Trainer(barebones=True, accelerator="cpu", callbacks=[callback])
        trainer.validate(Model(), DataLoader(Data(), 20), verbose=False)
        assert callback.tables
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([Data("pair")[index] for index in range(10)])


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda data: DataLoader(data, 20, sampler=RandomSampler(data)), "its RandomSampler has an order of its own"),
        (lambda data: DataLoader(data, 9, sampler=WeightedRandomSampler([1.0] * ROWS, 9)), "its WeightedRandomSampler"),
        (lambda data: DataLoader(data, batch_sampler=[[1, 2], [0]]), "a batch sampler of its own"),
        (lambda data: DataLoader(data, 20, sampler=DistributedSampler(data, 1, 0)), "its DistributedSampler shuffles"),
        (lambda data: DataLoader(Stream(), 5), "its data set Stream has no length"),
        (lambda data: DataLoader(Subset(data, range(80)), 20), "has 90 entries, and the loader's data set 80 rows"),
    ],
    ids=["shuffled", "weighted", "batches", "distributed", "stream", "length"],
)
@pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled")
def test_an_array_that_cannot_be_matched_is_refused(tiny, loader, message):
    data = Data("pair")
    with pytest.raises(ConfigurationError, match=f"groups of 'group' .*{message}"):
        validate(tiny, fairness(groups=data.sex), loader(data))


class NoForward(Model):
    forward = LightningModule.forward


@pytest.mark.parametrize(
    ("options", "form", "model", "message"),
    [
        ({"groups": "gender"}, "mapping", Model, "'gender' is not in the batch.*its keys are 'image', 'label'"),
        ({"groups": 7}, "tuple", Model, "groups=7 is not in the batch, which has 4 parts"),
        ({"num_groups": 2}, "tuple", Model, "groups of 'sex' have the unknown value 2; the groups are 0 to 1"),
        ({"group_names": ["f", "m"]}, "text", Model, "unknown value 'x'; the groups are 'f', 'm'"),
        ({"groups": {"sex": lambda batch: batch[2].float() / 2}}, "tuple", Model, "must be whole numbers, got 0.5"),
        ({"groups": {"sex": lambda batch: batch[0]}}, "tuple", Model, "one value per row, got shape"),
        ({"groups": {"sex": lambda batch: batch[2][:4]}}, "tuple", Model, "20 labels, 4 groups of 'sex'"),
        ({"groups": {"sex": lambda batch: batch[2] * math.nan}}, "tuple", Model, "got nan: give rows whose group"),
        ({"groups": {"sex": lambda batch: None}}, "tuple", Model, "must be whole numbers or texts, got NoneType"),
        ({}, "tuple", NoForward, "returns no predictions from its step and has no forward"),
        ({"predict": lambda module, batch: batch[0][:, 0]}, "tuple", Model, "one number per example.*prediction_kind="),
        ({"predict": lambda module, batch: "yes"}, "tuple", Model, "predict gave a str"),
        ({"target": "label"}, "tuple", Model, "target='label' is not in the batch"),
        ({"target": 0}, "tuple", Model, r"labels must be one class per example, got shape \(20, 3\)"),
        ({"target": lambda batch: ["yes", "no"]}, "tuple", Model, "labels must be numbers, .* got a list"),
        ({"target": lambda batch: None}, "tuple", Model, "there are no labels in the batch"),
        ({"num_classes": 3}, "tuple", Model, "num_classes=3, but the predictions have 2 classes"),
        ({"positive_class": 5}, "tuple", Model, "positive_class must be in 0 to 1, got 5"),
    ],
    ids=["key", "place", "number", "text", "fraction", "shape", "length", "missing", "none", "forward", "kind",
         "predict", "target", "labels", "texts", "no labels", "classes", "positive"],
)  # fmt: skip
def test_what_cannot_be_found_is_named(tiny, options, form, model, message):
    module = model()
    module.validation_step = lambda batch, batch_idx: None
    with pytest.raises(ConfigurationError, match=message):
        validate(tiny, fairness(**options), DataLoader(Data(form), 20), module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": None}, "groups must be a key or a place in the batch"),
        ({"groups": {}}, "groups must name one attribute at least"),
        ({"groups": torch.zeros(3, 2)}, r"an array of shape \(3, 2\)"),
        ({"groups": ["a", "b"], "num_groups": 2}, "num_groups must be a mapping from the attributes"),
        ({"groups": "a", "num_groups": {"b": 2}}, r"num_groups names \['b'\]"),
        ({"groups": "a", "num_groups": 0}, "num_groups must be a whole number >= 1"),
        ({"groups": "a", "num_groups": 2, "group_names": ["x"]}, "num_groups=2 and group_names .* differ in number"),
        ({"groups": "a", "group_names": ["x", "x"]}, "group_names must be different names"),
        ({"groups": "a", "group_names": "xy"}, "group_names must be a list of names"),
        ({"groups": "a", "missing_groups": 3}, "missing_groups must be the name of a group"),
        ({"groups": "a", "missing_groups": {"b": "x"}}, r"missing_groups names \['b'\]"),
        ({"groups": "a", "num_groups": 2, "missing_groups": {"a": "x"}}, r"missing_groups\['a'\] must be one of 0, 1"),
        ({"groups": "a", "predict": "probs"}, "predict must be a function"),
        ({"groups": "a", "prediction_kind": "score"}, "prediction_kind must be one of 'probs'"),
        ({"groups": "a", "threshold": 1.5}, "threshold must be in 0 to 1"),
        ({"groups": "a", "method": "pairs"}, "method must be one of"),
        ({"groups": "a", "bootstrap": -1}, "bootstrap"),
        ({"groups": "a", "private_epsilon": 1.0}, "needs num_groups or group_names for a"),
        ({"groups": "a", "num_groups": 2, "private_epsilon": 0.0}, "private_epsilon must be a finite number > 0"),
        ({"groups": "a", "ledger": PrivacyLedger(delta=1e-5)}, "ledger is charged only where private_epsilon is given"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        GroupFairness(**options)


def without_groups(*, private: bool = False) -> tuple[Data, GroupFairness]:
    """Data of a table without a column ``race``: batches hold the number of a missing group for everybody."""
    data = Data("mapping", size=2000 if private else ROWS)
    data.race[:] = 1
    options: dict[str, Any] = {"private_epsilon": 4.0, "ledger": PrivacyLedger(delta=1e-6)} if private else {}
    names = {"sex": ["f", "m", "x"], "race": ["a", "unknown"]}
    return data, fairness(groups=["sex", "race"], group_names=names, show=True, **options)


@pytest.mark.parametrize("private", [False, True])
def test_an_attribute_that_nobody_has_is_left_out(tiny, capsys, private):
    data, callback = without_groups(private=private)
    model = Model()
    model.validation_step = lambda batch, batch_idx: None
    (logged,) = validate(tiny, callback, DataLoader(data, 100), model)
    (table,) = callback.tables
    assert (table.attribute, table.group_names) == ("sex", ("f", "m", "x"))
    if not private:
        check(callback, expected(data))
    assert "fairness/sex/accuracy/f" in logged
    assert not any("race" in name for name in logged)
    printed = capsys.readouterr().out
    assert printed.count("race") == 1
    assert "race is left out, as nobody is known to be in another group than 'unknown'" in printed


def test_one_person_of_a_known_group_is_told(tiny):
    data, callback = without_groups()
    data.race[7] = 0
    model = Model()
    model.validation_step = lambda batch, batch_idx: None
    validate(tiny, callback, DataLoader(data, 20), model)
    assert [table.attribute for table in callback.tables] == ["sex", "race", "sex x race"]
    check(callback, expected(data, data.race), 1)


@pytest.mark.parametrize("private", [False, True])
def test_without_any_known_group_there_is_no_table_and_no_file(tiny, tmp_path, capsys, private):
    data = Data()
    data.sex[:] = 2
    options = {"private_epsilon": 4.0, "ledger": PrivacyLedger(delta=1e-6)} if private else {}
    names = ["female", "male", "other"]
    callback = fairness(group_names=names, missing_groups="other", show=True, write=tmp_path / "out", **options)
    (logged,) = validate(tiny, callback, DataLoader(data, 20)) or [{}]
    assert callback.tables == ()
    assert not any("fairness" in name for name in logged)
    assert not (tmp_path / "out").exists()
    assert "sex is left out" in capsys.readouterr().out


def test_two_callbacks_need_two_names(tiny):
    loader = DataLoader(Data(), 20)
    with pytest.raises(ConfigurationError, match="two GroupFairness callbacks log as 'fairness'"):
        tiny.trainer(callbacks=[fairness(), fairness()]).validate(Model(), loader, verbose=False)
    other = fairness(groups={"race": 3}, name="race")
    (logged,) = tiny.trainer(callbacks=[fairness(), other]).validate(Model(), loader, verbose=False)
    assert {"fairness/worst_group_accuracy", "race/worst_group_accuracy"} <= set(logged)


def seeded() -> NoiseSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=1)


def test_the_table_of_a_test_alone_is_printed(tiny, capsys):
    callback = fairness(show="test")
    trainer = tiny.trainer(callbacks=[callback])
    trainer.validate(Model(), DataLoader(Data(), 20), verbose=False)
    assert "Validation" not in capsys.readouterr().out
    trainer.test(Model(), DataLoader(Data(), 20), verbose=False)
    assert "Test after" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="show must be True, False or 'test', got 'val'"):
        fairness(show="val")


def test_p16_a_private_table_is_charged_and_shows_nothing_but_noisy_counts(tiny, capsys):
    """The noise of scale 1/4 on 12 counts stays below 10 with probability 1 - 12 exp(-40)."""
    data, ledger = Data("mapping", size=2000), PrivacyLedger(delta=1e-6, budget=9.0)
    model = Model()
    model.validation_step = lambda batch, batch_idx: None
    callback = fairness(
        groups=["sex", "race"],
        num_groups={"sex": 3, "race": 2},
        private_epsilon=4.0,
        ledger=ledger,
        bootstrap=50,
        show=True,
    )
    trainer = tiny.trainer(callbacks=[callback])
    loader = DataLoader(data, 100)
    trainer.validate(model, loader, verbose=False)
    assert [(release, count) for release, count, _ in ledger.history] == [(LaplaceRelease(4.0), 1)]
    first = callback.tables[2].figures
    assert not {"auroc", "log_loss", "calibration_error"} & set(first)
    exact = expected(data, data.sex * 2 + data.race, scores=False).figures()
    assert not torch.equal(first["n"], exact["n"])
    torch.testing.assert_close(first["n"], exact["n"], rtol=0, atol=40)
    torch.testing.assert_close(first["accuracy"], exact["accuracy"], rtol=0, atol=0.1)
    # All tables follow from one release: those of the attributes are sums of that of the intersections.
    for position, dim in ((0, 1), (1, 0)):
        torch.testing.assert_close(callback.tables[position].figures["n"], first["n"].view(3, 2).sum(dim))
    assert all(table.intervals is None for table in callback.tables)
    assert "From counts with noise, released at epsilon 4" in capsys.readouterr().out
    trainer.validate(model, loader, verbose=False)
    assert ledger.epsilon(exact=True) == pytest.approx(8.0, rel=1e-3)
    assert not torch.equal(callback.tables[2].figures["n"], first["n"])
    before = callback.tables
    with pytest.raises(PrivacyBudgetExceeded):
        trainer.validate(model, loader, verbose=False)
    assert callback.tables == before


def test_a_private_table_is_charged_to_the_ledger_of_the_training(tiny):
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=2.0, probe=False)
    callback = fairness(num_groups=3, private_epsilon=0.5, noise=seeded())
    trainer = tiny.trainer(callbacks=[callback, privacy], max_epochs=2)
    data = Data()
    trainer.fit(Model(), DataLoader(data, 30, shuffle=True), DataLoader(data, 30))
    assert [(r, count) for r, count, _ in privacy.ledger.history if isinstance(r, LaplaceRelease)] == [
        (LaplaceRelease(0.5), 2)
    ]
    assert any("fixed seed" in caveat for caveat in privacy.ledger.caveats)
    assert not any("GroupFairness" in caveat for caveat in privacy.ledger.caveats)


@pytest.mark.parametrize("same", [True, False], ids=["same", "others"])
def test_p31_rows_that_pay_from_two_ledgers_are_a_caveat_in_both(tiny, same):
    data, privacy = Data(), DifferentialPrivacy(delta=1e-3, noise_multiplier=2.0, probe=False)
    own = PrivacyLedger(delta=1e-3)
    callback = fairness(num_groups=3, private_epsilon=5.0, ledger=own)
    trainer = tiny.trainer(callbacks=[callback, privacy], max_epochs=1)
    trainer.fit(Model(), DataLoader(data, 30, shuffle=True), DataLoader(data if same else Data(seed=1), 10))
    assert [(release, count) for release, count, _ in own.history] == [(LaplaceRelease(5.0), 1)]
    for ledger in (privacy.ledger, own):
        assert any("the two add up" in caveat for caveat in ledger.caveats) is same


def test_p31_a_ledger_of_fairness_figures_is_in_the_account_of_a_sweep(tiny, monkeypatch):
    accounted = []
    monkeypatch.setattr(run_account, "account_for", lambda ledgers, covers: accounted.extend(ledgers))
    own, privacy = PrivacyLedger(delta=1e-3), DifferentialPrivacy(delta=1e-3, noise_multiplier=2.0, probe=False)
    callback = fairness(num_groups=3, private_epsilon=5.0, ledger=own)
    run_account.account_for_run(tiny.trainer(callbacks=[callback, privacy]), None, privacy.ledger)
    assert any(ledger is own for ledger in accounted)
    assert fairness(num_groups=3, private_epsilon=5.0).ledger is None


def test_a_private_table_without_a_ledger_or_with_classes_of_the_data_is_refused(tiny):
    with pytest.raises(ConfigurationError, match="private_epsilon needs a ledger"):
        validate(tiny, fairness(num_groups=3, private_epsilon=1.0), DataLoader(Data(), 20))
    ledger = PrivacyLedger(delta=1e-6)
    callback = fairness(num_groups=3, private_epsilon=1.0, ledger=ledger)
    with pytest.raises(ConfigurationError, match="private_epsilon needs num_classes"):
        validate(tiny, callback, DataLoader(Data(), 20), Model("preds"))
    assert ledger.history == []


@pytest.mark.parametrize(
    ("validated", "told"),
    [
        (lambda data: data, True),
        (lambda data: Subset(data, range(40, 60)), True),
        (lambda data: Data(seed=1), False),
    ],
    ids=["same", "part", "others"],
)
def test_p31_figures_of_rows_that_are_trained_on_are_a_caveat(tiny, validated, told):
    data, privacy = Data(), DifferentialPrivacy(delta=1e-3, noise_multiplier=2.0, probe=False)
    trainer = tiny.trainer(callbacks=[fairness(), privacy], max_epochs=1)
    trainer.fit(Model(), DataLoader(data, 30, shuffle=True), DataLoader(validated(data), 10))
    assert any("GroupFairness reported figures" in caveat for caveat in privacy.ledger.caveats) is told


def test_p31_a_caveat_is_not_lost_behind_an_augmentation(tiny):
    data, privacy = Data(), DifferentialPrivacy(delta=1e-3, noise_multiplier=2.0, probe=False)
    loaders = {"train_dataloader": DataLoader(data, 30, shuffle=True), "val_dataloader": DataLoader(data, 10)}
    datamodule = AugmentationDataModule(transforms=[Noise(0.1)], **loaders)
    tiny.trainer(callbacks=[fairness(), privacy], max_epochs=1).fit(Model(), datamodule=datamodule)
    assert any("GroupFairness reported figures" in caveat for caveat in privacy.ledger.caveats)


def test_disjoint_parts_of_one_data_set_are_no_caveat(tiny):
    data, privacy = Data(), DifferentialPrivacy(delta=1e-3, noise_multiplier=2.0, probe=False)
    trainer = tiny.trainer(callbacks=[fairness(), privacy], max_epochs=1)
    parts = [Subset(data, range(60)), Subset(data, range(60, 90))]
    trainer.fit(Model(), DataLoader(parts[0], 30, shuffle=True), DataLoader(parts[1], 10))
    assert not any("GroupFairness" in caveat for caveat in privacy.ledger.caveats)


@pytest.mark.parametrize(("sampler", "known"), [(SequentialSampler, True), (RandomSampler, False)])
def test_the_order_of_rows_is_that_of_the_batch_sampler_a_loader_was_given(sampler, known):
    """The loader's own sampler is a sequential one then, whatever is inside the batch sampler."""
    data = Data("pair", size=10)
    order = RowOrder.of(DataLoader(data, batch_sampler=BatchSampler(sampler(data), 2, drop_last=False)))
    assert (order.reason is None) == known


@pytest.mark.parametrize("replicas", [2, 3, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_given_twice_are_counted_once(replicas, shuffle):
    """Over all ranks the rows that are left are each row once, whatever the batches."""
    data = Data("pair", size=10)
    left = []
    for rank in range(replicas):
        sampler = DistributedSampler(data, replicas, rank, shuffle=shuffle)
        order = RowOrder.of(DataLoader(data, 2, sampler=sampler))
        given = list(sampler)
        while given:
            batch, given = given[:2], given[2:]
            places = order.next(len(batch))
            kept = ~order.repeated(places)
            left += [index for index, keep in zip(batch, kept.tolist(), strict=True) if keep]
            if not shuffle:
                assert places[kept].tolist() == [i for i, keep in zip(batch, kept.tolist(), strict=True) if keep]
    assert sorted(left) == list(range(10))


def mix(data: Data) -> Data:
    """Groups that only one of two processes meets: the second row's, and that of the fifth and seventh."""
    data.sex, data.race = torch.tensor([0, 1, 0, 0, 2, 0, 2]), torch.tensor([0, 1, 1, 0, 1, 0, 1])
    return data


SCRIPT = """
import sys, warnings
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import test_group_fairness as suite
from conftest import make_trainer

folder = Path(sys.argv[2])
ledger = suite.PrivacyLedger(delta=1e-6)
data = suite.Data("mapping", size=7)
suite.mix(data)
callbacks = {
    "batch": suite.fairness(groups=["sex", "race"], min_group_size=0),
    "array": suite.fairness(groups=data.sex, name="array", write=folder / "files"),
    "private": suite.fairness(groups="sex", name="private", num_groups=3, private_epsilon=1.0, ledger=ledger),
}
model = suite.Model()
model.validation_step = lambda batch, batch_idx, dataloader_idx=0: None
trainer = make_trainer(devices=2, strategy="ddp", callbacks=list(callbacks.values()), default_root_dir=folder)
# The second loader has one row, which one rank is given in truth.
single = suite.Subset(suite.Data("mapping", size=1), [0])
loaders = [suite.DataLoader(data, 2), suite.DataLoader(single, 2)]
callbacks["array"]._attributes = suite.fairness(groups={"group": lambda b: b["sex"]})._attributes
logged = trainer.validate(model, loaders, verbose=False)
result = {name: [table.figures for table in callback.tables] for name, callback in callbacks.items()}
result |= {"logged": logged, "history": len(ledger.history), "epsilon": ledger.epsilon(exact=True)}
aligned = suite.fairness(groups=data.sex)
second = make_trainer(devices=2, strategy="ddp", callbacks=[aligned], default_root_dir=folder)
second.validate(model, suite.DataLoader(data, 2), verbose=False)
result["aligned"] = [table.figures for table in aligned.tables]
torch.save(result, folder / f"{trainer.global_rank}.pt")
"""


@pytest.mark.xdist_group("ddp")
def test_p28_two_processes_report_what_one_does(tmp_path):
    """Seven rows over two processes, which Lightning makes eight."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PL_"))}
    environment |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    data = mix(Data("mapping", size=7))
    single = Data("mapping", size=1)
    samples = [expected(data), expected(data, data.race)]
    for result in (first, second):
        for found, sample in zip(result["batch"][:2], samples, strict=True):
            for name, values in sample.figures().items():
                torch.testing.assert_close(found[name], values, rtol=0, atol=1e-6, equal_nan=True)
        assert result["batch"][2]["n"].sum() == 7
        for found in (result["array"][0], result["aligned"][0]):
            for name, values in samples[0].figures().items():
                torch.testing.assert_close(found[name], values, rtol=0, atol=1e-6, equal_nan=True)
        assert result["array"][1]["n"].tolist() == [1.0]
        assert result["array"][1]["accuracy"].item() == expected(single, single.sex * 0).figures()["accuracy"].item()
        assert result["history"] == 1  # one kind of release, charged once for each loader
        assert result["epsilon"] == pytest.approx(2.0, rel=1e-3)
    for one, other in zip(first["private"], second["private"], strict=True):
        assert torch.equal(one["n"], other["n"])
    assert first["logged"] == second["logged"] or str(first["logged"]) == str(second["logged"])
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["val-step=0.csv"]
