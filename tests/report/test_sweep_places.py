"""Which folders in that of a sweep are runs: none that spent something is overlooked, and other programs' are none."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module
from rich.console import Console

from lightning_privacy import cli
from lightning_privacy.accounting import GaussianRelease, LedgerJournal, PrivacyLedger
from lightning_privacy.report.sweep_data import sweep_data
from lightning_privacy.report.sweep_record import SweepRecord
from lightning_privacy.sweeps import random_runs
from lightning_privacy.sweeps.attempts import LOG_NAME, AttemptLog, Ended, Started
from lightning_privacy.sweeps.result import RunResult
from lightning_privacy.sweeps.spending import Spending

OWN = ["environment.json", "finished.json", "summary.json", "ledger.json"]
PLACES = ["x", "lr=0.1/7", "a/b/c/d"]


@pytest.fixture
def sweep(tmp_path):
    """The folder of a sweep of one run, which finished."""
    log, ledger, place = AttemptLog(tmp_path), PrivacyLedger(delta=1e-5), tmp_path / "0"
    place.mkdir()
    log.write(Started("a1", "0", "c"))
    spending = Spending(tmp_path, place, "a1")
    spending.watch([ledger])
    ledger.charge(GaussianRelease(4.0), 3)
    (place / "config.yaml").write_text("seed: 0\n")
    RunResult("a1", "c", {"epsilon": 1.0, "accuracy": 0.9}, spending.result()).write(place)
    log.write(Ended("a1", "finished"))
    return tmp_path


def _privacy(folder):
    return sweep_data(SweepRecord.read(folder))["privacy"]


def _runs(folder):
    return {entry.run for entry in SweepRecord.read(folder).entries}


def _leave(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")


@pytest.mark.parametrize(
    "file",
    [
        "data/config.yaml",
        "data/foo/config.yaml",
        "wandb/run-1/files/config.yaml",
        ".hydra/config.yaml",
        "x/.hydra/config.yaml",
        ".venv/lib/package/summary.json",
        ".cache/environment.json",
        "0/data/foo/config.yaml",
        "0/data/foo/summary.json",
    ],
)
def test_p32_a_file_of_another_program_is_no_run(sweep, file):
    before = _privacy(sweep)
    _leave((sweep / file).parent, (sweep / file).name)
    after = _privacy(sweep)
    assert before["known"]
    assert after == before
    assert _runs(sweep) == {"0"}


@pytest.mark.parametrize("place", [*PLACES, ".x", "x/.old/7"])
@pytest.mark.parametrize("own", OWN)
def test_p32_a_config_beside_a_file_of_a_run_is_a_run_wherever_it_is(sweep, place, own):
    _leave(sweep / place, "config.yaml", own)
    assert _runs(sweep) == {"0", place}
    assert not _privacy(sweep)["known"]


@pytest.mark.parametrize("place", [*PLACES, f"{random_runs._HIDDEN}/7"])
@pytest.mark.parametrize("own", OWN)
def test_p32_so_is_a_folder_with_such_a_file_alone(sweep, place, own):
    _leave(sweep / place, own)
    assert _runs(sweep) == {"0", place}
    assert not _privacy(sweep)["known"]


@pytest.mark.parametrize("place", PLACES)
def test_p32_a_run_of_which_only_the_configs_are_left_is_one(sweep, place):
    _leave(sweep / place, "config.yaml")
    _leave(sweep / place / ".hydra", "overrides.yaml")
    assert _runs(sweep) == {"0", place}
    assert not _privacy(sweep)["known"]


def _charge(folder):
    folder.mkdir(parents=True)
    with LedgerJournal(folder / "b1.jsonl", "b1") as journal:
        journal.record(GaussianRelease(4.0), total_count=1)


@pytest.mark.parametrize("place", [*PLACES, ".x"])
@pytest.mark.parametrize("within", ["privacy_ledger", "metrics/privacy_ledger"])
def test_p32_a_journal_below_a_config_is_that_of_a_run(sweep, place, within):
    """As Lightning's own command line leaves it."""
    _leave(sweep / place, "config.yaml")
    assert _privacy(sweep)["known"]
    _charge(sweep / place / within)
    assert _runs(sweep) == {"0", place}
    assert not _privacy(sweep)["known"]


@pytest.mark.parametrize("within", ["privacy_ledger", "metrics/privacy_ledger"])
def test_p32_so_it_is_beside_the_best_of_a_secret_number_of_runs(tmp_path, within):
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(GaussianRelease(4.0), 3)
    number = random_runs.NegativeBinomialRuns.with_mean(10.0)
    random_runs.Selection(ledger, number, "accuracy").write(tmp_path)
    best, spent = tmp_path / random_runs.BEST, {"covers": "all", "ledgers": []}
    best.mkdir()
    RunResult("a", "c", {"epsilon": 1.0, "accuracy": 0.9}, spent).write(best)
    _leave(tmp_path / "x", "config.yaml")
    assert _privacy(tmp_path)["known"]
    _charge(tmp_path / "x" / within)
    assert not _privacy(tmp_path)["known"]


def test_p32_a_config_above_runs_that_are_counted_is_no_run(sweep):
    before = _privacy(sweep)["epsilon"]
    log = sweep / LOG_NAME
    (sweep / "lr=1").mkdir()
    (sweep / "0").rename(sweep / "lr=1" / "0")
    log.write_text(log.read_text().replace('"run": "0"', '"run": "lr=1/0"'))
    _leave(sweep / "lr=1", "config.yaml")
    _leave(sweep / "lr=1" / "0", "environment.json")
    privacy = _privacy(sweep)
    assert (privacy["known"], privacy["epsilon"]) == (True, before)


@pytest.mark.parametrize("outer", ["0", "x"])
@pytest.mark.parametrize("place", ["again", "a/b", ".again"])
def test_p32_a_run_in_the_folder_of_another_is_not_overlooked(sweep, outer, place):
    """The account of the outer one leaves the steps of the inner one out."""
    _leave(sweep / outer, "config.yaml", "environment.json")
    _leave(sweep / outer / place, "config.yaml")
    assert _runs(sweep) == {"0", outer}
    _leave(sweep / outer / place, "environment.json")
    _charge(sweep / outer / place / "privacy_ledger")
    assert _runs(sweep) == {"0", outer, f"{outer}/{place}"}
    assert not _privacy(sweep)["known"]


def test_p32_a_sweep_in_the_folder_of_a_run_is_counted(sweep):
    for name in ("0", LOG_NAME):
        _leave(sweep / "1" / "search")
        (sweep / name).rename(sweep / "1" / "search" / name)
    _leave(sweep / "1", "config.yaml", "environment.json")
    assert _runs(sweep) == {"1", "1/search/0"}


@pytest.mark.parametrize("outer", ["0", "x"])
def test_p32_what_an_attempt_left_is_no_run_of_its_own(sweep, outer):
    _leave(sweep / outer, "config.yaml", "environment.json")
    _leave(sweep / outer / "earlier_0", "config.yaml", "environment.json")
    assert _runs(sweep) == {"0", outer}
    assert f"Run {outer} had more attempts than are counted." in _privacy(sweep)["sentences"]


@pytest.mark.parametrize("place", [".x", "x/.old"])
def test_p32_a_sweep_in_a_hidden_folder_is_counted(sweep, place):
    before = _privacy(sweep)["epsilon"]
    _leave(sweep / place)
    for name in ("0", LOG_NAME):
        (sweep / name).rename(sweep / place / name)
    assert _runs(sweep) == {f"{place}/0"}
    assert _privacy(sweep)["epsilon"] == before


@pytest.mark.parametrize("moved", [(), ("config.yaml",), ("environment.json",), ("config.yaml", "environment.json")])
def test_p32_an_attempt_is_a_run_however_far_it_was_put_aside(tmp_path, moved):
    """The list of attempts is gone, and what moves the files of one was killed at any of them."""
    _leave(tmp_path / "0", "config.yaml", "environment.json")
    _leave(tmp_path / "0" / "earlier_0", "summary.txt")
    for name in moved:
        (tmp_path / "0" / name).rename(tmp_path / "0" / "earlier_0" / name)
    _leave(tmp_path / "1", "config.yaml", "environment.json")
    assert len(_runs(tmp_path)) == 2
    assert not _privacy(tmp_path)["known"]


def test_p32_a_folder_is_that_of_a_run_before_anything_is_made_that_can_spend(tmp_path, monkeypatch):
    (tmp_path / "0").mkdir()
    found = []

    def make(*_, **__):
        found.append(_runs(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "instantiate", make)
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        config = compose("config", overrides=[f"paths.output_dir={tmp_path / '0'}"])
    with pytest.raises(KeyboardInterrupt):
        cli.run(config, tmp_path / "0", Console(quiet=True))
    assert found == [{"0"}]
