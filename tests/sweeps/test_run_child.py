"""The process of one run: what it takes, what it leaves, and that it ends with the sweep."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict, read_write

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
from lightning_privacy.accounting.sweep import RUN_VARIABLE, running_sweep
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sweeps import run_child
from lightning_privacy.sweeps import spending as spending_module
from lightning_privacy.sweeps.attempts import AttemptLog
from lightning_privacy.sweeps.result import RunResult
from lightning_privacy.sweeps.run_child import serve_run
from lightning_privacy.sweeps.run_process import TRACE_VARIABLE, Parcel
from lightning_privacy.sweeps.spending import account_for


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Makes this process the child of a sweep in ``tmp_path``; gives what serves a job, and the pipe's other end."""
    (tmp_path / "0").mkdir()
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        config = compose(
            "config",
            overrides=["seed=5", f"hydra.sweep.dir={tmp_path}", "hydra/job_logging=none"],
            return_hydra_config=True,
        )
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.runtime.output_dir = str(tmp_path / "0")
    source, sink = os.pipe()
    stream = os.fdopen(source, "rb")
    os.write(sink, pickle.dumps(Parcel(config, "a1", "d1")))
    signals: list[int] = []
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    monkeypatch.setattr(sys, "argv", ["lightning-privacy", "sweep-job"])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setattr(spending_module, "_PRESENT", [])
    monkeypatch.setattr(run_child.os, "kill", lambda process, number: signals.append(number))
    monkeypatch.setattr(run_child, "_SECONDS_TO_END", 0.0)
    explain = {"explained": (ConfigurationError,), "explain": lambda error: f"it says: {error}"}
    given = SimpleNamespace(serve=lambda run: serve_run(run, **explain), sink=sink, signals=signals, folder=tmp_path)
    yield given
    if given.sink is not None:
        os.close(given.sink)
    # The thread has read the end of the pipe, and has sent both: one that came after this would be no stand-in's.
    while len(signals) < 2:
        time.sleep(0.001)
    stream.close()


def test_a_run_leaves_its_figures_and_what_it_spent(child):
    ledger, seen = PrivacyLedger(delta=1e-5), []

    def run(config):
        seen.append((config.seed, config.paths.output_dir, "hydra" in config, list(sys.argv)))
        account_for([ledger])
        ledger.charge(GaussianRelease(3.0), 2)
        return {"accuracy": 0.5}

    assert child.serve(run) == 0
    assert seen == [(5, str(child.folder / "0"), False, ["lightning-privacy", "seed=5"])]
    result = RunResult.read(child.folder / "0")
    assert result == RunResult(
        "a1", "d1", {"accuracy": 0.5}, json.loads(json.dumps({"covers": "all", "ledgers": [ledger.state_dict()]}))
    )


@pytest.mark.parametrize("asked", [False, True], ids=["quiet", "traces"])
@pytest.mark.parametrize("error", [ConfigurationError("lr must be > 0"), RuntimeError("no memory")])
def test_a_run_that_fails_says_why(child, error, asked, capsys, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as it is in every sweep, so that Hydra raises its errors
    monkeypatch.setenv(TRACE_VARIABLE, "1" if asked else "0")

    def run(config):
        account_for([PrivacyLedger(delta=1e-5)])
        raise error

    assert child.serve(run) == 1
    assert (child.folder / "0" / "error.txt").read_text() == f"it says: {error}\n"
    assert ("Traceback" in capsys.readouterr().err) is (asked or isinstance(error, RuntimeError))
    assert RunResult.read(child.folder / "0") is None


def test_a_run_ends_with_the_sweep(child):
    def run(config):
        assert child.signals == []
        os.close(child.sink)
        child.sink = None
        while len(child.signals) < 2:
            time.sleep(0.001)
        return {}

    child.serve(run)
    assert child.signals == [signal.SIGTERM, signal.SIGKILL]


def test_p32_a_process_of_its_own_knows_that_it_is_of_a_sweep(monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra.core.hydra_config", None)
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert running_sweep() is None
    monkeypatch.setenv(RUN_VARIABLE, "3")
    assert running_sweep() == "Hydra multirun"


def test_the_record_is_the_sweeps(child):
    child.serve(lambda config: account_for([], covers="none") or {})
    assert AttemptLog(child.folder).path.exists()
