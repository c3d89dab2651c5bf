"""What a finished run leaves, and by what a run is known again."""

from __future__ import annotations

import json
import math

import pytest
from omegaconf import OmegaConf

from lightning_privacy.errors import CheckpointError
from lightning_privacy.sweeps.result import RESULT_NAME, RunResult, config_digest, run_figures


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = RunResult("a", "c", {"epsilon": math.inf, "accuracy": 0.5}, {"covers": "all", "ledgers": []})
    assert RunResult.read(tmp_path) is None
    result.write(tmp_path)
    assert RunResult.read(tmp_path) == result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps({"version": 1, "figures": {}}), "damaged"),
        (json.dumps({"version": 2, "attempt": "a", "config": "c", "figures": {}, "spent": {}}), "version 2"),
        (json.dumps({"version": 1, "attempt": "a", "config": "c", "figures": {"epsilon": "?"}}), "damaged"),
    ],
    ids=["cut", "list", "fields", "version", "figure"],
)
def test_a_result_that_cannot_be_read_is_no_missing_one(tmp_path, content, message):
    (tmp_path / RESULT_NAME).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        RunResult.read(tmp_path)


def test_a_run_is_known_by_its_settings_and_not_by_its_place(tmp_path):
    def digest(folder: str, rate: float) -> str:
        return config_digest(
            OmegaConf.create({"lr": rate, "log": "${paths.output_dir}/log", "paths": {"output_dir": folder}}),
            tmp_path if folder == str(tmp_path) else tmp_path / "other",
        )

    assert digest(str(tmp_path), 0.1) == digest(str(tmp_path / "other"), 0.1)
    assert digest(str(tmp_path), 0.1) != digest(str(tmp_path), 0.2)


def test_no_secret_of_the_environment_is_in_the_digest_of_a_run(tmp_path, monkeypatch):
    """Else it could be guessed from the digest; other values of the environment do change what a run does."""

    def digest(secret: str, rate: str) -> str:
        monkeypatch.setenv("SECRET_WORDS", secret)
        monkeypatch.setenv("RATE", rate)
        key = {"passphrase": "${oc.env:SECRET_WORDS}"}
        values = {"lr": "${oc.env:RATE}", "key": key, "plugin": {"of": "${key}"}, "copy": "x ${key.passphrase}"}
        return config_digest(OmegaConf.create(values), tmp_path)

    assert digest("correct horse", "0.1") == digest("battery staple", "0.1")
    assert digest("correct horse", "0.1") != digest("correct horse", "0.2")


def test_figures_by_which_runs_are_compared(tmp_path):
    (tmp_path / "classification.json").write_text(json.dumps({"confusion": [[3, 1], [5, 5], []]}))
    test = {
        "acc": 0.9,
        "fairness/test/sex/worst_group_accuracy": 0.7,
        "fairness/test/worst_group_accuracy": 0.8,
        "fairness/test/age/worst_group_accuracy": math.nan,
        "fairness/val/worst_group_accuracy": 0.1,
    }
    assert run_figures(2.0, test, folder=tmp_path) == {
        "epsilon": 2.0, "accuracy": 0.9, "worst_group": 0.7, "worst_class": 0.5,
    }  # fmt: skip
    assert run_figures(None, {}) == {"epsilon": math.inf}


@pytest.mark.parametrize("content", ["{", '{"confusion": null}', '{"confusion": [1]}', "[1]"])
def test_a_confusion_of_no_known_layout_is_left_out(tmp_path, content):
    (tmp_path / "classification.json").write_text(content)
    assert run_figures(None, {}, folder=tmp_path) == {"epsilon": math.inf}
