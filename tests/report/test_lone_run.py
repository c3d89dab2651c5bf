"""A run that went on after its account was written costs a sweep what its journals say."""

from __future__ import annotations

import json

import pytest

from lightning_privacy.accounting import LaplaceRelease, LedgerJournal, PrivacyLedger, SampledGaussian
from lightning_privacy.report import Guarantee, Outcome, RunSummary
from lightning_privacy.report.ledger_file import write_ledger
from lightning_privacy.report.sweep_data import sweep_data
from lightning_privacy.report.sweep_record import SweepRecord
from lightning_privacy.sweeps.attempts import AttemptLog, Ended, Started
from lightning_privacy.sweeps.result import RunResult
from lightning_privacy.sweeps.spending import Spending

STEP = SampledGaussian(1.0, 0.1)


def _spent(steps):
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(LaplaceRelease(0.1), label="counts")
    ledger.charge(STEP, steps, label="training")
    return ledger


def _journal(folder, steps):
    place = folder / "metrics" / "privacy_ledger"
    place.mkdir(parents=True, exist_ok=True)
    with LedgerJournal(place / "c1.jsonl", "c1") as journal:
        journal.record(LaplaceRelease(0.1), total_count=1)
        journal.record(STEP, total_count=steps)
    return place / "c1.jsonl"


def _single(sweep):
    """A run of the command without a sweep."""
    folder, ledger = sweep / "0", _spent(10)
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0")
    write_ledger(folder, ledger)
    RunSummary(Outcome(10, 1.0, {}, {"acc": 0.5}), Guarantee.of(ledger)).write(folder)
    return folder


def _of_sweep(sweep, *, finished=True):
    """A run of a sweep."""
    folder, log, ledger = sweep / "0", AttemptLog(sweep), PrivacyLedger(delta=1e-5)
    folder.mkdir()
    log.write(Started("a1", "0", "c", ()))
    spending = Spending(sweep, folder, "a1")
    spending.watch([ledger, PrivacyLedger(delta=1e-5)])
    ledger.charge(LaplaceRelease(0.1), label="counts")
    ledger.charge(STEP, 10, label="training")
    if finished:
        figures = {"epsilon": ledger.epsilon(exact=True), "accuracy": 0.5}
        RunResult("a1", "c", figures, spending.result()).write(folder)
    log.write(Ended("a1", "finished" if finished else "killed"))
    return folder


def _killed(sweep):
    return _of_sweep(sweep, finished=False)


@pytest.mark.parametrize("run", [_single, _of_sweep, _killed])
def test_p32_steps_that_a_run_took_later_are_counted(tmp_path, run):
    folder = run(tmp_path)
    _journal(folder, 10)
    before = sweep_data(SweepRecord.read(tmp_path))
    assert (before["privacy"]["known"], before["privacy"]["epsilon"]) == (True, _spent(10).epsilon(exact=True))
    _journal(folder, 400)
    after = sweep_data(SweepRecord.read(tmp_path))
    right = _spent(400).epsilon(exact=True)
    assert (after["privacy"]["known"], after["privacy"]["epsilon"]) == (True, pytest.approx(right))
    assert [each["figures"]["epsilon"] for each in after["runs"]] == [pytest.approx(right) for _ in before["runs"]]


@pytest.mark.parametrize("run", [_single, _of_sweep, _killed])
def test_p32_a_journal_that_cannot_be_read_makes_it_unknown(tmp_path, run):
    path = _journal(run(tmp_path), 400)
    path.write_text("{cut\n" + path.read_text())
    privacy = sweep_data(SweepRecord.read(tmp_path))["privacy"]
    assert not privacy["known"]
    assert "c1.jsonl is damaged" in privacy["sentences"][0]


def test_p32_the_data_of_a_run_without_privacy_have_no_steps(tmp_path):
    folder = _single(tmp_path)
    write_ledger(folder, _spent(10), covers="data")
    _journal(folder, 400)
    assert sweep_data(SweepRecord.read(tmp_path))["privacy"]["figure"] == "not private"


def test_p32_an_earlier_attempt_does_not_cost_what_the_last_one_did(tmp_path):
    """Which has journals of its own in the folder."""
    folder = _killed(tmp_path)
    log, ledger = AttemptLog(tmp_path), PrivacyLedger(delta=1e-5)
    log.write(Started("a2", "0", "c", ()))
    spending = Spending(tmp_path, folder, "a2")
    spending.watch([ledger])
    ledger.charge(STEP, 30)
    _journal(folder, 30)
    log.write(Ended("a2", "killed"))
    first, second = SweepRecord.read(tmp_path).entries
    assert dict(first.ledgers[0].groups) == {LaplaceRelease(0.1): 1, STEP: 10}
    assert second.ledgers[0].count(STEP) == 30
    assert json.loads((folder / "privacy_ledger" / "attempt_a2_0.jsonl").read_text().splitlines()[0])["total"] == 30
