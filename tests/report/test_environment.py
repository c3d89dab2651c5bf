"""The environment of a run, without what is nobody's business."""

from __future__ import annotations

import importlib.metadata
import json
import platform

import pytest

from lightning_privacy._secret_names import is_secret
from lightning_privacy.report.environment import write_environment
from lightning_privacy.report.hidden import without_home


def test_versions_are_those_installed(tmp_path):
    write_environment(tmp_path, [])
    values = json.loads((tmp_path / "environment.json").read_text())
    assert values["python"] == platform.python_version()
    assert values["packages"]["torch"] == importlib.metadata.version("torch")
    assert values["version"] == 1
    assert values["cores"] >= 1
    assert platform.node() not in json.dumps(values)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("callbacks.privacy.epsilon=8", "callbacks.privacy.epsilon=8"),
        ("+logger.wandb.api_key=abc", "+logger.wandb.api_key=(left out)"),
        ("data.key=abc", "data.key=(left out)"),
        ("security.password=abc=d", "security.password=(left out)"),
        ("data.root=/home/somebody/data", "data.root=~/data"),
        ("data.root=/home/somebodyelse", "data.root=/home/somebodyelse"),
        ("data.keyboard=qwerty", "data.keyboard=qwerty"),
    ],
)
def test_secrets_and_home_are_left_out_of_the_command(tmp_path, monkeypatch, argument, shown):
    monkeypatch.setenv("HOME", "/home/somebody")
    write_environment(tmp_path, [argument])
    assert json.loads((tmp_path / "environment.json").read_text())["command"] == ["lightning-privacy", shown]


def test_a_home_that_is_everything_hides_nothing(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert without_home("/data/x") == "/data/x"


def test_names_of_secrets():
    assert all(map(is_secret, ["key", "api_key", "TOKEN", "hf_token", "password", "client_secret"]))
    assert not any(map(is_secret, ["keys_per_client", "monkey", "tokens_per_second", "secretary"]))
