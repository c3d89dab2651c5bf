"""One run of a sweep in a process of its own: here a small program in place of the training."""

from __future__ import annotations

import fcntl
import json
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict, read_write

from lightning_privacy.sweeps import run_process
from lightning_privacy.sweeps.attempts import AttemptLog
from lightning_privacy.sweeps.result import RunResult
from lightning_privacy.sweeps.run_process import FAILED, run_in_process

# Finishes with what the environment holds; or fails or dies, where a file in the run's folder says so.
_CHILD = """
import json, os, pathlib, signal, sys, time
sweep, run = pathlib.Path(sys.argv[1]), os.environ["LIGHTNING_PRIVACY_SWEEP_RUN"]
lines = [json.loads(line) for line in (sweep / "attempts.jsonl").read_text().splitlines()]
started = [line for line in lines if line["event"] == "started" and line["run"] == run][-1]
(sweep / run / "checkpoint").write_text(started["attempt"])
print("speaking")
word = (sweep / "orders").read_text() if (sweep / "orders").exists() else ""
if word == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if word == "fail":
    (sweep / run / "error.txt").write_text("lr must be > 0\\n")
    sys.exit(1)
if word == "silent":
    sys.exit(3)
if word == "wait":
    (sweep / "waiting").touch()
    sys.stdin.buffer.read()
    (sweep / "told").touch()
    sys.exit(1)
figures = {"accuracy": 0.5, "ports": float("MASTER_PORT" in os.environ)}
values = {"version": 1, "attempt": started["attempt"], "config": started["config"], "figures": figures, "spent": {}}
(sweep / run / "finished.json").write_text(json.dumps(values))
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Runs a job of a sweep in ``tmp_path``, as Hydra calls it, and returns its result."""
    monkeypatch.setattr(run_process, "_PROGRAM", (sys.executable, "-c", _CHILD, str(tmp_path)))
    monkeypatch.setattr(run_process, "_SECONDS_TO_STOP", 5.0)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)

    def run(*overrides: str, number: int = 0):
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
            config = compose(
                "config",
                overrides=[f"hydra.sweep.dir={tmp_path}", f"hydra.job.num={number}", *overrides],
                return_hydra_config=True,
            )
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        return run_in_process(config, explain=lambda error: f"explained {error}")

    return run


def _attempts(folder: Path) -> list[tuple[str, str]]:
    attempts, complete = AttemptLog(folder).read()
    assert complete
    return [(attempt.run, attempt.ended.how if attempt.ended else "") for attempt in attempts]


def test_a_run_that_is_finished_is_not_done_again(job, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29500")
    first = job("seed=1")
    assert first == {"accuracy": 0.5, "ports": 0.0}
    made = RunResult.read(tmp_path / "0")
    again = job("seed=1")
    assert again == first
    assert RunResult.read(tmp_path / "0") == made
    assert _attempts(tmp_path) == [("0", "finished")]
    out = capfd.readouterr().out
    assert "Run 0 starts" in out
    assert "accuracy 0.5" in out
    assert "Run 0 is finished already" in out


@pytest.mark.parametrize(
    ("word", "how", "why"),
    [
        ("die", "killed", "its process got SIGKILL, as the system does when memory runs out"),
        ("fail", "failed", "lr must be > 0"),
        ("silent", "failed", "its process ended with status 3 and no result"),
    ],
)
def test_a_run_that_is_lost_is_on_record_and_is_done_again(job, tmp_path, word, how, why):
    (tmp_path / "orders").write_text(word)
    assert job() == {FAILED: why}
    (attempt,), _ = AttemptLog(tmp_path).read()
    assert (attempt.ended.how, attempt.ended.why) == (how, why)
    # What it left is out of the way of the next attempt, and there.
    (tmp_path / "0" / "privacy_ledger").mkdir()
    (tmp_path / "orders").unlink()
    assert job()["accuracy"] == 0.5
    assert _attempts(tmp_path) == [("0", how), ("0", "finished")]
    assert (tmp_path / "0" / "earlier_0" / "checkpoint").read_text() == attempt.name
    assert (tmp_path / "0" / "privacy_ledger").is_dir()


@pytest.mark.parametrize(
    ("folders", "files", "name"),
    [
        pytest.param((), (), "earlier_0", id="none"),
        pytest.param(("earlier_1",), (), "earlier_2", id="the first was removed"),
        pytest.param(("earlier_9", "earlier_10"), (), "earlier_11", id="by number"),
        pytest.param(("earlier_0", "earlier_first"), ("earlier_notes.txt",), "earlier_1", id="others have no number"),
        pytest.param((), ("earlier_0",), "earlier_1", id="a file has the name"),
    ],
)
def test_what_a_lost_attempt_left_gets_a_folder_of_its_own(job, tmp_path, folders, files, name):
    (tmp_path / "orders").write_text("silent")
    job()
    (tmp_path / "orders").unlink()
    for folder in folders:
        (tmp_path / "0" / folder).mkdir()
        (tmp_path / "0" / folder / "checkpoint").write_text("of another attempt")
    for file in files:
        (tmp_path / "0" / file).write_text("of the user")
    (attempt,), _ = AttemptLog(tmp_path).read()
    assert job()["accuracy"] == 0.5
    assert (tmp_path / "0" / name / "checkpoint").read_text() == attempt.name
    assert all((tmp_path / "0" / folder / "checkpoint").read_text() == "of another attempt" for folder in folders)
    assert all((tmp_path / "0" / file).read_text() == "of the user" for file in files)


def test_p32_a_finished_run_with_other_settings_is_not_written_over(job, tmp_path):
    """Its ledger would be gone, and the sweep would seem to cost less than it did."""
    job("seed=1")
    kept = (tmp_path / "0" / "finished.json").read_bytes()
    assert "finished run with other settings" in job("seed=2")[FAILED]
    assert (tmp_path / "0" / "finished.json").read_bytes() == kept
    assert _attempts(tmp_path) == [("0", "finished"), ("0", "failed")]


def test_p32_a_result_that_cannot_be_read_is_not_written_over(job, tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "finished.json").write_text("{")
    assert "damaged" in job()[FAILED]
    assert (tmp_path / "0" / "finished.json").read_text() == "{"


def test_two_processes_do_not_meet_in_a_folder(job, tmp_path):
    (tmp_path / "0").mkdir()
    with (tmp_path / "0" / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process is at work" in job()[FAILED]
    assert job()["accuracy"] == 0.5


def test_settings_that_cannot_be_resolved_lose_no_other_run(job, tmp_path):
    assert "explained" in job("+broken=${oc.env:NO_SUCH_VARIABLE_1234}")[FAILED]
    assert job(number=1)["accuracy"] == 0.5
    assert _attempts(tmp_path) == [("0", "failed"), ("1", "finished")]


def test_a_run_knows_when_the_sweep_is_gone(job, tmp_path, monkeypatch):
    """The pipe to it is closed; an interrupt ends it and passes on."""
    (tmp_path / "orders").write_text("wait")
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while not (tmp_path / "waiting").exists():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    monkeypatch.setattr(run_process, "_SECONDS_TO_STOP", 0.3)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore interrupts
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            job()
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    (attempt,), _ = AttemptLog(tmp_path).read()
    assert attempt.ended is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "speaking\n"),
        (["hydra/launcher=joblib_parallel"], "[0] speaking\n"),
        (["hydra/sweeper=random_runs"], None),
    ],
    ids=["one", "several", "secret"],
)
def test_what_a_run_prints(job, tmp_path, capfd, overrides, expected):
    job(*overrides)
    out = capfd.readouterr().out
    if expected is None:
        assert out == ""
        assert (tmp_path / "0" / "output.log").read_text() == "speaking\n"
    else:
        # A thread passes on what several runs print, through Python's own stream.
        assert expected in out


def test_the_parcel_holds_the_job(job, tmp_path, monkeypatch):
    parcels = []
    monkeypatch.setattr(run_process, "_process", lambda parcel, folder, name: parcels.append(parcel) or 1)
    job("seed=7")
    (parcel,) = parcels
    assert parcel.config.seed == 7
    assert parcel.config.hydra.run.dir == parcel.config.hydra.runtime.output_dir == str(tmp_path / "0")
    assert list(parcel.config.hydra.overrides.task) == ["seed=7"]
    again = pickle.loads(pickle.dumps(parcel))
    assert json.dumps(sorted(again.config.keys())) == json.dumps(sorted(parcel.config.keys()))
    assert Path(again.config.hydra.sweep.dir).is_absolute()
