"""Where the record of a sweep lacks something, its epsilon is not known."""

from __future__ import annotations

import pytest

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
from lightning_privacy.report.sweep_data import sweep_data
from lightning_privacy.report.sweep_record import SweepRecord
from lightning_privacy.sweeps.attempts import LOG_NAME, AttemptLog, Ended, Started
from lightning_privacy.sweeps.result import RunResult
from lightning_privacy.sweeps.spending import Spending


def _sweep(folder, nest=""):
    """Two runs: one was killed once and done again, the other finished at once."""
    folder.mkdir(exist_ok=True)
    for run, attempt, finished in (("0", "a1", False), ("0", "a2", True), ("1", "b1", True)):
        name, log, ledger = f"{nest}{run}", AttemptLog(folder), PrivacyLedger(delta=1e-5)
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        log.write(Started(attempt, name, "c"))
        spending = Spending(folder, place, attempt)
        spending.watch([ledger])
        ledger.charge(GaussianRelease(4.0), 3)
        (place / "config.yaml").write_text("seed: 0\n")
        if finished:
            RunResult(attempt, "c", {"epsilon": 1.0, "accuracy": 0.9}, spending.result()).write(place)
        else:
            (place / "earlier_0").mkdir()
            (place / "config.yaml").rename(place / "earlier_0" / "config.yaml")
        log.write(Ended(attempt, "finished" if finished else "killed"))


def _privacy(folder):
    return sweep_data(SweepRecord.read(folder))["privacy"]


@pytest.mark.parametrize("nest", ["", "lr=0.1/"])
def test_p32_a_whole_record_is_known(tmp_path, nest):
    _sweep(tmp_path, nest)
    privacy = _privacy(tmp_path)
    assert privacy["known"]
    assert privacy["epsilon"] > 0


@pytest.mark.parametrize("nest", ["", "lr=0.1/"])
def test_p32_without_the_list_of_attempts_it_is_not(tmp_path, nest):
    _sweep(tmp_path, nest)
    (tmp_path / LOG_NAME).unlink()
    privacy = _privacy(tmp_path)
    assert not privacy["known"]
    assert privacy["figure"].startswith("unknown, at least")
    assert any("attempt_a1_0.jsonl" in sentence for sentence in privacy["sentences"])


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(lambda line: b'"a1"' in line and b'"accounts"' in line[:25], id="accounts"),
        pytest.param(lambda line: b'"a1"' in line, id="attempt"),
        pytest.param(lambda line: b'"b1"' in line, id="run"),
    ],
)
def test_p32_a_line_that_is_gone_makes_it_unknown(tmp_path, lost):
    _sweep(tmp_path)
    path = tmp_path / LOG_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not lost(line)]
    assert len(kept) < len(lines)
    path.write_bytes(b"".join(kept))
    assert not _privacy(tmp_path)["known"]


def _with_journals(folder, listed="0"):
    """As an attempt leaves it that found journals of an earlier one: the sweep has moved all else before."""
    aside = folder / listed / "earlier_1"
    aside.mkdir()
    (aside / "journals.json").write_text('{"privacy_ledger/a1.jsonl": 70}')
    return aside


def test_p32_a_list_of_journals_is_no_further_attempt(tmp_path):
    _sweep(tmp_path)
    aside = _with_journals(tmp_path)
    assert _privacy(tmp_path)["known"]
    (aside / "ledger.json").write_text("{}")
    assert not _privacy(tmp_path)["known"]


def test_p32_what_a_desktop_leaves_beside_a_list_of_journals_is_no_attempt(tmp_path):
    _sweep(tmp_path)
    aside = _with_journals(tmp_path)
    (aside / ".DS_Store").touch()
    assert _privacy(tmp_path)["known"]
    (aside / "config.yaml").touch()
    assert "Run 0 had more attempts than are counted." in _privacy(tmp_path)["sentences"]


@pytest.mark.parametrize("run", ["0", "1"])
def test_p32_only_a_folder_with_a_number_is_what_an_attempt_left(tmp_path, run):
    """Run 0 has one of an attempt that is counted, and run 1 has none."""
    _sweep(tmp_path)
    (tmp_path / run / "earlier_notes.txt").write_text("lr was too high\n")
    (tmp_path / run / "earlier_7").touch()
    (tmp_path / run / "earlier_plots").mkdir()
    assert _privacy(tmp_path)["known"]
    (tmp_path / run / "earlier_8").mkdir()
    privacy = _privacy(tmp_path)
    assert not privacy["known"]
    assert f"Run {run} had more attempts than are counted." in privacy["sentences"]


def test_p32_beside_a_run_of_no_sweep_it_is_one(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "0" / "environment.json").write_text("{}")
    _with_journals(tmp_path)
    assert "Run 0 had more attempts than are counted." in _privacy(tmp_path)["sentences"]


def test_p32_a_journal_without_a_run_is_one_of_an_attempt(tmp_path):
    _sweep(tmp_path)
    other = tmp_path / "x" / "y" / "privacy_ledger"
    other.mkdir(parents=True)
    (other / "abc.jsonl").write_text("")
    assert not _privacy(tmp_path)["known"]


def test_p32_an_empty_folder_says_nothing(tmp_path):
    privacy = _privacy(tmp_path)
    assert (privacy["known"], privacy["figure"]) == (False, "unknown")


def test_p32_sweeps_in_a_folder_are_counted(tmp_path):
    _sweep(tmp_path / "first")
    one = _privacy(tmp_path)
    _sweep(tmp_path / "second")
    both = _privacy(tmp_path)
    assert one["known"]
    assert both["known"]
    assert both["epsilon"] > one["epsilon"]
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "selection.json").write_text("{}")
    assert not _privacy(tmp_path)["known"]
