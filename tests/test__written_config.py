"""A config that is written down keeps what comes from the environment as it was written."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from lightning_privacy._written_config import config_text, from_environment, written_config


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("WORD", "hidden word")
    monkeypatch.setenv("COUNT", "3")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("${oc.env:WORD}", "${oc.env:WORD}"),
        ("${ oc.env: 'WORD' }", "${ oc.env: 'WORD' }"),
        ("${oc.env:NONE,${root}}", "${oc.env:NONE,${root}}"),
        ("${oc.decode:${oc.env:COUNT}}", "${oc.decode:${oc.env:COUNT}}"),
        ("${root}/a ${oc.env:WORD}", "runs/a ${oc.env:WORD}"),
        (r"\${x} ${odd} ${oc.env:WORD}", r"\${x} \${y} ${oc.env:WORD}"),
        ("${of_it}/${root}", "${of_it}/runs"),
        ("${inside}", "${inside}"),
        ("${root}", "runs"),
        ("${number}", 3),
    ],
)
def test_only_what_has_no_part_of_the_environment_is_resolved(text, kept):
    base = {"root": "runs", "odd": r"\${y}", "of_it": "${oc.env:WORD}", "inside": {"a": ["${of_it}"]}, "number": 3}
    config = OmegaConf.create({**base, "value": text})
    written = config_text(config)
    assert "hidden word" not in written
    assert yaml.safe_load(written)["value"] == kept
    again = OmegaConf.create(yaml.safe_load(written))
    assert again.value == config.value
    assert written_config(again)["value"] == kept


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["\\", "$", "{", "}", "a", "${odd}", "${path}", "${root}", "${of_it}"]), max_size=8))
def test_what_is_written_is_read_as_the_same_value(parts):
    base = {"root": "runs", "odd": r"\${y}", "path": "c:\\", "of_it": "${oc.env:WORD}"}
    config = OmegaConf.create(base)
    try:
        config.value = "".join(parts)
        value = config.value
    except OmegaConfBaseException:
        assume(False)
    written = config_text(config)
    assert "hidden" not in written
    assert OmegaConf.create(yaml.safe_load(written)).value == value


def test_without_the_environment_it_is_what_omegaconf_writes():
    config = OmegaConf.create({"a": {"b": [1, None, "x: y", {"c": "${d}"}], 3: 1.5}, "d": {"e": "${f}"}, "f": "???"})
    config.f = "now"
    assert config_text(config) == OmegaConf.to_yaml(config, resolve=True)


def test_a_variable_that_is_not_set_is_an_error_as_it_is_for_the_run():
    with pytest.raises(InterpolationResolutionError, match="NOT_SET_AT_ALL"):
        config_text(OmegaConf.create({"a": "${oc.env:NOT_SET_AT_ALL}"}))


def test_the_resolver_is_as_it_was_afterwards():
    config = OmegaConf.create({"a": "${oc.env:WORD}"})
    assert list(from_environment(config)) == [(("a",), "hidden word")]
    assert config.a == "hidden word"
