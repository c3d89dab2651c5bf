"""Groups are found by key, name, place and function, and what is not there is named."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.batch_groups import groups_of


class Row(NamedTuple):
    x: torch.Tensor
    sex: torch.Tensor


X, SEX = torch.zeros(3, 2), torch.tensor([1, 0, 1])


@pytest.mark.parametrize(
    ("batch", "groups"),
    [
        ({"x": X, "sex": SEX}, "sex"),
        (Row(X, SEX), "sex"),
        (Row(X, SEX), 1),
        ([X, SEX], -1),
        ((X, SEX[:, None]), 1),
        ([X, SEX.bool()], 1),
        ([X, [1, 0, 1]], 1),
        ([X, SEX.to(torch.uint8)], lambda batch: batch[1]),
        (X, lambda batch: np.array([1, 0, 1])),
    ],
    ids=["key", "name", "place", "from the end", "column", "bool", "list", "function", "array"],
)
def test_groups_are_found(batch, groups):
    found = groups_of(batch, groups, num_groups=2)
    assert found.dtype == torch.int64
    assert found.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("batch", "groups", "message"),
    [
        ({"x": X}, "sex", "groups='sex' is not in the batch; its keys are 'x'. Give another key"),
        (Row(X, SEX), "race", "groups='race' is not in the batch; its fields are 'x', 'sex'"),
        ([X, SEX], "sex", "groups='sex' is not in the batch; it is a list"),
        ([X, SEX], 2, "groups=2 is not in the batch, which has 2 parts; have the data set return"),
        (X, 1, "groups=1 is a place in a sequence, but the batch is a Tensor"),
        ([X, SEX], None, "groups must be a key, a place or a function of the batch, got None"),
        ([X, SEX.float()], 1, r"1 gave a tensor of shape \(3,\) and type torch.float32; one whole number"),
        ([X, X.long()], 1, r"1 gave a tensor of shape \(3, 2\)"),
        ([X, ["F", "M", "F"]], 1, "1 gave list, which is no tensor of numbers: number the groups from 0"),
        ([X, SEX + 1], 1, "1 gave group 2; groups are numbered from 0 to 1, as num_groups=2"),
        ([X, SEX - 1], 1, "1 gave group -1; groups are numbered from 0"),
    ],
    ids=["key", "name", "no names", "place", "no places", "none", "floats", "table", "texts", "new", "negative"],
)
def test_what_is_not_there_is_named(batch, groups, message):
    with pytest.raises(ConfigurationError, match=message):
        groups_of(batch, groups, num_groups=2)


def test_an_empty_batch_has_no_groups():
    assert groups_of([torch.zeros(0)], lambda batch: torch.zeros(0, dtype=torch.long), num_groups=2).tolist() == []
