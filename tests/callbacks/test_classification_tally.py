"""Confusion and calibration of a test, against counting by hand and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_privacy._lightning as lightning
from lightning_privacy.callbacks.classification_tally import ClassificationTally, Tally


class _Model(lightning.LightningModule):
    """Gives what it is told to give."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(4, 1 if kind == "binary" else 3)

    def forward(self, x):
        if self.kind == "broken":
            raise TypeError("needs another\nargument")
        return self.layer(x)

    def test_step(self, batch, batch_idx):
        if self.kind == "binary":
            return {"logits": self.layer(batch[0]).squeeze(1)}
        return {"preds": self.layer(batch[0]).argmax(1)} if self.kind == "classes" else None


def _tested(kind, folder, rows=50):
    torch.manual_seed(0)
    model = _Model(kind)
    inputs, labels = torch.randn(rows, 4), torch.randint(2 if kind == "binary" else 3, (rows,))
    tally = ClassificationTally(folder)
    trainer = lightning.Trainer(
        callbacks=[tally], logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.test(model, DataLoader(TensorDataset(inputs, labels), batch_size=16), verbose=False)
    with torch.no_grad():
        logits = model.layer(inputs)
    return json.loads((folder / "classification.json").read_text()), logits, labels


def test_the_confusion_of_several_classes(tmp_path):
    values, logits, labels = _tested("several", tmp_path)
    assert values["confusion"] == confusion_matrix(labels, logits.argmax(1), labels=range(3)).tolist()
    assert (values["examples"], values["classes"]) == (50, 3)
    sure, right = logits.softmax(1).max(1).values.numpy(), (logits.argmax(1) == labels).numpy()
    for each in values["calibration"]:
        inside = (sure >= each["low"]) & (sure < each["high"])
        assert each["count"] == inside.sum()
        assert each["confidence"] == pytest.approx(sure[inside].mean(), rel=1e-5)
        assert each["accuracy"] == pytest.approx(right[inside].mean())
    assert sum(each["count"] for each in values["calibration"]) == 50


def test_the_confidence_of_two_classes_is_that_of_the_one_predicted(tmp_path):
    values, logits, labels = _tested("binary", tmp_path)
    predicted = (logits.squeeze(1) > 0).long()
    assert values["confusion"] == confusion_matrix(labels, predicted, labels=range(2)).tolist()
    assert min(each["low"] for each in values["calibration"]) >= 0.5


def test_classes_alone_have_a_confusion_and_no_calibration(tmp_path):
    values, logits, labels = _tested("classes", tmp_path)
    assert values["confusion"] == confusion_matrix(labels, logits.argmax(1), labels=range(3)).tolist()
    assert values["calibration"] == []


def test_a_model_that_is_no_classifier_is_tested_all_the_same(tmp_path):
    values, _, _ = _tested("broken", tmp_path)
    assert values == {"version": 1, "stage": "test", "reason": "needs another argument"}


def test_tallies_of_processes_add_up():
    generator = np.random.default_rng(0)
    parts = [Tally() for _ in range(3)]
    whole = Tally()
    for part in parts:
        batch = {
            "target": generator.integers(0, 4, 20).tolist(), "predicted": generator.integers(0, 4, 20).tolist(),
            "confidence": generator.random(20).tolist(),
        }  # fmt: skip
        part.add(**batch)
        whole.add(**batch)
    total = Tally()
    for part in parts:
        total.merge(part)
    mine, theirs = total.values(), whole.values()
    assert mine["confusion"] == theirs["confusion"]
    for one, other in zip(mine["calibration"], theirs["calibration"], strict=True):
        assert one == pytest.approx(other)


def test_very_many_classes_have_no_matrix():
    tally = Tally()
    tally.add(target=[500], predicted=[3], confidence=[1.0])
    values = tally.values()
    assert (values["classes"], values["confusion"]) == (501, None)
    assert values["calibration"][0]["high"] == 1.0
    assert Tally().values()["confusion"] == []
