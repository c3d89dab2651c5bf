"""``lightning-privacy report``: what it prints, leaves behind and returns."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import jsonschema
import pytest

from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.cli import main
from lightning_privacy.report.command import report_command
from lightning_privacy.report.make_report import report_schema


def test_a_report_is_made_again(run_copy, capsys):
    assert report_command([str(run_copy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [str(run_copy / name) for name in ("report.html", "report.json", "model_card.md")]
    jsonschema.validate(json.loads((run_copy / "report.json").read_text()), report_schema())


def test_what_is_missing_is_said_and_the_rest_is_made(run_copy, tmp_path, capsys):
    (run_copy / "metrics" / "metrics.csv").unlink()
    assert report_command([str(run_copy), "--into", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("* metrics/metrics.csv is missing (logger=csv writes it)")
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (run_copy / "report.html").exists()


def test_a_broken_audit_is_an_exit_status(run_copy, capsys):
    AuditResult(kind="canaries", title="c", verdict="broken", sentence="s").write(run_copy)
    assert report_command([str(run_copy)]) == 3
    assert "contradicts the guarantee" in capsys.readouterr().err
    assert (run_copy / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [(["nowhere"], 1, "nowhere does not exist"), ([], 2, "the folder of a run is needed"), (["--into"], 2, "--into")],
)
def test_errors_are_one_line(tmp_path, monkeypatch, capsys, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    assert report_command(arguments) == status
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_no_run_wrote_to_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert report_command([str(tmp_path)]) == 1
    assert "holds nothing that a run leaves" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_folder_of_a_sweep_is_sent_to_its_own_command(tmp_path, run_copy, capsys):
    shutil.copytree(run_copy, tmp_path / "sweep" / "0")
    assert report_command([str(tmp_path / "sweep")]) == 1
    assert f"lightning-privacy sweep-report {tmp_path / 'sweep'}" in capsys.readouterr().err


@pytest.mark.parametrize("kept", ["config.yaml", "ledger.json", "summary.json", "metrics", "environment.json"])
def test_one_file_of_a_run_is_enough(run_copy, tmp_path, kept, capsys):
    (tmp_path / "other").mkdir()
    shutil.move(run_copy / kept, tmp_path / "other" / kept)
    assert report_command([str(tmp_path / "other")]) == 0, capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_named(run_copy, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert report_command([str(run_copy), "--into", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_the_schema_is_printed(capsys):
    assert report_command(["--schema"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_the_main_command_knows_it(run_copy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-privacy", "report", str(run_copy)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "report.html" in capsys.readouterr().out


def test_no_display_no_fonts_and_no_home_are_needed(run_copy):
    """In an environment with nothing in it but the interpreter."""
    program = "import sys; from lightning_privacy.report.command import report_command as r; sys.exit(r(sys.argv[1:]))"
    environment = {"PATH": "/nowhere", "OMP_NUM_THREADS": "1", "HOME": "/nowhere", "FONTCONFIG_PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(run_copy)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (run_copy / "report.html").is_file()
