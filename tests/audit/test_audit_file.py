"""The file of an audit is what was measured, complete, and says so where it can't be read."""

from __future__ import annotations

import json
import os

import pytest

from lightning_privacy.audit.audit_file import AuditCurve, AuditImage, AuditResult
from lightning_privacy.errors import ConfigurationError


def _result(**changes):
    plain = {
        "kind": "membership",
        "title": "Who was in",
        "verdict": "broken",
        "sentence": "An attacker could tell.",
        "rows": [("AUC", "0.9"), ("advantage", 0.5)],
        "curves": [AuditCurve("ROC", [0.0, 0.5, 1.0], [0, 1, 1], x_label="FPR", y_label="TPR", log=True)],
        "images": [AuditImage("found", [[0.0, 1.0], [0.5, 0.25]])],
        "extra": {"auc": 0.9, "seeds": [1, 2]},
    }
    return AuditResult(**plain | changes)


def test_what_is_read_is_what_was_written(tmp_path):
    result = _result()
    path = result.write(tmp_path / "run", name="lira-1")
    assert path == tmp_path / "run" / "audit_lira-1.json"
    assert AuditResult.read(path) == result
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    content = json.loads(path.read_text())
    assert content["version"] == 1
    assert content["rows"] == [["AUC", "0.9"], ["advantage", "0.5"]]
    assert content["curves"][0]["x"] == [0.0, 0.5, 1.0]
    assert content["images"] == [{"label": "found", "rows": [[0.0, 1.0], [0.5, 0.25]]}]
    assert content["auc"] == 0.9


def test_the_kind_names_the_file_and_a_second_replaces_it(tmp_path):
    _result().write(tmp_path)
    path = _result(sentence="Now.").write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["audit_membership.json"]
    assert AuditResult.read(path).sentence == "Now."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "guess"}, "kind must be one of"),
        ({"verdict": "good"}, "verdict must be one of"),
        ({"extra": {"rows": []}}, "keys of the file itself, got rows"),
    ],
)
def test_what_is_no_audit_is_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        _result(**changes)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_stays_in_the_folder(tmp_path, name):
    with pytest.raises(ConfigurationError, match="name must be made of"):
        _result().write(tmp_path / "run", name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()], ids=["nan", "inf", "object"])
def test_what_json_does_not_have_is_refused_and_leaves_nothing(tmp_path, value):
    with pytest.raises(ConfigurationError, match="extra must be plain values"):
        _result(extra={"value": value}).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_curves_and_images_have_finite_numbers_of_one_length():
    with pytest.raises(ConfigurationError, match="2 values of x and 1 of y"):
        AuditCurve("ROC", [0, 1], [0])
    with pytest.raises(ConfigurationError, match="finite"):
        AuditCurve("ROC", [0], [float("nan")])
    with pytest.raises(ConfigurationError, match="rows of one length"):
        AuditImage("picture", [[0.0], [0.0, 1.0]])
    with pytest.raises(ConfigurationError, match=r"values in \[0, 1\]"):
        AuditImage("picture", [[1.5]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "audit_x.json: "),
        ("[]", "must be a JSON object, got list"),
        ('{"version": 2}', "version 2 can't be read"),
        ('{"version": 1, "title": "t"}', "must have 'kind'"),
        (
            '{"version": 1, "kind": "canaries", "title": "", "verdict": "holds", "sentence": "", "rows": [1]}',
            "part that can't be read",
        ),
    ],
    ids=["damaged", "list", "version", "missing", "type"],
)
def test_a_file_that_is_no_audit_is_named(tmp_path, text, message):
    path = tmp_path / "audit_x.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        AuditResult.read(path)
    assert str(path) in str(caught.value)


def test_a_result_is_for_those_whom_the_user_lets_read(tmp_path):
    before = os.umask(0o077)
    try:
        path = _result().write(tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
