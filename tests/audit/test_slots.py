"""Every canary has its slot, whatever its coin is."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_privacy.audit.gradient_canaries import GradientCanaries
from lightning_privacy.audit.slots import CanarySlots, ClientCanaries
from lightning_privacy.errors import CheckpointError, ConfigurationError


def test_the_size_does_not_depend_on_the_coins():
    canaries = {2: "in place", 10: "added", 11: "added too"}
    sizes = {len(CanarySlots(list(range(10)), canaries, absent=absent)) for absent in ([], [2], [2, 10, 11])}
    assert sizes == {12}


def test_slots_hold_examples_and_canaries():
    slots = CanarySlots(list("abc"), {1: "B", 3: "D"}, absent=[1])
    assert [slots[index] for index in range(4)] == ["a", "B", "c", "D"]
    assert slots.present().tolist() == [0, 2, 3]
    assert slots[np.int64(3)] == "D"


def test_gradients_have_the_last_slots_and_are_in_no_batch():
    gradients = GradientCanaries([True, False], first_slot=3, seed=1)
    slots = CanarySlots(list("abc"), {}, gradients=gradients)
    assert len(slots) == 5
    assert slots.hidden.tolist() == [False] * 3 + [True] * 2
    assert slots[4] == "b"  # an example that is there anyway, for who looks at the data set


def test_attributes_are_those_of_the_data_set():
    dataset = TensorDataset(torch.zeros(3, 2))
    slots = CanarySlots(dataset, {})
    assert slots.tensors is dataset.tensors
    with pytest.raises(AttributeError):
        slots.targets  # noqa: B018
    assert len(copy.deepcopy(slots)) == len(pickle.loads(pickle.dumps(slots))) == 3


def test_clients_are_chosen_when_the_data_are_shared_out():
    asked = []

    def choose(parts):
        asked.append(parts)
        return {0: "canary"}, frozenset({1})

    data = ClientCanaries(list("abc"), choose)
    assert data[0] == "a"
    assert data.share_out([np.array([0, 2]), np.array([1])]) == {1}
    assert [data[index] for index in range(3)] == ["canary", "b", "c"]
    assert len(data) == 3
    assert len(asked) == 1


def test_entries_are_distinct_and_those_drawn_are_in():
    canaries = GradientCanaries([True, False, True, True], first_slot=50, seed=3)
    canaries.place(4)
    assert sorted(canaries.positions.tolist()) == [0, 1, 2, 3]
    drawn = canaries.drawn(np.array([53, 3, 51, 49, 50, 54]))
    assert drawn.tolist() == [canaries.positions[3], canaries.positions[0]]
    before = canaries.positions.copy()
    canaries.place(4)
    assert (canaries.positions == before).all()


def test_too_few_or_other_parameters_are_refused():
    canaries = GradientCanaries([True] * 5, first_slot=0, seed=0)
    with pytest.raises(ConfigurationError, match="at most the number of parameters that are trained privately, 4"):
        canaries.place(4)
    canaries.place(10)
    with pytest.raises(ConfigurationError, match="11 entries and had 10"):
        canaries.place(11)


def test_what_was_seen_is_added_up_and_kept():
    canaries = GradientCanaries([True, False], first_slot=0, seed=0)
    seen = np.random.default_rng(0).normal(size=(7, 2))
    for values in seen:
        canaries.observe(values)
    other = GradientCanaries([True, False], first_slot=0, seed=0)
    other.load_state_dict(canaries.state_dict())
    assert other.sums == pytest.approx(seen.sum(0))
    assert other.variances == pytest.approx(seen.var(0))
    for state in ({}, {**canaries.state_dict(), "sums": [1.0]}, {**canaries.state_dict(), "steps": None}):
        with pytest.raises(CheckpointError, match="audit"):
            other.load_state_dict(state)
