"""What a person at a terminal is told of an error, and what not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report.terminal import explain, explained, hydra_raises

FOLDER = Path("runs", "today")


def test_the_cause_in_a_config_is_told_with_its_place():
    config = {"callbacks": {"_target_": "lightning_privacy.PrivacyAudit", "num_canaries": 0}}
    with pytest.raises(InstantiationException) as caught:
        instantiate(config)
    text = explain(caught.value)
    assert text.startswith("num_canaries must be")
    assert text.endswith("(in the config: callbacks)")


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (OSError(errno.ENOSPC, "full"), f"full while the run folder {FOLDER} was written"),
        (OSError(errno.ENOSPC, "full", "weights.ckpt"), "full: 'weights.ckpt'"),
        (PermissionError(errno.EACCES, "no", "runs"), "choose another with paths.runs_dir=/path/to/folder"),
        (ConfigurationError("of\n  two lines"), "of two lines"),
    ],
    ids=["no file named", "a file named", "no folder", "ours"],
)
def test_an_error_is_one_line_with_what_to_do(error, end):
    assert explain(error, FOLDER).endswith(end)
    assert "\n" not in explain(error, FOLDER)


def test_what_can_be_acted_on_ends_the_command_without_a_trace(capsys, monkeypatch):
    monkeypatch.delenv("LIGHTNING_PRIVACY_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="1"), explained():
        raise ConfigurationError("epsilon must be > 0")
    assert capsys.readouterr().err == "error: epsilon must be > 0\n"
    with pytest.raises(ZeroDivisionError), explained():  # a defect shows its trace
        raise ZeroDivisionError
    monkeypatch.setenv("LIGHTNING_PRIVACY_FULL_ERROR", "1")
    with pytest.raises(ConfigurationError), explained():
        raise ConfigurationError("epsilon must be > 0")


@pytest.mark.parametrize("asked", [None, "1"])
def test_the_wish_for_traces_outlives_what_hydra_is_told(monkeypatch, asked):
    monkeypatch.delenv("LIGHTNING_PRIVACY_FULL_ERROR", raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if asked is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", asked)
    with hydra_raises():
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
        assert os.environ["LIGHTNING_PRIVACY_FULL_ERROR"] == (asked or "0")
    assert os.environ.get("HYDRA_FULL_ERROR") == asked
    assert "LIGHTNING_PRIVACY_FULL_ERROR" not in os.environ
