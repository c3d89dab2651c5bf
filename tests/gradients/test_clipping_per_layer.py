"""A bound for each layer, or for each named group of parameters."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.gradients.clipping import PerLayerClipping

SETTINGS = settings(deadline=None, derandomize=True, max_examples=200, database=None)
NAMES = ["scale", "body.0.weight", "body.0.bias", "body.2.weight", "head.weight", "head.bias"]


@SETTINGS
@given(
    st.lists(st.lists(st.floats(0, 1e4), min_size=3, max_size=3), min_size=1, max_size=5),
    st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3),
)
def test_factors_are_those_of_a_loop_over_examples_and_layers(lengths: list[list[float]], bounds: list[float]) -> None:
    policy = PerLayerClipping(bounds)
    assert policy.groups(["a.weight", "a.bias", "b.weight", "c.weight"]) == [0, 0, 1, 2]
    factors = policy.factors(torch.tensor(lengths, dtype=torch.float64) ** 2)
    for row, length_row in zip(factors.tolist(), lengths, strict=True):
        for factor, length, bound in zip(row, length_row, bounds, strict=True):
            assert factor == pytest.approx(1.0 if length <= bound else bound / length, rel=1e-9)
    assert policy.norm_bound == pytest.approx(math.sqrt(sum(bound**2 for bound in bounds)), rel=1e-12)


def test_a_number_is_the_bound_of_the_whole() -> None:
    policy = PerLayerClipping(3.0)
    assert policy.norm_bound == 3.0
    assert policy.groups(NAMES) == [0, 1, 1, 2, 3, 3]
    assert policy.bounds == (1.5, 1.5, 1.5, 1.5)
    assert policy.norm_bound == 3.0


def test_parameters_of_a_layer_need_not_follow_one_another() -> None:
    policy = PerLayerClipping([1.0, 2.0])
    assert policy.groups(["a.weight", "b.weight", "a.bias"]) == [0, 1, 0]
    assert policy.bounds == (1.0, 2.0)


def test_other_parameters_that_train_make_other_groups() -> None:
    policy = PerLayerClipping(2.0)
    policy.groups(NAMES)
    assert policy.groups(NAMES[4:]) == [0, 0]
    assert policy.bounds == (2.0,)


@pytest.mark.parametrize(
    ("bounds", "groups", "in_order"),
    [
        ({"head": 1.0, "body": 2.0, "scale": 4.0}, [0, 1, 1, 1, 2, 2], (4.0, 2.0, 1.0)),
        ({"*.weight": 1.0, "*.bias": 2.0, "scale": 4.0}, [0, 1, 2, 1, 1, 2], (4.0, 1.0, 2.0)),
        ({"*": 0.5}, [0] * 6, (0.5,)),
        ({"body.0.weight": 1.0, "body.0.bias": 1.0, "body.2": 3.0, "[hs]*": 2.0}, [0, 1, 2, 3, 0, 0], (2.0, 1, 1, 3.0)),
    ],
    ids=["modules", "patterns", "everything", "mixed"],
)
def test_groups_by_name(bounds: dict[str, float], groups: list[int], in_order: tuple[float, ...]) -> None:
    policy = PerLayerClipping(bounds)
    assert policy.groups(NAMES) == groups
    assert policy.bounds == in_order
    assert policy.norm_bound == pytest.approx(math.hypot(*in_order), rel=1e-12)


def test_a_name_is_itself_before_it_is_a_pattern() -> None:
    assert PerLayerClipping({"blocks[0].weight": 1.0}).groups(["blocks[0].weight"]) == [0]


def test_a_key_whose_parameters_are_frozen_adds_no_noise() -> None:
    policy = PerLayerClipping({"body": 3.0, "head": 4.0})
    assert policy.norm_bound == 5.0
    policy.groups(["head.weight"])
    assert policy.norm_bound == 4.0
    policy.groups(["body.0.weight", "head.weight"])
    assert policy.norm_bound == 5.0


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([1.0, 2.0], r"must have 4 bounds.*\(the module itself, body.0, body.2, head\), got 2: \[1.0, 2.0\]"),
        ({"body": 1.0, "hea": 1.0}, "'body', 'hea'; .*: scale (none); head.weight (none); head.bias (none)"),
        ({"*": 1.0, "head": 1.0}, "head.weight ('*' and 'head'); head.bias ('*' and 'head')"),
    ],
    ids=["too few", "unmatched", "matched twice"],
)
def test_bounds_that_do_not_fit_the_parameters_are_named(bounds: object, message: str) -> None:
    if isinstance(bounds, dict):
        message = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(ConfigurationError, match=message):
        PerLayerClipping(bounds).groups(NAMES)


def test_bounds_that_are_none_are_named() -> None:
    for bounds, message in [
        ([], r"max_grad_norm must be a bound.*got \[\]"),
        ({}, r"max_grad_norm must be a bound.*got \{\}"),
        ([1.0, 0.0], r"max_grad_norm\[1\] must be a finite number > 0, got 0.0"),
        ({"head": math.nan}, r"max_grad_norm\['head'\] must be a finite number > 0, got nan"),
        ({"head": 1e-20}, r"max_grad_norm\['head'\] must be at least 1e-10"),
        ({"": 1.0}, "keys of max_grad_norm must be names.*got ''"),
        ({0: 1.0}, "keys of max_grad_norm must be names.*got 0"),
        ("1", "max_grad_norm must be a finite number > 0, got '1'"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            PerLayerClipping(bounds)


def test_norms_of_another_module_are_refused() -> None:
    policy = PerLayerClipping(1.0)
    with pytest.raises(PrivacyViolation, match=r"1 groups came to a policy with 0; call groups\(\)"):
        policy.factors(torch.ones(2, 1))
    policy.groups(NAMES)
    with pytest.raises(PrivacyViolation, match="2 groups came to a policy with 4"):
        policy.factors(torch.ones(2, 2))


def test_the_description_is_a_copy_of_what_was_given() -> None:
    given = {"body": 1, "head": 2.0}
    policy = PerLayerClipping(given)
    policy.describe()["max_grad_norm"]["body"] = 9.0
    given["head"] = 9.0
    assert policy.describe() == {"policy": "PerLayerClipping", "max_grad_norm": {"body": 1.0, "head": 2.0}}
    assert repr(PerLayerClipping((1, 2))) == "PerLayerClipping(max_grad_norm=[1.0, 2.0])"
