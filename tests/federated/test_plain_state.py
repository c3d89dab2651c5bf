"""Attributes are put back with their kind and their identity, whatever a client did to them."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import numpy as np
import pytest
import torch

from lightning_privacy.federated.plain_state import PlainState

Pair = namedtuple("Pair", "first second")


class Owner:
    pass


class Settings(dict):
    """Of a user's own kind, with more than its entries."""

    def __init__(self) -> None:
        super().__init__(rate=1.0)
        self.note = "before"

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError("read only")


def kept(value: Any) -> tuple[Owner, PlainState]:
    owner = Owner()
    owner.value = value
    return owner, PlainState([owner])


def put(value: Any, key: Any) -> None:
    value[key] = 7.0


CHANGES = {
    "array": (lambda: np.zeros(3), lambda v: put(v, 1)),
    "array's shape": (lambda: np.zeros(3), lambda v: v.resize(5, refcheck=False)),
    "array of objects": (lambda: np.array([[1.0], {"a": 1.0}], dtype=object), lambda v: put(v[1], "a")),
    "ordered": (lambda: OrderedDict(a=1.0, b=2.0), lambda v: v.move_to_end("a")),
    "counter": (lambda: Counter("aab"), lambda v: v.update("b")),
    "defaultdict": (lambda: defaultdict(float), lambda v: v["new"]),
    "deque": (lambda: deque([1.0, 2.0], maxlen=2), lambda v: v.append(3.0)),
    "set": (lambda: {1, 2}, lambda v: v.add(3)),
    "bytearray": (lambda: bytearray(b"ab"), lambda v: v.extend(b"c")),
    "nested": (lambda: {"a": [{"b": np.zeros(1)}]}, lambda v: put(v["a"][0]["b"], 0)),
    "inside a tuple": (lambda: ([1.0], 2), lambda v: v[0].append(2.0)),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_written_to_is_filled_again_in_place(kind):
    make, change = CHANGES[kind]
    owner, state = kept(make())
    first = owner.value
    for _ in range(2):
        change(owner.value)
        assert repr(owner.value) != repr(make())
        state.restore()
        assert owner.value is first
        assert repr(owner.value) == repr(make())


@pytest.mark.parametrize("value", [np.float64(1.0), np.int32(2), np.bool_(True), Pair(1, 2.0)])
def test_a_number_of_numpy_is_one(value):
    owner, state = kept(value)
    owner.value, owner.added = np.float64(5.0), value
    state.restore()
    assert owner.value is value
    assert not hasattr(owner, "added")


def test_a_defaultdict_keeps_its_default_and_a_deque_its_length():
    owner, state = kept([defaultdict(list), deque(maxlen=3)])
    owner.value = None
    state.restore()
    assert owner.value[0].default_factory is list
    assert owner.value[1].maxlen == 3


def test_a_dict_of_the_users_own_kind_is_put_back_past_its_writing():
    owner, state = kept(Settings())
    dict.update(owner.value, rate=5.0)
    owner.value.note = "after"
    state.restore()
    assert (owner.value["rate"], owner.value.note, type(owner.value)) == (1.0, "before", Settings)


def test_tensors_in_tuples_are_put_back():
    owner, state = kept(Pair(torch.zeros(1), [torch.ones(1)]))
    for _ in range(2):
        owner.value.first.add_(1)
        owner.value.second[0].add_(1)
        state.restore()
        assert (float(owner.value.first), float(owner.value.second[0])) == (0.0, 1.0)
    assert type(owner.value) is Pair


def test_containers_that_are_shared_or_hold_themselves_stay_so():
    owner = Owner()
    owner.one = owner.other = [1.0]
    owner.own = {}
    owner.own["self"] = owner.own
    state = PlainState([owner])
    owner.one.append(2.0)
    owner.other = [5.0]
    owner.own.clear()
    state.restore()
    assert owner.one is owner.other
    assert owner.one == [1.0]
    assert owner.own["self"] is owner.own


def test_an_object_that_a_number_took_the_place_of_is_back():
    something = object()
    owner, state = kept(something)
    owner.value = 3.0
    state.restore()
    assert owner.value is something


def test_objects_and_files_are_left(tmp_path):
    something = Owner()
    owner, state = kept(something)
    owner.file = np.memmap(tmp_path / "file", dtype=np.float64, mode="w+", shape=(1,))
    state = PlainState([owner])
    owner.value, owner.file[0] = Owner(), 2.0
    state.restore()
    assert owner.value is not something
    assert owner.file[0] == 2.0
