"""A folder that is used again says nothing of its earlier run, and keeps what that one left."""

from __future__ import annotations

import json
import shutil

import pytest

from lightning_privacy.accounting import SampledGaussian
from lightning_privacy.accounting.journal import LedgerJournal
from lightning_privacy.report.earlier_run import put_aside
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_journals import journal_files
from lightning_privacy.report.run_record import RunRecord


@pytest.fixture
def used(run_copy):
    for name in ("report.html", "report.json", "model_card.md", "finished.json"):
        (run_copy / name).write_text("of the earlier run")
    shutil.copy(run_copy / "audit_canaries.json", run_copy / "metrics" / "audit_again.json")
    with_journal = run_copy / "metrics" / "privacy_ledger"
    with_journal.mkdir()
    with LedgerJournal(with_journal / "a1.jsonl", "a1") as journal:
        journal.record(SampledGaussian(4.9, 0.35), total_count=5000)
    return run_copy


def test_nothing_of_the_earlier_run_is_taken_for_the_next(used):
    before = {path.relative_to(used).as_posix() for path in used.rglob("*") if path.is_file()}
    aside = put_aside(used)
    stays = {"config.yaml", "environment.json", "metrics/metrics.csv", "metrics/privacy_ledger/a1.jsonl"}
    assert any(name.startswith("metrics/fairness/") for name in before)
    after = {path.relative_to(used).as_posix() for path in used.rglob("*") if path.is_file()}
    assert after - {"earlier_0/journals.json"} == stays | {f"earlier_0/{name}" for name in before - stays}
    assert aside == used / "earlier_0"
    record = RunRecord.read(used)
    assert (record.ledger, record.summary, dict(record.audits), record.fairness) == (None, None, {}, ())
    assert report_data(record)["guarantee"]["status"] == "unknown"


def test_p26_the_next_run_is_charged_for_its_own_journal_alone(used):
    place = used / "metrics" / "privacy_ledger"
    assert [path.name for path in journal_files(used)] == ["a1.jsonl"]
    put_aside(used)
    shutil.copy(place / "a1.jsonl", place / "b2.jsonl")
    assert [path.name for path in journal_files(used)] == ["b2.jsonl"]


def test_p26_a_run_that_is_resumed_keeps_its_journal(used):
    put_aside(used, resumed=True)
    assert [path.name for path in journal_files(used)] == ["a1.jsonl"]


def test_a_run_that_is_resumed_keeps_its_fairness_tables(used):
    before = RunRecord.read(used).fairness
    put_aside(used, resumed=True)
    assert RunRecord.read(used).fairness == before != ()


def test_each_run_has_a_place_of_its_own(used):
    put_aside(used)
    (used / "ledger.json").write_text("{}")
    assert put_aside(used) == used / "earlier_1"
    assert json.loads((used / "earlier_0" / "ledger.json").read_text())["covers"] == "training"


def test_a_new_folder_stays_as_it_is(tmp_path):
    assert put_aside(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
