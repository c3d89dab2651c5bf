"""The table of an attribute: records, scalars, and what is printed."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness import GroupSample
from lightning_privacy.fairness.display import print_tables, text_of
from lightning_privacy.fairness.table import FairnessTable

COUNTS = torch.tensor([[[40, 10], [10, 40]], [[20, 30], [5, 45]], [[3, 0], [0, 0]]])
NAMES = ("a", "b/c", "d")


def _table(sample=None, **options):
    sample = GroupSample(COUNTS) if sample is None else sample
    return FairnessTable.of(sample, **({"attribute": "race", "group_names": NAMES, "min_group_size": 30} | options))


def _scored(classes=2):
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(150, classes, generator=generator).softmax(1)
    target, groups = (torch.randint(high, (150,), generator=generator) for high in (classes, 3))
    return GroupSample.of_rows(
        preds=probs.argmax(1), target=target, groups=groups, num_groups=3, num_classes=classes,
        probs=probs[:, 1] if classes == 2 else probs,
    )  # fmt: skip


def test_records_hold_every_figure_once():
    table = _table(_scored(), replicates=20)
    records = list(table.records())
    figures = _scored().figures()
    assert len(records) == 3 * 12 + 12 + 11
    assert len({(record["group"], record["figure"]) for record in records}) == len(records)
    for record in records:
        position = NAMES.index(record["group"]) if record["group"] in NAMES else None
        if position is not None:
            assert record["value"] == figures[record["figure"]][position].item()
            ends = table.intervals.figures[record["figure"]][:, position].tolist()
            assert [record["low"], record["high"]] == ends
        elif record["group"] == "":
            assert record["value"] == table.disparities[record["figure"]]
            assert record["low"] <= record["high"]
        else:
            assert record["low"] == ""
        assert record["class"] == ""


def test_records_of_several_classes_have_one_for_each():
    records = [
        record for record in _table(_scored(3)).records() if record["figure"] == "tpr" and record["group"] == "d"
    ]
    assert [record["class"] for record in records] == [0, 1, 2]
    assert [record["value"] for record in records] == _scored(3).figures()["tpr"][2].tolist()


def test_what_is_undefined_is_empty_in_records_and_a_dash_in_print():
    table = _table()
    (record,) = [r for r in table.records() if (r["group"], r["figure"]) == ("d", "tpr")]
    assert (record["value"], record["too_small"]) == ("", 1)
    assert table.too_small == ("d",)
    line = next(line for line in text_of([table], title="Test").splitlines() if line.startswith("d *"))
    assert [cell.strip() for cell in line.split("│")] == ["d *", "3", "0.000", "0.000", "1.000", "-", "0.000", "-"]


def test_scalars_are_disparities_and_the_main_figures():
    scalars = _table().scalars()
    assert len(scalars) == 11 + 4 * 3
    assert scalars["accuracy/b_c"] == 0.65
    assert math.isnan(scalars["tpr/d"])
    assert scalars["worst_group_accuracy"] == 0.65
    assert len(_table(_scored(3)).scalars()) == 11 + 3


def test_the_print_has_every_group_and_criterion():
    text = text_of([_table(_scored(), replicates=10, epsilon=0.5)], title="Validation")
    for word in (
        "Validation: race",
        "base rate",
        "AUROC",
        "log-loss",
        "equalized odds",
        "interval",
        "epsilon 0.5",
        "(all)",
    ):
        assert word in text
    assert "class by class" in text_of([_table(_scored(3))], title="Validation")
    assert "interval" not in text_of([_table()], title="Validation")
    assert max(map(len, text.splitlines())) <= 110


def test_a_narrow_terminal_loses_no_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_tables([_table(_scored())], title="Validation")
    assert "calib. error" in capsys.readouterr().out


def test_names_must_be_one_for_each_group():
    with pytest.raises(ConfigurationError, match="group_names must be 3 names, one per group, got"):
        _table(group_names=("a", "b"))
