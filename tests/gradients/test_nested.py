"""Tensors in nested arguments, told from a structure that was taken apart by hand."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_privacy.gradients.nested import tensors_in

Row = namedtuple("Row", ["image", "label"])


@dataclass
class Record:
    image: Tensor
    name: str
    more: Any = None


A, B, C = torch.zeros(1), torch.ones(2), torch.ones(3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (A, [A]),
        ((A, 3, [B, "text"], None), [A, B]),
        (Row(B, A), [B, A]),
        (OrderedDict(b=B, a={"c": C}), [B, C]),
        (Record(A, "one", Record(B, "two", [C])), [A, B, C]),
        (frozenset([C]), [C]),
        ([A, A], [A, A]),
        (Record, []),
        ("text", []),
        ({}, []),
    ],
    ids=["tensor", "tuple", "named tuple", "mapping", "data class", "set", "twice", "class", "text", "nothing"],
)
def test_tensors_are_found_in_the_order_they_are_in(value: Any, expected: list[Tensor]) -> None:
    found = list(tensors_in(value))
    assert len(found) == len(expected)
    assert all(one is two for one, two in zip(found, expected, strict=True))


def test_nothing_is_looked_into_before_it_is_asked_for() -> None:
    def endless() -> Any:
        value: list[Any] = [A]
        value.append(value)
        return value

    assert next(tensors_in(endless())) is A
