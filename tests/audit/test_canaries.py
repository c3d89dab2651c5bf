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


@pytest.mark.parametrize("form", FORMS)
def test_declared_classes_are_drawn_from_and_no_other_example_counts(form):
    examples = _examples(form, 400)
    maker, key = MislabelledCanaries(num_classes=5), labels_key(examples[0])

    def labels(of):
        return [int(field_of(canary, key)) for canary in maker.make(of, np.random.default_rng(1))]

    made = labels(examples)
    assert {(number % 4, label) for number, label in enumerate(made)} == {
        (true, wrong) for true in range(4) for wrong in range(5) if true != wrong
    }
    changed = examples.copy()
    changed[17] = with_field(examples[17], key, torch.tensor(4))
    assert [index for index, pair in enumerate(zip(made, labels(changed), strict=True)) if len(set(pair)) > 1] in (
        [],
        [17],
    )


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (True, 2),
        (1.0, 2),
        (np.int64(1), 3),
        (np.array([0, 2, 1]), 3),
        (torch.tensor([0, 2, -100]), 3),
        (torch.tensor([0.1, 0.7, 0.2]), 3),
        ([0, 1], 3),
    ],
    ids=["bool", "float", "numpy", "array", "ignored", "soft", "list"],
)
def test_wrong_classes_are_of_the_type_of_the_label(label, classes):
    maker, before, ones = MislabelledCanaries(num_classes=classes), torch.as_tensor(label), set()
    for seed in range(20):
        ((_, wrong),) = maker.make([(0, label)], np.random.default_rng(seed))
        assert type(wrong) is type(label)
        after = torch.as_tensor(wrong)
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        if before.is_floating_point() and before.dim():
            assert after.sum() == 1
            assert after.argmax() != before.argmax()
        else:
            assert ((after != before) == (before >= 0)).all()
            assert (after < classes).all()
        ones.add(str(wrong))
    assert len(ones) > 1 or classes == 2


def test_labels_of_real_numbers_are_drawn_from_a_declared_range():
    maker = MislabelledCanaries(label_range=(-2.0, 3.0))
    for label in (0.5, torch.tensor([9.0, 1.0])):
        drawn = [maker.make([(0, label)], np.random.default_rng(seed))[0][1] for seed in range(200)]
        values = torch.stack([torch.as_tensor(value) for value in drawn])
        assert all(type(value) is type(label) for value in drawn)
        assert -2 <= values.min() < -1.5
        assert 2.5 < values.max() <= 3


def test_a_declared_range_is_kept_to_and_a_blank_source_still_shows_marks():
    source = [(torch.full((3, 3), 7.0), 0)]
    for maker in (BlankCanaries(value_range=(0.0, 1.0)), NoiseCanaries(value_range=(0.0, 1.0))):
        ((inputs, _),) = maker.make(source, np.random.default_rng(0))
        assert inputs.min() >= 0
        assert inputs.max() <= 1
    assert BlankCanaries().make(source, np.random.default_rng(0))[0][0].sort().values.unique().tolist() == [7.0, 8.0]


def test_declarations_that_do_not_fit_are_refused():
    def made(label, **options):
        MislabelledCanaries(**options).make([(0, label)], np.random.default_rng(0))

    for label in (3, -1, 0.5, torch.tensor([0, 3]), float("nan")):
        with pytest.raises(ConfigurationError, match="none of the classes 0 to 2"):
            made(label, num_classes=3)
    with pytest.raises(ConfigurationError, match="type str"):
        made("rare", num_classes=3)
    with pytest.raises(ConfigurationError, match="for classes give num_classes"):
        made(1, label_range=(0.0, 1.0))
    with pytest.raises(ConfigurationError, match="not both"):
        MislabelledCanaries(num_classes=3, label_range=(0.0, 1.0))
    with pytest.raises(ConfigurationError, match="2 or more"):
        MislabelledCanaries(num_classes=1)
    for wrong in ((1.0, 0.0), (0.0, float("inf")), (1.0,)):
        with pytest.raises(ConfigurationError, match="label_range must be two numbers"):
            MislabelledCanaries(label_range=wrong)
        with pytest.raises(ConfigurationError, match="value_range must be two numbers"):
            NoiseCanaries(value_range=wrong)
