"""Counts of group, label and prediction, against a loop over the rows."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness import attribute_groups, group_confusion, intersect, marginal_counts

NONE = torch.zeros(0, dtype=torch.int64)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_counts_are_those_of_a_loop(data):
    groups, classes = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 4))
    row = st.tuples(st.integers(0, groups - 1), st.integers(0, classes - 1), st.integers(0, classes - 1))
    rows = data.draw(st.lists(row, max_size=40))
    expected = torch.zeros(groups, classes, classes, dtype=torch.int64)
    for group, label, prediction in rows:
        expected[group, label, prediction] += 1
    columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
    counts = group_confusion(*columns.unbind(1), num_groups=groups, num_classes=classes)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, expected)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_intersections_are_numbered_one_after_another_and_back(sizes):
    every = list(itertools.product(*(range(size) for size in sizes)))
    columns = torch.tensor(every, dtype=torch.int64)
    cells = intersect(columns, sizes)
    assert cells.tolist() == list(range(len(every)))
    for position in range(len(sizes)):
        assert torch.equal(attribute_groups(cells, sizes, position), columns[:, position])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_table_of_an_attribute_is_the_sum_over_the_others(position):
    generator = torch.Generator().manual_seed(position)
    sizes = (2, 3, 4)
    columns = torch.stack([torch.randint(size, (200,), generator=generator) for size in sizes], dim=1)
    target, preds = torch.randint(3, (2, 200), generator=generator)
    counts = group_confusion(intersect(columns, sizes), target, preds, num_groups=24, num_classes=3)
    alone = group_confusion(columns[:, position], target, preds, num_groups=sizes[position], num_classes=3)
    assert torch.equal(marginal_counts(counts, sizes, position), alone)
    assert torch.equal(marginal_counts(torch.stack([counts, 2 * counts]), sizes, position)[1], 2 * alone)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (([2], [0], [0]), {}, r"groups must be in 0 to 1 \(num_groups=2\), got 2: .* raise num_groups"),
        (([-1], [0], [0]), {}, "groups must be in 0 to 1 .* got -1"),
        (([0], [3], [0]), {}, r"target must be in 0 to 1 \(num_classes=2\), got 3"),
        (([0], [0], [2]), {}, "preds must be in 0 to 1"),
        (([0], [0.5], [0]), {}, "target must be whole numbers, got 0.5"),
        (([0], [float("nan")], [0]), {}, "target must be whole numbers, got nan"),
        (([0, 1], [0], [0]), {}, r"one value per row, got shapes \(2,\), \(1,\) and \(1,\)"),
        (([0], [0], [0]), {"num_groups": 0}, "num_groups must be a whole number >= 1, got 0"),
        (([0], [0], [0]), {"num_groups": 2.5}, "num_groups must be a whole number >= 1, got 2.5"),
        (([0], [0], [0]), {"num_classes": 10**5}, "a table of 20000000000 cells"),
    ],
)
def test_bad_input_is_named(columns, options, message):
    tensors = [torch.tensor(column) for column in columns]
    with pytest.raises(ConfigurationError, match=message):
        group_confusion(*tensors, **({"num_groups": 2, "num_classes": 2} | options))


def test_a_bad_attribute_is_named():
    with pytest.raises(ConfigurationError, match=r"groups of race must be in 0 to 2 .* got 3"):
        intersect(torch.tensor([[0, 3]]), (2, 3), ("sex", "race"))
    with pytest.raises(ConfigurationError, match=r"one column for each of 2 attributes, got shape \(3,\)"):
        intersect(torch.zeros(3, dtype=torch.int64), (2, 3))


def test_no_rows_are_no_counts():
    assert group_confusion(NONE, NONE, NONE, num_groups=3, num_classes=2).tolist() == [[[0, 0], [0, 0]]] * 3
