"""Splits are complete, disjoint, in proportion, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_privacy.data.splitting import stratified_split
from lightning_privacy.errors import ConfigurationError


@given(labels=st.lists(st.integers(0, 4), max_size=60), share=st.floats(0, 1), seed=st.integers(0, 3))
def test_complete_disjoint_and_in_proportion(labels, share, seed):
    array = np.array(labels, dtype=np.int64)
    size = round(share * len(array))
    first, rest = stratified_split(array, size=size, seed=seed)
    assert len(first) == size
    assert sorted([*first, *rest]) == list(range(len(array)))
    for label in np.unique(array):
        expected = (array == label).sum() * size / len(array)
        assert abs((array[first] == label).sum() - expected) < 1


def test_the_same_seed_gives_the_same_split_and_another_another():
    labels = np.arange(100) % 5
    splits = [stratified_split(labels, size=40, seed=seed)[0].tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_within_a_class_the_choice_is_not_the_order_of_the_file():
    first, _ = stratified_split(np.zeros(1000, dtype=np.int64), size=500, seed=0)
    assert 400 < first.mean() < 600


@pytest.mark.parametrize("size", [-1, 5])
def test_a_size_out_of_range_is_named(size):
    with pytest.raises(ConfigurationError, match=f"size must be between 0 and the 4 examples, got {size}"):
        stratified_split(np.zeros(4, dtype=np.int64), size=size, seed=0)
