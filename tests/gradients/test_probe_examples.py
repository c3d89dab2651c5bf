"""Examples of the independence probe."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_privacy.gradients.probe import IndependenceProbe
from lightning_privacy.gradients.probe_examples import detached

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
