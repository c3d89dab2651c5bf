"""A folder is read for what is in it: each fault costs its own part of the report, and is said."""

from __future__ import annotations

import json
import shutil

import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_record import RunRecord

FILES = ["config.yaml", "summary.json", "ledger.json", "environment.json", "classification.json", "metrics/metrics.csv"]


def test_nothing_is_missing_in_a_whole_folder(whole_run):
    record = RunRecord.read(whole_run)
    assert record.missing == ()
    assert sorted(record.audits) == ["audit_canaries.json", "audit_inversion.json"]
    assert [table.attribute for table in record.fairness] == ["gender"]
    assert len(record.metrics["privacy/epsilon"]) == 80
    assert record.settings["seed"] == 0


def test_a_moved_folder_is_as_good(whole_run, tmp_path):
    moved = shutil.copytree(whole_run, tmp_path / "else where" / "moved & renamed")
    mine, theirs = (report_data(RunRecord.read(folder)) for folder in (whole_run, moved))
    assert theirs["run"].pop("name") == "moved & renamed"
    mine["run"].pop("name")
    assert mine == theirs


def test_the_folder_of_a_logger_is_a_folder_of_a_run(run_copy):
    """Whoever has a trainer of their own finds metrics, audits and tables where Lightning's CSV logger writes."""
    (run_copy / "audit_canaries.json").rename(run_copy / "metrics" / "audit_canaries.json")
    assert sorted(RunRecord.read(run_copy).audits) == ["audit_inversion.json", "metrics/audit_canaries.json"]
    record = RunRecord.read(run_copy / "metrics")
    assert list(record.audits) == ["audit_canaries.json"]
    assert len(record.metrics["privacy/epsilon"]) == 80
    assert [table.attribute for table in record.fairness] == ["gender"]
    assert not [sentence for sentence in record.missing if "metrics" in sentence]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_costs_its_part_only(run_copy, name):
    before = report_data(RunRecord.read(run_copy))
    (run_copy / name).unlink()
    record = RunRecord.read(run_copy)
    (sentence,) = record.missing
    assert sentence.startswith(f"{name} is missing")
    after = report_data(record)
    same = {part for part in after if after[part] == before[part]}
    assert len(same) >= len(after) - 6
    assert sentence in after["missing"]


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")] + ["preparation.json"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is no JSON"),
        (b'{"version": 1, "epsi', "is no JSON"),
        (b"\xff\xfe\x00", "can't be read"),
        (b"[1, 2]", "holds a list"),
        (b"[" * 100_000, "is no JSON"),
    ],
    ids=["empty", "cut off", "no text", "list", "deep"],
)
def test_a_damaged_file_costs_its_part_only(run_copy, name, content, word):
    (run_copy / name).write_bytes(content)
    record = RunRecord.read(run_copy)
    assert [sentence for sentence in record.missing if name in sentence and word in sentence]
    assert len(record.missing) == 1
    report_data(record)


@pytest.mark.parametrize("name", ["ledger.json", "environment.json", "classification.json"])
def test_a_file_of_another_version_is_named_with_it(run_copy, name):
    values = json.loads((run_copy / name).read_text())
    (run_copy / name).write_text(json.dumps(values | {"version": 7}))
    (sentence,) = RunRecord.read(run_copy).missing
    assert f"{name} is of version 7" in sentence


def test_a_run_of_another_version_of_the_package_is_named(run_copy):
    values = json.loads((run_copy / "environment.json").read_text())
    (run_copy / "environment.json").write_text(json.dumps(values | {"lightning_privacy": "9.9.9"}))
    (sentence,) = report_data(RunRecord.read(run_copy))["missing"]
    assert "made by lightning_privacy 9.9.9" in sentence


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "holds no figures"),
        ("epoch,step\n0,1\n", "holds no figures"),
        ("epoch,step,loss\n0,1,0.5\n0,2,nan\n0,x,3\n0,3,0.", None),
        ("epoch,step,loss\n0,1,0.5\n0,2\n", None),
        ('epoch,step,loss\n0,1,0.5\n0,2,"' + "9" * (2**20 + 5), "can't be read to its end"),
    ],
    ids=["empty", "no figures", "not finite", "short line", "endless field"],
)
def test_metrics_are_read_as_far_as_they_go(run_copy, content, word):
    (run_copy / "metrics" / "metrics.csv").write_text(content)
    record = RunRecord.read(run_copy)
    assert bool(record.missing) == (word is not None)
    assert word is None or word in record.missing[0]
    if "0.5" in content:
        assert record.metrics["loss"][0] == (1.0, 0.5)


def test_a_config_that_is_no_yaml_is_shown_as_it_is(run_copy):
    (run_copy / "config.yaml").write_text("a: [1, 2\nb: }")
    record = RunRecord.read(run_copy)
    assert "config.yaml is no YAML" in record.missing[0]
    assert record.config.startswith("a: [1, 2")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"version": 2}',
        '{"version": 1, "kind": "magic"}',
        '{"version": 1, "kind": ["canaries"]}',
        "[" * 99999,
    ],
    ids=["cut off", "list", "version", "kind", "kind list", "deep"],
)
def test_an_audit_that_cannot_be_read_is_left_out(run_copy, content):
    (run_copy / "audit_other.json").write_text(content)
    record = RunRecord.read(run_copy)
    assert len(record.audits) == 2
    assert "audit_other.json can't be read" in record.missing[0]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "stage,epoch\n"], ids=["empty", "other columns", "few columns"])
def test_a_fairness_table_that_cannot_be_read_is_left_out(run_copy, content):
    (run_copy / "metrics" / "fairness" / "test-step=80.csv").write_text(content)
    record = RunRecord.read(run_copy)
    assert record.fairness == ()
    assert "test-step=80.csv can't be read" in record.missing[0]


def test_of_several_fairness_tables_the_tests_last_is_shown(run_copy):
    folder = run_copy / "metrics" / "fairness"
    text = (folder / "test-step=80.csv").read_text()
    for name in ("val-step=99", "test-step=9", "test-step=80-v1", "test-step=80-v2"):
        marked = text.replace("gender", name)
        (folder / f"{name}.csv").write_text(marked)
    assert [table.attribute for table in RunRecord.read(run_copy).fairness] == ["test-step=80-v2"]


@pytest.mark.parametrize("folder", ["nowhere", "file"])
def test_what_is_no_folder_is_refused(tmp_path, folder):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        ConfigurationError, match=r"folder must be the folder of a run, and .* (is a file|does not exist)"
    ):
        RunRecord.read(tmp_path / folder)


def test_an_empty_folder_gives_a_report_that_claims_nothing(tmp_path):
    data = report_data(RunRecord.read(tmp_path))
    assert data["guarantee"]["status"] == "unknown"
    assert data["guarantee"]["epsilon"] is None
    assert len(data["missing"]) == 7
