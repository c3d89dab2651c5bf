"""Canaries are of the form of their examples, and what they should not be they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch

from lightning_privacy.audit.canaries import (
    BlankCanaries,
    MislabelledCanaries,
    NoiseCanaries,
    TokenCanaries,
    canary_maker,
)
from lightning_privacy.audit.example_fields import field_of, inputs_key, labels_key, with_field
from lightning_privacy.errors import ConfigurationError


class Pair(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor
    group: int


@dataclass
class Record:
    features: torch.Tensor
    target: int


FORMS = {
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, torch.tensor(y)],
    "dict": lambda x, y: {"image": x, "id": 7, "label": y},
    "named tuple": lambda x, y: Pair(x, torch.tensor(y), 5),
    "dataclass": Record,
}


def _examples(form, count=40):
    generator = torch.Generator().manual_seed(0)
    return [FORMS[form](torch.rand(2, 3, generator=generator), number % 4) for number in range(count)]


@pytest.mark.parametrize("form", FORMS)
def test_mislabelled_ones_have_their_input_and_another_label_of_its_type(form):
    examples = _examples(form)
    made = MislabelledCanaries().make(examples, np.random.default_rng(1))
    x, y = inputs_key(examples[0]), labels_key(examples[0])
    seen = set()
    for example, canary in zip(examples, made, strict=True):
        assert type(canary) is type(example)
        assert torch.equal(field_of(canary, x), field_of(example, x))
        assert type(field_of(canary, y)) is type(field_of(example, y))
        assert int(field_of(canary, y)) != int(field_of(example, y))
        seen.add((int(field_of(example, y)), int(field_of(canary, y))))
    assert len(seen) == 12  # every class becomes each of the others
    assert [int(field_of(example, y)) for example in examples] == [number % 4 for number in range(40)]


def test_mislabelled_ones_are_the_same_again_from_the_same_seed():
    examples = _examples("tuple")
    first, second = (MislabelledCanaries().make(examples, np.random.default_rng(1)) for _ in range(2))
    assert [label for _, label in first] == [label for _, label in second]


def test_one_class_can_not_be_mislabelled():
    with pytest.raises(ConfigurationError, match="two classes at least"):
        MislabelledCanaries().make([(torch.zeros(1), 3)] * 5, np.random.default_rng(0))


@pytest.mark.parametrize("maker", [BlankCanaries(), NoiseCanaries()], ids=["blank", "noise"])
def test_made_up_inputs_are_in_range_and_differ(maker):
    examples = _examples("dict")
    made = maker.make(examples, np.random.default_rng(2))
    inputs = torch.stack([canary["image"] for canary in made])
    originals = torch.stack([example["image"] for example in examples])
    assert inputs.dtype == originals.dtype
    assert inputs.shape == originals.shape
    assert inputs.min() >= originals.min()
    assert inputs.max() <= originals.max()
    assert {canary["label"] for canary in made} == {0, 1, 2, 3}
    assert all(canary["id"] == 7 for canary in made)
    assert not any(torch.equal(a, b) for a, b in zip(inputs, originals, strict=True))
    assert len(torch.unique(inputs.flatten(1), dim=0)) > 10


def test_blank_ones_are_blank_but_for_their_marks():
    (canary,) = BlankCanaries(marks=2).make([(torch.rand(5, 5), 0)], np.random.default_rng(0))
    assert (canary[0] == canary[0].min()).sum() == 23


def test_tokens_are_unused_ones_and_the_next_is_the_label():
    examples = [(torch.arange(6), torch.arange(1, 7)), (torch.arange(6) + 1, torch.arange(2, 8))]
    for inputs, labels in TokenCanaries(unused=[90, 91]).make(examples, np.random.default_rng(0)):
        assert set(inputs.tolist()) <= {90, 91}
        assert labels[:-1].tolist() == inputs[1:].tolist()
        assert labels.dtype == torch.int64
    (canary, _) = TokenCanaries(unused=[9]).make(
        [(torch.zeros(3).long(), 0), (torch.zeros(3).long(), 1)], np.random.default_rng(0)
    )
    assert canary[0].tolist() == [9, 9, 9]
    assert canary[1] in (0, 1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match="for tokens use TokenCanaries"):
        NoiseCanaries().make([(torch.zeros(3).long(), 0)], np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="inputs of whole numbers"):
        TokenCanaries(unused=[1]).make([(torch.zeros(3), 0)], np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="unused must name"):
        TokenCanaries(unused=[])
    with pytest.raises(ConfigurationError, match="marks"):
        BlankCanaries(marks=0)
    with pytest.raises(
        ConfigurationError, match="canaries must be one of 'mislabelled', 'blank', 'noise', 'gradients'"
    ):
        canary_maker("yellow")


def test_fields_are_where_the_user_says():
    example = (torch.zeros(1), "group", 4)
    assert labels_key(example, 2) == 2
    assert labels_key(example, -1) == -1
    assert with_field(example, -1, 5)[2] == 5
    assert with_field({"y": 1}, "y", torch.tensor(3)) == {"y": 3}
    with pytest.raises(ConfigurationError, match="label=7 is not to be found"):
        labels_key(example, 7)
    with pytest.raises(ConfigurationError, match="nothing at the usual places"):
        labels_key({"picture": 1})
    with pytest.raises(ConfigurationError, match="nothing at the usual places"):
        labels_key(torch.zeros(3))
