"""What is given to the command by way of the environment is in no file that a run leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_privacy.report.make_report import make_report
from lightning_privacy.security import Key

SECRETS = {"LP_PASS": "correct horse battery staple 42", "LP_TOK": "tok_hidden_77"}
SETTINGS = [
    "security=key_file", "security.key._target_=lightning_privacy.security.Key.from_passphrase",
    "~security.key.path", "+security.key.passphrase=${oc.env:LP_PASS}", "+security.key.salt=salt.bin",
    "+security.api_token=${oc.env:LP_TOK}", "+note='of ${data.batch_size}: ${oc.env:LP_TOK}!'",
]  # fmt: skip
SHORT = ["trainer.max_epochs=1", "data.batch_size=720", "compare_nonprivate=false", "callbacks=none"]


def _run(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_privacy", *arguments],
        capture_output=True, text=True, cwd=folder, check=False, timeout=300,
        env={**os.environ, **SECRETS, "LIGHTNING_PRIVACY_KEY_FILE": "none"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    Key.from_passphrase(SECRETS["LP_PASS"], salt=folder / "salt.bin")
    _run(folder, *SETTINGS, *SHORT, "hydra.run.dir=run")
    return folder


def _files_with(folder: Path, secret: str) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("secret", SECRETS.values())
def test_no_file_of_the_run_holds_it(folder, secret):
    assert len(list(folder.rglob("*.*"))) > 10
    assert _files_with(folder, secret) == []


def test_the_config_names_the_variables_and_resolves_the_rest(folder):
    text = (folder / "run" / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert config["security"]["key"]["passphrase"] == "${oc.env:LP_PASS}"
    assert config["note"] == "of 720: ${oc.env:LP_TOK}!"
    assert config["paths"]["runs_dir"] == "./runs"
    assert text.count("${") == 4  # the fourth is the key of the plugin, which is a reference to the first one
    assert config["trainer"]["plugins"][0]["key"] == "${security.key}"


def test_the_report_shows_the_config_and_the_command(folder):
    report = json.loads((folder / "run" / "report.json").read_text())
    assert "passphrase: ${oc.env:LP_PASS}" in report["config"]
    assert "batch_size: 720" in report["config"]
    assert "+security.api_token=${oc.env:LP_TOK}" in report["environment"]["command"]


def test_the_report_is_made_again_without_the_variables(folder, tmp_path):
    assert not SECRETS.keys() & os.environ.keys()
    made = make_report(folder / "run", into=tmp_path)
    assert made.page.read_bytes() == (folder / "run" / "report.html").read_bytes()


def test_the_run_can_be_started_again_from_its_config(folder, tmp_path):
    shutil.copy(folder / "salt.bin", tmp_path)
    (tmp_path / "again").mkdir()
    text = (folder / "run" / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace(str(folder / "run"), str(tmp_path / "again")))
    _run(tmp_path, "--config-path", str(tmp_path), "--config-name", "config", "hydra.run.dir=log")
    assert (tmp_path / "again" / "config.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["outcome"]["steps"] == 2
    assert _files_with(tmp_path, SECRETS["LP_PASS"]) == []
