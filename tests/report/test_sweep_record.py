"""What is found in the folder of a sweep, however its runs have ended."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_privacy.accounting import GaussianRelease, LaplaceRelease, LedgerJournal, PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report.ledger_file import write_ledger
from lightning_privacy.report.sweep_data import sweep_data
from lightning_privacy.report.sweep_record import SweepRecord
from lightning_privacy.sweeps.attempts import Accounts, AttemptLog, Ended, Started
from lightning_privacy.sweeps.result import RunResult
from lightning_privacy.sweeps.spending import Spending

STEP = GaussianRelease(4.0)


def attempt(
    sweep: Path,
    run: str,
    how: str | None,
    *,
    steps: int = 3,
    covers: str = "all",
    finished: bool = False,
    name: str = "",
) -> PrivacyLedger:
    """Leave what an attempt at a run leaves that ended in some way; ``None``: nobody has seen its end."""
    folder, log, name = sweep / run, AttemptLog(sweep), name or f"attempt{run}"
    folder.mkdir(parents=True, exist_ok=True)
    log.write(Started(name, run, "c", (f"lr={run}", "seed=1")))
    ledger, spending = PrivacyLedger(delta=1e-5), Spending(sweep, folder, name)
    spending.watch([ledger], covers=covers)
    for _ in range(steps):
        ledger.charge(STEP)
    if finished:
        figures = {"epsilon": ledger.epsilon(), "accuracy": 0.5 + int(run) / 10}
        RunResult(name, "c", figures, spending.result()).write(folder)
    if how is not None:
        log.write(Ended(name, how, "why"))
    return ledger


def entry(sweep: Path):
    """The only attempt."""
    record = SweepRecord.read(sweep)
    assert record.missing == ()
    (found,) = record.entries
    return found


def test_a_finished_run(tmp_path):
    ledger = attempt(tmp_path, "2", "finished", finished=True)
    found = entry(tmp_path)
    assert (found.run, found.status, found.overrides) == ("2", "finished", ("lr=2", "seed=1"))
    assert found.figures == {"epsilon": ledger.epsilon(), "accuracy": 0.7}
    assert [each.groups for each in found.ledgers] == [((STEP, 3),)]
    assert (found.unknown, found.private) == ("", True)


@pytest.mark.parametrize("how", ["failed", "killed", None])
def test_p32_an_attempt_that_did_not_finish_counts_with_what_it_had_released(tmp_path, how):
    attempt(tmp_path, "0", how)
    found = entry(tmp_path)
    assert found.status == (how or "killed")
    assert [each.groups for each in found.ledgers] == [((STEP, 3),)]
    assert found.unknown == ""


def test_a_finish_that_nobody_has_seen_is_one(tmp_path):
    attempt(tmp_path, "0", None, finished=True)
    assert entry(tmp_path).status == "finished"


def test_p32_two_attempts_at_a_run_count_twice(tmp_path):
    attempt(tmp_path, "0", "killed", steps=2, name="first")
    attempt(tmp_path, "0", "finished", finished=True, name="second")
    record = SweepRecord.read(tmp_path)
    assert [(each.status, each.ledgers[0].groups) for each in record.entries] == [
        ("killed", ((STEP, 2),)), ("finished", ((STEP, 3),)),
    ]  # fmt: skip
    assert len(record.finished) == 1


def test_an_attempt_that_ended_before_its_accounts_were_open_has_released_nothing(tmp_path):
    (tmp_path / "0").mkdir()
    AttemptLog(tmp_path).write(Started("a", "0", "c"))
    AttemptLog(tmp_path).write(Ended("a", "failed", "no such data"))
    found = entry(tmp_path)
    assert (found.ledgers, found.unknown) == ((), "")


def test_p32_a_run_that_still_runs_is_not_known_yet(tmp_path):
    attempt(tmp_path, "0", None)
    with (tmp_path / "0" / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = entry(tmp_path)
    assert (found.status, found.unknown) == ("running", "it is still running")
    assert found.ledgers[0].groups == ((STEP, 3),)


@pytest.mark.parametrize(
    ("covers", "finished", "unknown", "private"),
    [
        ("end", True, False, True),
        ("end", False, True, True),
        ("clients have their own", True, True, True),
        ("clients have their own", False, True, True),
        ("none", True, False, False),
        ("none", False, False, False),
    ],
)
def test_p32_what_the_accounts_cover(tmp_path, covers, finished, unknown, private):
    attempt(tmp_path, "0", "finished" if finished else "killed", covers=covers, finished=finished)
    found = entry(tmp_path)
    assert (bool(found.unknown), found.private) == (unknown, private)


def _lose_journal(run: Path) -> None:
    shutil.rmtree(run / "privacy_ledger")


def _damage_journal(run: Path) -> None:
    (journal,) = (run / "privacy_ledger").iterdir()
    journal.write_text("?\n" + journal.read_text())


def _lose_folder(run: Path) -> None:
    shutil.rmtree(run)


@pytest.mark.parametrize("damage", [_lose_journal, _damage_journal, _lose_folder])
def test_p32_what_is_lost_is_not_nothing(tmp_path, damage):
    attempt(tmp_path, "0", "killed")
    damage(tmp_path / "0")
    assert entry(tmp_path).unknown


def test_p32_a_finished_run_that_is_gone_is_not_nothing(tmp_path):
    attempt(tmp_path, "0", "finished", finished=True)
    shutil.rmtree(tmp_path / "0")
    assert entry(tmp_path).unknown == "finished.json is gone"


@pytest.mark.parametrize("content", ["{", '{"version": 3}'])
def test_p32_a_result_that_cannot_be_read_is_not_nothing(tmp_path, content):
    attempt(tmp_path, "0", "finished", finished=True)
    (tmp_path / "0" / "finished.json").write_text(content)
    assert entry(tmp_path).unknown


def test_p32_a_ledger_that_cannot_be_read_is_not_nothing(tmp_path):
    attempt(tmp_path, "0", "finished", finished=True)
    path = tmp_path / "0" / "finished.json"
    values = json.loads(path.read_text())
    values["spent"]["ledgers"][0]["releases"][0]["count"] = -1
    path.write_text(json.dumps(values))
    assert "ledger can't be read" in entry(tmp_path).unknown


def test_p32_a_damaged_record_of_attempts_is_said(tmp_path):
    attempt(tmp_path, "0", "killed")
    with AttemptLog(tmp_path).path.open("a") as file:
        file.write("{\n")
    assert SweepRecord.read(tmp_path).missing == ("A line of attempts.jsonl is damaged.",)


def _single_run(folder: Path, *, epsilon: float | None = 1.0, ledger: bool = True, complete: bool = True) -> None:
    folder.mkdir()
    guarantee = None if epsilon is None else {"epsilon": epsilon}
    summary = {"guarantee": guarantee, "outcome": {"test": {"acc": 0.75}}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- seed=4\n")
    if ledger:
        made = PrivacyLedger(delta=1e-5)
        made.charge(STEP, 2)
        write_ledger(folder, made, complete=complete)


def test_single_runs_in_a_folder(tmp_path):
    _single_run(tmp_path / "one")
    _single_run(tmp_path / "two", epsilon=None, ledger=False)
    _single_run(tmp_path / "three", ledger=False)
    _single_run(tmp_path / "four", complete=False)
    (tmp_path / "five").mkdir()
    (tmp_path / "five" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "five" / "environment.json").write_text("{}")
    (tmp_path / "six").mkdir()
    (tmp_path / "six" / "notes.txt").write_text("no run\n")
    (tmp_path / "seven").mkdir()
    (tmp_path / "seven" / "summary.json").write_text("{")
    found = {each.run: each for each in SweepRecord.read(tmp_path).entries}
    assert set(found) == {"one", "two", "three", "four", "five", "seven"}
    assert found["one"].ledgers[0].groups == ((STEP, 2),)
    assert found["one"].figures == {"epsilon": 1.0, "accuracy": 0.75}
    assert found["one"].overrides == ("seed=4",)
    assert [name for name, each in found.items() if each.unknown] == ["five", "four", "seven", "three"]
    assert [name for name, each in found.items() if not each.private] == ["two"]
    assert found["two"].figures["epsilon"] == math.inf
    assert found["five"].status == found["seven"].status == "unknown"


def test_a_journal_of_another_attempt_is_not_this_ones(tmp_path):
    attempt(tmp_path, "0", "killed")
    with LedgerJournal(tmp_path / "0" / "privacy_ledger" / "attempt_attempt0_0.jsonl", "other") as journal:
        journal.record(LaplaceRelease(1.0), 5)
    assert entry(tmp_path).ledgers[0].groups == ((STEP, 3),)


def test_no_folder_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere"):
        SweepRecord.read(tmp_path / "nowhere")


def test_the_sweeper_is_read(tmp_path):
    (tmp_path / "multirun.yaml").write_text("hydra:\n  sweeper:\n    _target_: a.OptunaSweeper\n")
    assert SweepRecord.read(tmp_path).sweeper == "a.OptunaSweeper"
    assert replace(SweepRecord.read(tmp_path), sweeper="").entries == ()
    assert Accounts("a", ()).covers == "all"


@pytest.mark.parametrize("content", [b"", b"hydra: {sweeper: {a: [", b"- 1", b"hydra: {sweeper: 3}", b"\xff"])
def test_p32_a_sweeper_that_cannot_be_read_may_have_gone_by_results(tmp_path, content):
    (tmp_path / "multirun.yaml").write_bytes(content)
    assert SweepRecord.read(tmp_path).adaptive


@pytest.mark.parametrize("place", [".", "search"])
def test_settings_that_a_search_chose_are_so_whatever_ran_last(tmp_path, place):
    """A grid that is run later in the folder of a search, or beside it, does not undo how its runs were chosen."""
    sweep = tmp_path / place
    sweep.mkdir(exist_ok=True)
    attempt(sweep, "0", "finished", finished=True, steps=3)
    attempt(sweep, "1", "finished", finished=True, steps=4)
    (tmp_path / "multirun.yaml").write_text("hydra: {sweeper: {_target_: hydra.basic_sweeper.BasicSweeper}}\n")
    assert not SweepRecord.read(tmp_path).adaptive
    (sweep / "optuna.jsonl").touch()
    record = SweepRecord.read(tmp_path)
    assert record.adaptive
    assert any("chosen by the results" in text for text in sweep_data(record)["privacy"]["sentences"])
