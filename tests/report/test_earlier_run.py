"""A folder that is used again says nothing of its earlier run, and keeps what that one left."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.accounting.journal import LedgerJournal
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report._run_tree import earlier_folders
from lightning_privacy.report.earlier_run import put_aside
from lightning_privacy.report.ledger_file import write_ledger
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_journals import journal_files
from lightning_privacy.report.run_record import RunRecord

LAST = "elsewhere/last.ckpt"


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
    stays = {"config.yaml", "environment.json", "metrics/privacy_ledger/a1.jsonl"}
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
    put_aside(used, checkpoint=LAST)
    assert [path.name for path in journal_files(used)] == ["a1.jsonl"]


def test_a_run_that_is_resumed_keeps_its_fairness_tables(used):
    before = RunRecord.read(used).fairness
    _weights(used)
    put_aside(used, checkpoint=used / "checkpoints" / "last.ckpt")
    assert RunRecord.read(used).fairness == before != ()
    assert (used / "metrics" / "metrics.csv").exists()


def test_a_run_that_goes_on_from_elsewhere_has_no_tables_of_this_folder(used):
    """One of more steps than it takes would be taken for its last."""
    put_aside(used, checkpoint=LAST)
    assert RunRecord.read(used).fairness == ()
    assert not (used / "metrics" / "metrics.csv").exists()


def _weights(folder):
    """Leave checkpoints and exports of a run, in every place where there can be some."""
    names = (
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics/checkpoints/epoch=1.ckpt", "by_hand.ckpt",
        "lightning_logs/version_0/checkpoints/epoch=0.ckpt", "deployed/manifest.json", "deployed/model.onnx",
        "out/deep/manifest.json", "out/deep/model.safetensors", "models/z.ckpt", "models/a/b/c/d/sharded.ckpt/part_0",
        "a/b/c/d/checkpoints/y.ckpt", ".hidden/best.ckpt",
    )  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return set(names)


def _there(folder, names):
    return {name for name in names if (folder / name).exists()}


def test_weights_of_the_earlier_run_are_not_among_those_that_the_next_one_covers(used):
    names = _weights(used)
    aside = put_aside(used)
    assert _there(used, names) == set()
    assert _there(aside, names) == names
    assert put_aside(used) is None


def test_weights_that_the_next_run_reads_stay(used, monkeypatch):
    names = _weights(used) | {"checkpoints/notes.txt"}
    (used / "checkpoints" / "notes.txt").touch()
    monkeypatch.chdir(used)
    put_aside(used, inputs=["models/z.ckpt", str(used / "checkpoints" / "best.ckpt"), "models/a/b/c/d/sharded.ckpt"])
    read = {"models/z.ckpt", "checkpoints/best.ckpt", "models/a/b/c/d/sharded.ckpt/part_0"}
    assert _there(used, names) == read | {"checkpoints/notes.txt"}


@pytest.mark.parametrize(
    ("place", "sign"), [("runs/day/time", "environment.json"), ("venv", "pyvenv.cfg"), (".git", "HEAD")]
)
def test_weights_of_other_runs_and_of_tools_stay(used, place, sign):
    """As where the run folder is the folder of the whole project."""
    other = used / place / "checkpoints" / "last.ckpt"
    other.parent.mkdir(parents=True)
    other.touch()
    (used / place / sign).touch()
    put_aside(used)
    assert other.exists()


def test_what_is_in_a_folder_of_checkpoints_and_is_not_of_the_run_stays(used):
    stays = {
        "checkpoints/of/another/environment.json", "checkpoints/of/another/checkpoints/last.ckpt",
        "checkpoints/.git/other.ckpt", "checkpoints/hpc_ckpt_1.ckpt", "checkpoints/notes.txt",
    }  # fmt: skip
    goes = {"checkpoints/best.pt", "checkpoints/deep/er/last.safetensors", "checkpoints/parts.ckpt/model.pt"}
    for name in stays | goes:
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        (used / name).touch()
    aside = put_aside(used)
    assert _there(used, stays | goes) == stays
    assert _there(aside, stays | goes) == goes


@pytest.mark.parametrize("name", ["checkpoints", "logs"])
def test_weights_behind_a_link_are_not_moved_and_no_run_is_started_beside_them(used, name):
    elsewhere = used.parent / "of_several_runs"
    elsewhere.mkdir()
    (used / name).symlink_to(elsewhere)
    assert put_aside(used) == used / "earlier_0"
    (elsewhere / "best.ckpt").touch()
    with pytest.raises(ConfigurationError, match=rf"{name}/best.ckpt lies behind a link.*hydra\.run\.dir"):
        put_aside(used)
    # What the next run reads or goes on from, and what is there before the first run.
    assert put_aside(used, inputs=[used / name / "best.ckpt"]) is None
    assert put_aside(used, checkpoint=used / name / "best.ckpt") is None
    (used / "environment.json").unlink()
    assert put_aside(used) is None
    assert (elsewhere / "best.ckpt").exists()


def test_links_to_the_folder_itself_end(used):
    names = _weights(used)
    (used / "again").symlink_to(used)
    (used / "a" / "up").symlink_to(used / "models")
    assert _there(put_aside(used), names) == names


def test_p26_a_journal_that_is_hidden_or_behind_a_link_is_read(used):
    elsewhere = used.parent / "scratch"
    for place in (elsewhere / "privacy_ledger", used / ".logs" / "privacy_ledger"):
        shutil.copytree(used / "metrics" / "privacy_ledger", place)
    (used / "logs").symlink_to(elsewhere)
    found = {path.relative_to(used).as_posix() for path in journal_files(used)}
    assert found == {f"{place}/privacy_ledger/a1.jsonl" for place in (".logs", "logs", "metrics")}


def test_files_of_other_tools_with_the_names_of_ours_stay(used):
    names = {"web/manifest.json", "web/page.html", "pretrained/model.safetensors", "checkpoints/no_weights.py"}
    for name in names:
        (used / name).parent.mkdir(exist_ok=True)
        (used / name).touch()
        os.utime(used / name, (0, 0))
    put_aside(used)
    assert _there(used, names) == names


def test_weights_that_code_of_ones_own_wrote_in_the_earlier_run_go(used):
    names = {"model.pt", "models/z.safetensors", "models/input.pth"}
    for name in names:
        (used / name).parent.mkdir(exist_ok=True)
        (used / name).touch()
    aside = put_aside(used, inputs=[used / "models" / "input.pth"])
    assert _there(used, names) == {"models/input.pth"}
    assert _there(aside, names) == names - {"models/input.pth"}


def test_what_is_said_beside_weights_goes_with_them(used):
    _weights(used)
    for place in ("deployed", "checkpoints", "logs/a/b/version_0"):
        (used / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(used / "audit_canaries.json", used / place / "audit_it.json")
    aside = put_aside(used)
    found = {path.relative_to(aside).as_posix() for path in aside.rglob("audit_it.json")}
    assert found == {f"{place}/audit_it.json" for place in ("deployed", "checkpoints", "logs/a/b/version_0")}
    assert list(used.glob("[!e]*/**/audit_it.json")) == []


def test_weights_alone_are_put_aside_too(tmp_path):
    """As a run without privacy leaves them that was killed."""
    names = _weights(tmp_path)
    assert put_aside(tmp_path) == tmp_path / "earlier_0"
    assert _there(tmp_path, names) == set()


@pytest.mark.parametrize(
    ("word", "stay"),
    [("last", {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}), ("hpc", {"hpc_ckpt_1.ckpt", "by_hand.ckpt"})],
)
def test_what_lightning_looks_for_by_itself_stays(used, word, stay):
    names = _weights(used) | {"hpc_ckpt_1.ckpt"}
    (used / "hpc_ckpt_1.ckpt").touch()
    put_aside(used, checkpoint=word)
    assert _there(used, names) == stay | {"hpc_ckpt_1.ckpt"}


@pytest.mark.parametrize("word", ["last", "hpc"])
def test_a_run_that_finds_nothing_to_go_on_from_starts_anew(used, word):
    names = _weights(used) - {"checkpoints/last.ckpt"}
    (used / "checkpoints" / "last.ckpt").unlink()
    aside = put_aside(used, checkpoint=word)
    assert _there(used, names) == set()
    assert _there(aside, names) == names
    assert journal_files(used) == []


@pytest.mark.parametrize("word", ["best", "registry:model"])
def test_weights_of_the_folder_are_not_what_a_run_goes_on_from(used, word):
    names = _weights(used)
    put_aside(used, checkpoint=word)
    assert _there(used, names) == set()


def test_checkpoints_in_a_folder_of_any_name_beside_the_one_that_a_run_goes_on_from_stay(used):
    names = _weights(used) | {"models/other.ckpt"}
    (used / "models" / "other.ckpt").touch()
    put_aside(used, checkpoint=used / "models" / "z.ckpt")
    assert _there(used, names) == {"models/z.ckpt", "models/other.ckpt"}


def test_checkpoints_beside_the_one_that_a_run_goes_on_from_stay(used, monkeypatch):
    names = _weights(used)
    monkeypatch.chdir(used)
    put_aside(used, checkpoint="checkpoints/last.ckpt")
    assert _there(used, names) == {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    assert (used / "metrics" / "metrics.csv").exists()


@pytest.mark.parametrize("place", ["earlier_0/checkpoints", "../other/checkpoints", "checkpoints_of_another"])
def test_a_run_that_goes_on_from_elsewhere_has_no_weights_of_this_folder(used, place):
    names = _weights(used)
    put_aside(used, checkpoint=used / place / "last.ckpt")
    assert _there(used, names) == set()


def test_p26_a_journal_that_grows_is_one_of_a_later_run(used):
    """A run that goes on from a checkpoint that was put aside writes to the journal that is named in it."""
    put_aside(used)
    place = used / "metrics" / "privacy_ledger"
    assert journal_files(used) == []
    with LedgerJournal(place / "a1.jsonl", "a1") as journal:
        journal.record(SampledGaussian(4.9, 0.35), total_count=5001)
    assert [path.name for path in journal_files(used)] == ["a1.jsonl"]


@pytest.mark.parametrize("content", ["{cut", '["metrics/privacy_ledger/a1.jsonl"]', '{"a": "b"}'])
def test_p26_a_list_of_journals_that_cannot_be_read_leaves_epsilon_unknown(used, content):
    (put_aside(used) / "journals.json").write_text(content)
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(SampledGaussian(8.0, 0.1), label="training")
    write_ledger(used, ledger)
    assert report_data(RunRecord.read(used))["guarantee"]["status"] == "unknown"


def test_each_run_has_a_place_of_its_own(used):
    put_aside(used)
    (used / "ledger.json").write_text("{}")
    assert put_aside(used) == used / "earlier_1"
    assert json.loads((used / "earlier_0" / "ledger.json").read_text())["covers"] == "training"
    # Neither one that was removed nor a file of such a name is in the way.
    shutil.rmtree(used / "earlier_0")
    for name in ("ledger.json", "earlier_2", "earlier_notes.txt"):
        (used / name).write_text("{}")
    assert put_aside(used) == used / "earlier_3"
    assert [path.name for path in earlier_folders(used)] == ["earlier_1", "earlier_3"]


def test_a_new_folder_stays_as_it_is(tmp_path):
    assert put_aside(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
