"""Roles of columns: each named once, those that exclude each other refused, unknown columns named with what is near."""

from __future__ import annotations

import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import Roles


def test_a_name_alone_and_a_list_of_a_config_are_tuples():
    roles = Roles(groups="gender", quasi_identifiers=["age", "place"])
    assert roles.groups == ("gender",)
    assert roles.quasi_identifiers == ("age", "place")
    assert hash(roles) == hash(Roles(groups=("gender",), quasi_identifiers=("age", "place")))


def test_columns_come_once_in_the_order_of_the_roles():
    roles = Roles(quasi_identifiers=("age", "gender"), groups="gender", client="place", label="digit")
    assert roles.columns == ("age", "gender", "place", "digit")
    assert roles.of("gender") == ("quasi_identifiers", "groups")
    assert roles.of("name") == ()


def test_the_identifier_may_be_the_client():
    assert Roles(identifier="id", client="id").of("id") == ("identifier", "client")


@pytest.mark.parametrize(
    "roles",
    [
        {"identifier": "x", "label": "x"},
        {"label": "x", "features": ("x",)},
        {"free_text": ("x",), "quasi_identifiers": ("x",)},
        {"identifier": "x", "quasi_identifiers": ("x",)},
        {"label": "x", "client": "x"},
    ],
    ids=lambda roles: "-".join(roles),
)
def test_roles_that_exclude_each_other_are_refused(roles):
    with pytest.raises(ConfigurationError, match="column 'x' is given the roles"):
        Roles(**roles)


def test_a_column_twice_in_one_role_is_refused():
    with pytest.raises(ConfigurationError, match="groups names column 'gender' twice"):
        Roles(groups=("gender", "gender"))


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"label": 3}, "label must be the name of one column or None, got 3"),
        ({"label": ""}, "label must be the name of one column"),
        ({"groups": 3}, "groups must be names of columns, got 3"),
        ({"groups": ["a", None]}, "groups must be names of columns, got None among them"),
    ],
    ids=["number", "empty", "number-for-names", "none-among-names"],
)
def test_what_is_no_name_is_refused(roles, message):
    with pytest.raises(ConfigurationError, match=message):
        Roles(**roles)


def test_unknown_columns_are_named_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r"time names column 'tmie', .* did you mean 'time'"):
        Roles(time="tmie").check(["name", "time"])
    with pytest.raises(ConfigurationError, match="its columns are 'name', 'time'"):
        Roles(label="digit").check(["name", "time"])
    many = [f"c{number}" for number in range(30)]
    with pytest.raises(ConfigurationError, match="and 10 more"):
        Roles(label="zzz").check(many)
    roles = Roles(label="name")
    assert roles.check(["name"]) is roles
