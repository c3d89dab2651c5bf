"""Wrong labels of every type numbers come in: never the right one, always of the type, and refused where that fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_privacy.audit.wrong_labels import label_between, other_class
from lightning_privacy.errors import ConfigurationError

READ_ONLY = np.array([1, 2])
READ_ONLY.flags.writeable = False


def _numbers(label):
    return np.array(label.tolist() if isinstance(label, torch.Tensor) else label, dtype=np.float64)


@pytest.mark.parametrize(
    ("label", "num_classes"),
    [
        (torch.tensor(3, dtype=torch.uint8), 256),
        (torch.tensor(3, dtype=torch.int8), 128),
        (torch.tensor(3, dtype=torch.uint16), 5),
        (torch.tensor(255.0, dtype=torch.bfloat16), 257),
        (np.uint8(255), 256),
        (np.uint16(3), 5),
        (np.uint32(3), 5),
        (np.uint64(3), 5),
        (np.array(3, dtype=np.uint16), 5),
        (np.array([1, 2, 1], dtype=np.int32)[::-1], 5),
        (np.array([[1, 2], [3, 4]], dtype=np.uint16).T, 5),
        (np.array([1, 2], dtype=">i4"), 5),
        (READ_ONLY, 5),
        (np.bool_(True), 2),
        (True, 2),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.dtype}" if hasattr(value, "dtype") else str(value),
)
def test_every_draw_is_another_class_of_the_same_type(label, num_classes):
    before = _numbers(label)
    generator, seen = np.random.default_rng(0), set()
    for _ in range(3000):
        wrong = other_class(label, num_classes, generator)
        assert type(wrong) is type(label)
        assert getattr(wrong, "dtype", None) == getattr(label, "dtype", None)
        after = _numbers(wrong)
        assert after.shape == before.shape
        assert (after != before).all()
        seen.update(after.ravel().tolist())
    # One class is missed with a probability of at most 256 * (255/256)**3000 = 0.2%; the seed is fixed.
    assert seen >= set(range(num_classes)) - set(before.ravel().tolist())
    assert max(seen) < num_classes


@pytest.mark.parametrize(
    ("label", "num_classes", "largest"),
    [
        (torch.tensor(3, dtype=torch.uint8), 300, 255),
        (torch.tensor([3, 4], dtype=torch.int8), 200, 127),
        (np.uint16(3), 70_000, 65_535),
        (torch.tensor(1.0, dtype=torch.bfloat16), 300, 256),
        (np.float16(1.0), 3000, 2048),
        (True, 3, 1),
    ],
    ids=["uint8", "int8", "uint16", "bfloat16", "float16", "bool"],
)
def test_more_classes_than_the_type_of_the_label_holds_are_refused(label, num_classes, largest):
    with pytest.raises(ConfigurationError, match=rf"can't hold .* num_classes={num_classes} .* largest is {largest}:"):
        other_class(label, num_classes, np.random.default_rng(0))


@pytest.mark.parametrize(
    "label",
    [torch.tensor(float("nan")), torch.tensor(0.5), np.uint16(5), -1, np.array([0, 5], dtype=np.uint8)],
    ids=["nan", "half", "uint16", "negative", "array"],
)
def test_what_is_no_class_is_refused(label):
    with pytest.raises(ConfigurationError, match="none of the classes 0 to 4"):
        other_class(label, 5, np.random.default_rng(0))


@pytest.mark.parametrize("label", [1j, "a", np.array(["a"]), None], ids=["complex", "text", "texts", "none"])
def test_what_is_no_number_is_refused(label):
    with pytest.raises(ConfigurationError, match="neither a class number nor numbers"):
        other_class(label, 5, np.random.default_rng(0))


def test_numbers_in_a_reversed_or_read_only_array_are_drawn_anew():
    for label in (np.array([0.5, 0.25])[::-1], np.broadcast_to(np.float32(0.5), (2,))):
        wrong = label_between(label, -1.0, 1.0, np.random.default_rng(0))
        assert wrong.dtype == label.dtype
        assert wrong.shape == (2,)
        assert (np.abs(wrong) <= 1).all()
        assert wrong[0] != wrong[1]
