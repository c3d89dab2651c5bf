"""Values of attributes in batches, against the rows they are of."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from lightning_privacy.callbacks._fairness_alignment import RowOrder
from lightning_privacy.callbacks._fairness_attributes import attributes_of
from lightning_privacy.callbacks._fairness_columns import GroupColumns
from lightning_privacy.errors import ConfigurationError

SEX = [0, 1, 1, 0, 1]
PLACE = ["a", "b", "b", "c", "a"]


class People(Dataset):
    """Rows whose batches have the sex; the place is in the data set alone."""

    def __init__(self, place=PLACE):
        self.reads = 0
        self._place = np.array(place)

    def __len__(self):
        return len(SEX)

    def __getitem__(self, row):
        return {"x": torch.tensor(float(row)), "sex": torch.tensor(SEX[row])}

    @property
    def place(self):
        self.reads += 1
        return self._place


def collected(groups, loader, *, columns=None, position=0):
    """The values of all batches of a loader."""
    columns, order = columns or GroupColumns(), RowOrder.of(loader)
    (attribute,) = attributes_of(groups)
    found = []
    for batch in loader:
        where = {"loader": loader, "position": position, "places": order.next(len(batch["x"])), "order": order}
        found += list(columns.values(attribute, batch, **where))
    return [value.item() if isinstance(value, torch.Tensor) else value for value in found]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("sex", SEX),
        ({"sex": lambda batch: 1 - batch["sex"]}, [1 - value for value in SEX]),
        ({"sex": np.array(PLACE)}, PLACE),
        ("place", PLACE),
    ],
    ids=["key", "function", "array", "attribute of the data set"],
)
def test_each_row_gets_its_own_value(groups, expected):
    assert collected(groups, DataLoader(People(), batch_size=2)) == expected


def test_a_subset_is_looked_through():
    subset = Subset(People(), [4, 2, 3])
    assert collected("place", DataLoader(subset, batch_size=2)) == ["a", "b", "c"]
    with pytest.raises(ConfigurationError, match="5 entries, and the loader's data set 3 rows"):
        collected({"place": np.array(PLACE)}, DataLoader(subset, batch_size=2))


def test_a_column_of_the_data_set_is_read_once_for_each_loader():
    columns, first, second = GroupColumns(), People(), People(PLACE[::-1])
    assert collected("place", DataLoader(first, batch_size=1), columns=columns) == PLACE
    assert collected("place", DataLoader(second, batch_size=1), columns=columns, position=1) == PLACE[::-1]
    assert (first.reads, second.reads) == (1, 1)


def test_what_is_in_the_batch_comes_before_what_is_in_the_data_set():
    people = People()
    people.sex = np.array([9] * 5)
    assert collected("sex", DataLoader(people, batch_size=2)) == SEX


def test_what_is_nowhere_is_named():
    with pytest.raises(ConfigurationError, match="age"):
        collected("age", DataLoader(People(), batch_size=2))
    # A place is one in the batch, and no attribute of the data set.
    with pytest.raises(ConfigurationError, match="7"):
        collected({"place": 7}, DataLoader(People(), batch_size=2))


def test_a_column_needs_rows_in_order():
    with pytest.raises(ConfigurationError, match="an order of its own"):
        collected("place", DataLoader(People(), batch_size=2, shuffle=True))
    assert sorted(collected("sex", DataLoader(People(), batch_size=2, shuffle=True))) == sorted(SEX)


def test_rows_given_twice_have_some_value_and_are_left_out_later():
    """The second of two processes sees rows 1, 3 and a repeat."""
    (attribute,) = attributes_of({"place": np.array(PLACE)})
    order = RowOrder(5, step=2, start=1)
    where = {"loader": SimpleNamespace(), "position": 0, "places": order.next(3), "order": order}
    assert list(GroupColumns().values(attribute, {}, **where))[:2] == ["b", "c"]
    assert order.repeated(where["places"]).tolist() == [False, False, True]
