"""The end of a run: the report is made, and nothing that goes wrong with it loses the run."""

from __future__ import annotations

import json
import logging

import pytest

from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.data import DigitsDataModule
from lightning_privacy.preparation.preparation_report import PreparationReport
from lightning_privacy.preparation.step import StepReport
from lightning_privacy.report import Guarantee, Outcome, RunSummary, run_files
from lightning_privacy.report.ledger_file import read_ledger


@pytest.fixture(scope="module")
def ledger():
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(SampledGaussian(noise_multiplier=8.0, sample_rate=0.1), count=3, label="training")
    return ledger


class _Prepared(DigitsDataModule):
    preparation_report = PreparationReport((StepReport("drop", 10, 9),), peak_memory=1)
    counts = {"train": 9}  # noqa: RUF012


def test_a_run_ends_with_its_report(ledger, tmp_path):
    page = run_files.finish_run(tmp_path, ledger=ledger, datamodule=_Prepared())
    assert page == tmp_path / "report.html"
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["guarantee"]["epsilon"] == ledger.epsilon(exact=True)
    assert data["preparation"]["steps"][0]["rows_after"] == 9
    assert data["preparation"]["counts"] == {"train": 9}


def test_data_that_were_not_prepared_have_no_part(tmp_path):
    run_files.finish_run(tmp_path, ledger=None, datamodule=DigitsDataModule())
    assert not (tmp_path / "preparation.json").exists()
    assert not (tmp_path / "ledger.json").exists()
    assert json.loads((tmp_path / "report.json").read_text())["preparation"] is None


@pytest.mark.parametrize("error", [RuntimeError("no ink"), OSError(28, "No space left on device"), RecursionError()])
def test_a_report_that_cannot_be_made_loses_no_run(ledger, tmp_path, monkeypatch, caplog, error):
    def fail(folder):
        raise error

    monkeypatch.setattr(run_files, "make_report", fail)
    with caplog.at_level(logging.WARNING):
        assert run_files.finish_run(tmp_path, ledger=ledger) is None
    assert "the report could not be written" in caplog.text
    assert f"lightning-privacy report {tmp_path}" in caplog.text
    assert read_ledger(tmp_path / "ledger.json").history == ledger.history


def test_what_else_goes_wrong_loses_no_report(ledger, tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise RuntimeError("not today")

    monkeypatch.setattr(run_files, "write_preparation", fail)
    monkeypatch.setattr(run_files, "log_report", fail)
    assert run_files.finish_run(tmp_path, ledger=ledger, datamodule=_Prepared()) == tmp_path / "report.html"
    assert "the preparation of the data could not be written (not today)" in caplog.text
    assert "the report at the loggers could not be written (not today)" in caplog.text


def test_what_was_spent_is_kept_when_a_run_fails(ledger, tmp_path, caplog):
    run_files.keep_ledger(tmp_path, ledger)
    assert json.loads((tmp_path / "ledger.json").read_text())["complete"] is False
    run_files.keep_ledger(tmp_path / "nowhere", ledger)
    assert "the ledger could not be written" in caplog.text
    run_files.keep_ledger(tmp_path / "nowhere", None)


def test_a_run_without_a_ledger_is_not_private_by_that_of_an_earlier_one(ledger, tmp_path):
    outcome = Outcome(3, 1.0, {}, {})
    RunSummary(outcome, Guarantee.of(ledger)).write(tmp_path)
    run_files.finish_run(tmp_path, ledger=ledger)
    RunSummary(outcome).write(tmp_path)
    run_files.finish_run(tmp_path, ledger=None)
    assert not (tmp_path / "ledger.json").exists()
    assert json.loads((tmp_path / "report.json").read_text())["guarantee"]["status"] == "none"
