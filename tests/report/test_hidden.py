"""Secrets are left out of what a report shows, by their names and by what the environment holds."""

from __future__ import annotations

import json

import pytest

from lightning_privacy.report.hidden import environment_texts, hidden_argument, hidden_config, hidden_texts
from lightning_privacy.report.html_report import html_report
from lightning_privacy.report.model_card import ModelCard
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_record import RunRecord
from lightning_privacy.report.sweep_data import _given
from lightning_privacy.report.sweep_entry import SweepEntry

NAMES = [
    "passphrase", "passPhrase", "Passwort", "passwd", "pwd", "password", "secret", "client_secret", "token", "api_key",
    "apiKey", "api-key", "credentials", "accessToken", "auth_token", "password_2", "secretkey", "hf_tokens", "keys",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name):
    assert hidden_argument(f"++a.b.{name}=xyz1") == f"++a.b.{name}=(left out)"
    assert "xyz1" not in hidden_config(f"a:\n  {name}: xyz1\n  other: 1\n")


@pytest.mark.parametrize(
    "argument",
    [
        "a.api_keys.0=xyz1", "+a={b: {passphrase: xyz1}}", "+security.key={passphrase: xyz1}", "a.token='xyz1'",
        "a.password=${oc.env:NAME,xyz1}", "+a=[{'token': xyz1}]", "security.key.passphrase=two xyz1",
    ],
)  # fmt: skip
def test_no_form_of_an_override_shows_it(argument):
    assert "xyz1" not in hidden_argument(argument)


@pytest.mark.parametrize(
    "argument",
    ["a.passphrase=${oc.env:NAME}", "security.key.path=store", "security=key_file", "a.token=null", "max_tokens=3"],
)
def test_what_is_no_secret_stays(argument):
    assert hidden_argument(argument) == argument


@pytest.mark.parametrize(
    "config",
    [
        "a:\n  passphrase: many words\n    and xyz1\n  b: 3\n",
        "a:\n  passphrase: |\n    many words\n    xyz1\n  b: 3\n",
        "a:\n  tokens_of: {password: 'xyz1', c: 4}\n  b: 3\n",
        "a:\n  api_keys:\n  - abc\n  - xyz1\n  b: 3\n",
        "a:\n  api_keys:\n    one:\n      inside: xyz1\n  b: 3\n",
        'a:\n  "api-key": "xy\n    xyz1"\n  b: 3\n',
        "a:\n  password: *x\n  b: 3\nc: &x xyz1\n",
        "c: &x xyz1\na:\n  password: *x\n  b: 3\n",
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_no_form_of_yaml_shows_it(config, broken):
    if broken and ("&x" in config or "{" in config):
        pytest.skip("without a parser there are lines only")
    shown = hidden_config(config + ("- :\n" if broken else ""))
    if "password: *x" not in config or config.startswith("c:"):
        assert "xyz1" not in shown
    assert "b: 3" in shown


def test_a_config_without_secrets_stays_as_it_is():
    config = "# why\na: {b: [1, 'x']}\nmax_tokens: 3\nkey:\n  path: store\n  passphrase: ${oc.env:NAME}\ntoken: null\n"
    assert hidden_config(config) == config


def test_what_the_environment_holds_is_nowhere_in_the_report(run_copy, monkeypatch):
    monkeypatch.setenv("HIDDEN_NAME", "q7-hidden-value")
    with (run_copy / "config.yaml").open("a") as file:
        file.write("\nsome:\n  harmless: before ${oc.env:HIDDEN_NAME} after\n")
    summary = json.loads((run_copy / "summary.json").read_text())
    summary["artefacts"] = {"Model to deploy": "runs/q7-hidden-value/model"}
    (run_copy / "summary.json").write_text(json.dumps(summary))
    environment = json.loads((run_copy / "environment.json").read_text())
    environment["command"] = ["lightning-privacy", "a=q7-hidden-value"]
    (run_copy / "environment.json").write_text(json.dumps(environment))
    data = report_data(RunRecord.read(run_copy))
    assert data["artefacts"] == {"Model to deploy": "runs/${oc.env:HIDDEN_NAME}/model"}
    assert data["environment"]["command"][1] == "a=${oc.env:HIDDEN_NAME}"
    assert "before ${oc.env:HIDDEN_NAME} after" in data["config"]
    ModelCard(data).write(run_copy / "card.md")
    for text in (json.dumps(data), html_report(data), (run_copy / "card.md").read_text()):
        assert "q7-hidden-value" not in text


def test_a_value_changes_no_word_that_the_report_is_read_by(monkeypatch):
    monkeypatch.setenv("A_NAME", "not private")
    texts = environment_texts("a: ${oc.env:A_NAME}")
    values = {"status": "not private", "sentence": "it is not private"}
    assert hidden_texts(values, texts) == {"status": "not private", "sentence": "it is ${oc.env:A_NAME}"}


def test_short_values_are_left_alone(monkeypatch):
    monkeypatch.setenv("A_NAME", "3")
    assert environment_texts("a: ${oc.env:A_NAME}") == {}


def test_the_report_of_a_sweep_shows_none():
    assert _given(SweepEntry("0", "finished", overrides=("+a.passphrase=xyz1", "lr=1"))) == {
        "a.passphrase": "(left out)", "lr": "1",
    }  # fmt: skip
