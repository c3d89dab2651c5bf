"""Labels are read alike from whatever holds them, and what is missing is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.cells import find_cells
from lightning_privacy.sampling.labels import factorize, label_array

VALUES = [3, 1, 1, 7]


class Labelled(Dataset):
    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __getitem__(self, index):
        return index

    def __len__(self):
        return len(VALUES)


class Holder:
    labels = VALUES


class Stream(IterableDataset):
    targets = VALUES

    def __iter__(self):
        return iter(VALUES)


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas", reason="pandas columns are read without pandas, but made with it")


@pytest.mark.parametrize(
    "source",
    [
        VALUES,
        tuple(VALUES),
        (value for value in VALUES),
        np.array(VALUES),
        np.array(VALUES, np.uint8),
        np.array(VALUES, float),
        np.array(VALUES, object),
        np.array(VALUES)[:, None],
        torch.tensor(VALUES),
        [torch.tensor(value) for value in VALUES],
        Labelled(targets=VALUES),
        Labelled(targets=torch.tensor(VALUES)),
        Labelled(labels=np.array(VALUES)),
        Subset(Labelled(targets=[3, 0, 1, 1, 7]), [0, 2, 3, 4]),
        ConcatDataset([Labelled(targets=[3, 1]), Labelled(targets=[1, 7])]),
        Holder(),
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_form_gives_the_same_codes(source):
    codes, names = factorize(label_array(source))
    assert codes.tolist() == [1, 0, 0, 2]
    assert codes.dtype == np.int64
    assert names == [1, 3, 7]


@pytest.mark.parametrize("dtype", ["int64", "float64", "object", "category", "Int64"])
def test_pandas_columns_are_read_by_position(pandas, dtype):
    column = pandas.Series(VALUES, index=[9, 8, 7, 6], dtype=dtype)
    for source in (column, column.to_frame()):
        codes, names = factorize(label_array(source))
        assert (codes.tolist(), names) == ([1, 0, 0, 2], [1, 3, 7])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, None, 1], None), ([0, None, 1], "Int64"), (["a", None, "b"], None), (["a", None, "b"], "category")],
)
def test_a_missing_value_of_pandas_is_told(pandas, values, dtype):
    with pytest.raises(ConfigurationError, match=r"labels must have a value .* for 1 .*position 1"):
        label_array(pandas.Series(values, dtype=dtype))


@pytest.mark.parametrize("source", [["b", "a", "b"], np.array(["b", "a", "b"], object), np.array(["b", "a", "b"])])
def test_texts_are_told_apart(source):
    codes, names = factorize(label_array(source))
    assert codes.tolist() == [1, 0, 1]
    assert names == ["a", "b"]


def test_negative_large_and_boolean_values():
    for values, names in (([-1, 5, -1], [-1, 5]), ([10**12, 3], [3, 10**12]), ([True, False], [0, 1])):
        codes, found = factorize(label_array(values))
        assert found == names
        assert [found[code] for code in codes] == values


def test_rows_are_combinations():
    codes, names = factorize(label_array([[0, 5], [1, 5], [0, 6], [1, 5]]))
    assert [names[code] for code in codes] == [(0, 5), (1, 5), (0, 6), (1, 5)]
    assert len(names) == 3


@pytest.mark.parametrize(
    "source",
    [
        [0.0, float("nan"), 1.0],
        np.array([0.0, np.nan, 1.0]),
        torch.tensor([0.0, float("nan"), 1.0]),
        ["a", None, "b"],
        ["a", float("nan"), "b"],
        [0.0, float("inf"), 1.0],
    ],
    ids=lambda source: f"{type(source).__name__} of {getattr(source, 'dtype', 'objects')}",
)
def test_a_missing_label_is_told_with_its_place(source):
    with pytest.raises(ConfigurationError, match=r"labels must have a value .* for 1 .*position 1"):
        label_array(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([0.5, 1.0], "labels must be classes.* got 0.5"),
        ([0, "a"], "all numbers or all texts, got int, str"),
        ([], r"got shape \(0,\)"),
        (5, "labels must be a sequence.* got 5"),
        ("0101", "labels must be a sequence.* got '0101'"),
        ([[0, 1], [0]], "equally many"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.array(["2020-01-01"], "datetime64[D]"), "got datetime64"),
        (Stream(), "iterable data set Stream"),
        (Labelled(), "Labelled has neither .*targets and labels"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_label_is_refused(source, message):
    with pytest.raises(ConfigurationError, match=message):
        label_array(source)


def test_cells_of_classes_groups_and_both():
    labels, groups = ["x", "y", "x", "x"], [1, 1, 0, 1]
    by_class = find_cells(labels)
    assert (by_class.names, by_class.counts.tolist()) == (["x", "y"], [3, 1])
    by_group = find_cells(None, groups=groups, balance="group")
    assert (by_group.names, by_group.of_example.tolist()) == ([0, 1], [1, 1, 0, 1])
    both = find_cells(labels, groups=groups, balance="class*group")
    assert both.names == [("x", 0), ("x", 1), ("y", 1)]
    assert both.of_example.tolist() == [1, 2, 0, 1]
    assert both.counts.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0, 1], "balance": "classes"}, "balance must be one of"),
        ({"labels": [0, 1], "balance": "class*group"}, "groups must be given"),
        ({"labels": [0, 1], "groups": [0, 1]}, "groups are given"),
        ({"labels": None}, "labels must be given"),
        ({"labels": [0, 1], "groups": [0, 1, 1], "balance": "group"}, "one length, got 2 labels and 3 groups"),
        ({"labels": [0, 1], "groups": [0, 1, 1], "balance": "class*group"}, "one length, got 2 labels and 3 groups"),
        ({"labels": [0, 1], "groups": [0, None], "balance": "group"}, "groups must have a value"),
        ({"labels": [[0, 1], [1, 1]]}, "repeat_factor"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_can_not_be_balanced_is_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        find_cells(arguments.pop("labels"), **arguments)
