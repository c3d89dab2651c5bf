"""Arguments for generated people, against those of the generator that takes them."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from lightning_privacy.data.persona.damage import Damage
from lightning_privacy.data.persona.datamodule import PersonaDataModule
from lightning_privacy.data.persona.generator import PersonaGenerator
from lightning_privacy.data.persona.population import Population
from lightning_privacy.errors import ConfigurationError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"num_persons": 7, "images": "digits"}, {"num_persons": 7}),
        ({"root": "there"}, {"images": "fashion-mnist", "root": "there"}),
        ({"images": "fashion-mnist"}, {"images": "fashion-mnist"}),
        ({"damage": {"wrong_labels": 0.5}}, {"damage": Damage(wrong_labels=0.5)}),
        ({"damage": None}, {"damage": None}),
    ],
)
def test_a_generator_gets_what_was_given_and_its_own_defaults_otherwise(given, expected):
    assert PersonaGenerator(**Population(**given).arguments()) == PersonaGenerator(**expected)


def test_a_data_module_has_the_same_defaults():
    signature = inspect.signature(PersonaDataModule).parameters
    for field in dataclasses.fields(Population):
        assert signature[field.name].default == field.default


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"num_persons": 7}, "num_persons can't"),
        ({"images": "digits"}, "images can't"),
        ({"root": "there"}, "root can't"),
        ({"damage": None}, "damage can't"),
        ({"damage": {"wrong_labels": 0.5}, "num_persons": 3}, "num_persons, damage can't"),
    ],
)
def test_anything_but_a_default_is_refused_beside_a_source(given, named):
    with pytest.raises(ConfigurationError, match=f"^{named} be given with a source"):
        Population(**given).refuse_beside_source()


def test_a_default_that_is_spelled_out_is_none_the_less_one():
    Population(num_persons=12_000, damage={}, images=None).refuse_beside_source()
    Population(damage=Damage()).refuse_beside_source()


def test_a_root_that_nothing_reads_is_refused():
    with pytest.raises(ConfigurationError, match="root=there is for images='fashion-mnist'"):
        Population(images="digits", root="there").arguments()
    with pytest.raises(ConfigurationError, match=r"wrong_labels.*1\.5"):
        Population(damage={"wrong_labels": 1.5})
