"""Examples of the independence probe."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_privacy.gradients.probe import IndependenceProbe
from lightning_privacy.gradients.probe_examples import (
    by_variety,
    detached,
    is_float,
    kinds,
    leaves,
    lengths_differ,
    map_leaves,
    reach,
    shape,
    size,
)

Row = namedtuple("Row", ["image", "label"])


@dataclass
class Record:
    image: Tensor
    label: int


WHOLE = torch.linspace(0, 1, 4000).reshape(1000, 4)
EXAMPLES: dict[str, Any] = {
    "tensor": WHOLE[3],
    "tuple": (WHOLE[3], 1),
    "named tuple": Row(WHOLE[3], 1),
    "dictionary": {"image": WHOLE[3], "label": "one"},
    "data class": Record(WHOLE[3], 1),
    "views": [(WHOLE[3], 1), (WHOLE[4], 1)],
}


def tensors(example: Any) -> list[Tensor]:
    if isinstance(example, Tensor):
        return [example]
    if isinstance(example, Record):
        return [example.image]
    values = example.values() if isinstance(example, dict) else example if isinstance(example, list | tuple) else ()
    return [tensor for value in values for tensor in tensors(value)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_no_longer_holds_the_data_set_it_is_part_of(name: str) -> None:
    example = EXAMPLES[name]
    found = detached(example)
    assert type(found) is type(example)
    assert len(tensors(found)) == len(tensors(example)) > 0
    for own, part in zip(tensors(found), tensors(example), strict=True):
        assert torch.equal(own, part)
        assert own.untyped_storage().nbytes() == own.nbytes < part.untyped_storage().nbytes()


def test_a_tensor_of_its_own_stays_the_object_it_is() -> None:
    example = torch.ones(3)
    assert detached(example) is example


def test_the_step_gets_rows_without_the_data_set_behind_them() -> None:
    network = torch.nn.Linear(4, 2)
    seen: list[int] = []

    def step(module: torch.nn.Module, rows: list[Any], backward: bool) -> None:
        seen.extend(row[0].untyped_storage().nbytes() for row in rows)
        loss = torch.nn.functional.cross_entropy(
            module(torch.stack([row[0] for row in rows])), torch.tensor([row[1] for row in rows])
        )
        if backward:
            loss.backward()

    IndependenceProbe(network, step, [(WHOLE[number], number % 2) for number in range(8)]).run()
    assert set(seen) == {WHOLE[0].nbytes}


def test_leaves_of_nested_examples_are_mapped() -> None:
    example = {"a": (torch.ones(2), [3, 4.0]), "b": Record(torch.zeros(1), 7)}
    changed = map_leaves(lambda leaf: leaf + 1, example)
    assert torch.equal(changed["a"][0], torch.full((2,), 2.0))
    assert changed["a"][1] == [4, 5.0]
    assert torch.equal(changed["b"].image, torch.ones(1))
    assert changed["b"].label == 8
    assert size(example) == 2 + 2 + 1 + 1
    with pytest.raises(ValueError, match="lengths"):
        map_leaves(lambda one, two: one, (1, 2), (1,))


def test_variety_comes_first() -> None:
    assert by_variety([(0, 1), (0, 1), (0, 2), (1, 1)], 3) == [(0, 1), (0, 2), (1, 1)]


def test_p03_some_of_the_examples_are_of_one_class_where_the_data_have_two() -> None:
    pool = by_variety([(torch.ones(2), number % 10) for number in range(16)], 8)
    assert [label for _, label in pool] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert len(by_variety([(torch.ones(2), number) for number in range(16)], 8)) == 8


def test_the_parts_of_an_example_in_one_order() -> None:
    example = {"row": Row(np.ones((2, 3), np.float32), 1), "more": [torch.ones(4, dtype=torch.int64), "text", 0.5]}
    found = leaves(example)
    assert [type(leaf) for leaf in found] == [np.ndarray, int, Tensor, str, float]
    assert [shape(leaf) for leaf in found] == [(2, 3), (), (4,), (), ()]
    assert [is_float(leaf) for leaf in found] == [True, False, False, False, True]
    assert size(example) == 6 + 1 + 4 + 1 + 1
    numbers = iter(range(5))
    assert leaves(map_leaves(lambda _: next(numbers), example)) == [0, 1, 2, 3, 4]


def test_the_longest_shapes_are_those_that_padding_gives() -> None:
    pool = [{"text": torch.ones(length, 2), "label": length % 2} for length in (3, 7, 2)]
    padded = torch.nn.utils.rnn.pad_sequence([item["text"] for item in pool], batch_first=True)
    assert reach(pool) == [tuple(padded.shape[1:]), ()]
    assert lengths_differ(pool)
    assert not lengths_differ([pool[1], pool[1]])
    assert not lengths_differ([(torch.ones(2, 3), 1), (torch.zeros(2, 3), 0)])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((torch.rand(3), 1), (torch.rand(3), 1), True),
        ((torch.rand(3), 1), (torch.rand(3), 2), False),
        ((torch.rand(3), "cat"), (torch.rand(3), "dog"), False),
        ((torch.rand(3), torch.tensor([0, 1])), (torch.rand(3), torch.tensor([1, 1])), False),
        ((torch.rand(3), np.int64(1)), (torch.rand(3), np.int64(0)), False),
        ((torch.arange(40), 1), (torch.arange(40) + 1, 1), True),
        ((0.5, 1), (0.7, 1), True),
    ],
    ids=["inputs", "label", "name", "labels", "array's label", "whole numbers that are data", "a float"],
)
def test_examples_of_one_kind_have_the_same_labels(one: Any, other: Any, same: bool) -> None:
    assert (kinds(one) == kinds(other)) is same
