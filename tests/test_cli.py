"""The command, as a person types it: what it prints, what it leaves behind, how it fails.

One process imports the package once and forks for each call, since the import takes seconds; each call has its
own working folder, arguments, environment and output.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.accounting.sweep import SWEEP_CAVEAT
from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.report.ledger_file import write_ledger

_DRIVER = """
import json, os, resource, signal, sys
from lightning_privacy.cli import main

for call in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        os.chdir(call["folder"])
        for descriptor, path in ((1, call["out"]), (2, call["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        os.environ.update(call["environment"])
        if call["largest_file"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (call["largest_file"],) * 2)
        sys.argv = ["lightning-privacy", *call["arguments"]]
        code = 70
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
# Two epochs of a few steps: enough for every part of a run to happen.
_SHORT = ("trainer.max_epochs=2", "data.batch_size=720")


@dataclass(frozen=True)
class Call:
    """What one call of the command did."""

    code: int
    out: str
    err: str
    folder: Path


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> dict[str, Call]:
    base = tmp_path_factory.mktemp("calls")
    (base / "cut.ckpt").write_bytes(b"PK\x03\x04 half a checkpoint")
    torch.save({"weight": torch.zeros(3)}, base / "foreign.ckpt")
    (base / "file").write_text("not a folder")
    last = f"ckpt_path={base}/private/run/checkpoints/last.ckpt"
    arguments = {
        "private": ["hydra.run.dir=run", *_SHORT],
        "resumed": [
            "hydra.run.dir=run",
            *_SHORT,
            "trainer.max_epochs=3",
            "callbacks.privacy.epsilon=null",
            "callbacks.privacy.noise_multiplier=4",
            "compare_nonprivate=false",
        ],
        "without": ["hydra.run.dir=run", *_SHORT, "callbacks=none", "+start=run/weights/base.ckpt"],
        "sweep": ["-m", *_SHORT, "trainer.max_epochs=1", "compare_nonprivate=false", "callbacks.privacy.epsilon=2,4"],
        "unknown key": ["callbacks.privacy.epsilonn=8"],
        "unknown option": ["data=cifar"],
        "unknown argument": ["+callbacks.privacy.epsilonn=8"],
        "bad epsilon": ["callbacks.privacy.epsilon=-1"],
        "bad seed": ["seed=often"],
        "cut": [f"ckpt_path={base}/cut.ckpt"],
        "foreign": [f"ckpt_path={base}/foreign.ckpt"],
        "absent": [f"ckpt_path={base}/absent.ckpt"],
        "other model": [last, "model=papernot_cnn"],
        "full disk": ["hydra.run.dir=run", *_SHORT, "compare_nonprivate=false"],
        "no folder": [f"hydra.run.dir={base}/file/run"],
        "null group": ["experiment=persona", "deploy=null"],
        "trace": ["callbacks.privacy.epsilon=-1"],
        "keys": ["--cfg", "job"],
    }
    arguments["resumed"].append(last.replace("private/run", "started/run"))
    # The run that is resumed has a fixed noise multiplier: its limit may then be moved.
    started = [argument for argument in arguments["resumed"] if not argument.startswith("ckpt_path")]
    named = [f"+start={base}/foreign.ckpt", "+later=run/none.ckpt"]
    arguments = {"started": [*started, "trainer.max_epochs=2", *named], **arguments}
    requests = []
    for name, given in arguments.items():
        folder = base / name.replace(" ", "_")
        folder.mkdir()
        requests.append({
            "folder": str(folder), "arguments": given, "out": f"{folder}.out", "err": f"{folder}.err",
            "environment": {"HYDRA_FULL_ERROR": "1"} if name == "trace" else {},
            "largest_file": 400_000 if name == "full disk" else None,
        })  # fmt: skip
    _leave_an_earlier_run(base / "without" / "run")
    driver = subprocess.run(
        [sys.executable, "-c", _DRIVER], input=json.dumps(requests), capture_output=True, text=True, check=True
    )
    codes = [int(line) for line in driver.stdout.split()]
    return {
        name: Call(code, Path(request["out"]).read_text(), Path(request["err"]).read_text(), Path(request["folder"]))
        for name, code, request in zip(arguments, codes, requests, strict=True)
    }


def _leave_an_earlier_run(folder: Path) -> None:
    folder.mkdir()
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(SampledGaussian(2.0, 0.02), count=100, label="training")
    write_ledger(folder, ledger)
    AuditResult(kind="canaries", title="a", verdict="broken", sentence="9 was shown.").write(folder)
    (folder / "weights").mkdir()
    for name in ("base.ckpt", "best.ckpt"):
        (folder / "weights" / name).touch()


def _rows(call: Call) -> dict[str, list[str]]:
    """The table at the end, by the name of the row."""
    _, _, end = call.out.rpartition("\nResult")  # the plan at the start is a table too
    lines = [line.split("│") for line in end.splitlines() if "│" in line]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}


def test_a_private_run_ends_with_the_table(calls):
    call = calls["private"]
    assert call.code == 0, call.err
    rows = _rows(call)
    assert list(rows) == [
        "epsilon", "delta", "noise multiplier", "sample rate", "steps", "train accuracy", "test accuracy",
        "seconds of training",
    ]  # fmt: skip
    assert rows["epsilon"] == ["3.000", "-"]
    assert rows["delta"] == ["1e-05", "-"]
    assert float(rows["sample rate"][0]) == pytest.approx(720 / 1437, abs=1e-3)
    assert rows["steps"][0] == rows["steps"][1] == "4"
    assert all(value.endswith("%") for value in rows["train accuracy"] + rows["test accuracy"])


def test_a_private_run_prints_nothing_but_what_helps(calls):
    """No warning, no advice, no trace; two progress lines for each training, the headings, the table, the notes."""
    call = calls["private"]
    assert call.err == ""
    lines = [line for line in call.out.splitlines() if "│" not in line and "┃" not in line and "━" not in line]
    starts = [" ".join(line.split()[:2]) for line in lines if line.strip()]
    assert starts == [
        "Run folder:", "Training with", "Plan of", "Gradients of", "epoch 1", "epoch 2",
        "Training the", "epoch 1", "epoch 2", "Result", "* Training", "* Logged", "* The",
        "Config, metrics,", f"Report: {call.folder}/run/report.html",
    ]  # fmt: skip
    assert "privacy/epsilon" in call.out


def test_the_run_folder_has_config_metrics_checkpoints_and_summary(calls):
    folder = calls["private"].folder / "run"
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "checkpoints", "classification.json", "config.yaml", "environment.json", "ledger.json", "metrics",
        "model_card.md", "report.html", "report.json", "run.log", "summary.json", "summary.txt",
    ]  # fmt: skip
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    with (folder / "metrics" / "metrics.csv").open() as file:
        columns = set(next(csv.reader(file)))
    assert {"privacy/epsilon", "train/loss", "train/acc", "val/acc", "test/acc"} <= columns
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["guarantee"]["epsilon"] == pytest.approx(3.0, abs=0.01)
    assert summary["guarantee"]["epsilon"] <= 3.0
    assert summary["outcome"]["steps"] == summary["guarantee"]["steps"] == 4
    assert "zero-out" in (folder / "summary.txt").read_text()
    assert "epsilon: 3.0" in (folder / "config.yaml").read_text()


def test_the_report_says_what_the_run_was(calls):
    statuses = {}
    for name in ("private", "resumed", "without"):
        folder = calls[name].folder / "run"
        data = json.loads((folder / "report.json").read_text())
        statuses[name] = data["guarantee"]["status"]
        assert data["missing"] == []
        assert data["classification"]["examples"] == 270
        assert (folder / "report.html").stat().st_size < 2_000_000
    assert statuses == {"private": "private", "resumed": "private", "without": "none"}
    data = json.loads((calls["private"].folder / "run" / "report.json").read_text())
    summary = json.loads((calls["private"].folder / "run" / "summary.json").read_text())
    assert data["guarantee"]["epsilon"] == pytest.approx(summary["guarantee"]["epsilon"])
    assert data["environment"]["command"][1:] == ["trainer.max_epochs=2", "data.batch_size=720"]
    assert [curve["label"] for curve in data["epsilon_curves"]] == ["privacy/epsilon"]
    assert data["results"]["test"]["acc"] == summary["outcome"]["test"]["acc"]


def test_weights_that_a_private_run_starts_from_are_told_as_not_covered(calls):
    folder = calls["started"].folder
    caveats = json.loads((folder / "run" / "ledger.json").read_text())["caveats"]
    (told,) = [caveat for caveat in caveats if "checkpoint" in caveat]
    assert f"{folder.parent}/foreign.ckpt, which was there before this run" in told


def test_a_run_in_a_folder_of_another_says_nothing_of_that_one(calls):
    folder = calls["without"].folder / "run"
    assert not (folder / "ledger.json").exists()
    assert json.loads((folder / "report.json").read_text())["audits"] == []
    aside = {path.relative_to(folder).as_posix() for path in folder.glob("earlier_0/**/*") if path.is_file()}
    assert aside == {f"earlier_0/{name}" for name in ("audit_canaries.json", "ledger.json", "weights/best.ckpt")}
    # The config of this run has its name.
    assert [path.name for path in (folder / "weights").iterdir()] == ["base.ckpt"]
    assert f"earlier run left in this folder is now in {folder}/earlier_0" in calls["without"].out
    assert "earlier run" not in calls["private"].out
    assert "earlier_0" not in [path.name for path in (calls["private"].folder / "run").iterdir()]


def test_a_run_that_failed_keeps_its_ledger(calls):
    ledger = json.loads((calls["full disk"].folder / "run" / "ledger.json").read_text())
    assert ledger["complete"] is False
    assert ledger["epsilon"] > 0


def test_a_run_without_privacy_says_so_and_claims_no_epsilon(calls):
    call = calls["without"]
    assert call.code == 0, call.err
    assert "Training without differential privacy" in call.out
    assert "* This model was trained without differential privacy." in call.out
    assert "epsilon" not in _rows(call)


def test_a_resumed_run_counts_the_steps_before_it(calls):
    started, resumed = calls["started"], calls["resumed"]
    assert started.code == resumed.code == 0, resumed.err
    assert _rows(started)["steps"] == ["4"]
    assert _rows(resumed)["steps"] == ["6"]
    epsilons = [float(_rows(call)["epsilon"][0]) for call in (started, resumed)]
    assert epsilons[0] < epsilons[1]
    assert resumed.err == ""
    summary = json.loads((resumed.folder / "run" / "summary.json").read_text())
    assert summary["guarantee"]["steps"] == 6


def test_a_sweep_has_a_folder_for_each_run(calls):
    call = calls["sweep"]
    assert call.code == 0, call.err
    (sweep,) = (call.folder / "runs").iterdir()
    epsilons = [json.loads((sweep / job / "summary.json").read_text())["guarantee"]["epsilon"] for job in "01"]
    assert epsilons == [pytest.approx(2.0, abs=0.01), pytest.approx(4.0, abs=0.01)]


def test_p32_each_run_of_a_sweep_says_that_the_sweep_costs_more(calls):
    (sweep,) = (calls["sweep"].folder / "runs").iterdir()
    for job in "01":
        summary = json.loads((sweep / job / "summary.json").read_text())
        assert SWEEP_CAVEAT in summary["guarantee"]["caveats"]
        assert f"* {SWEEP_CAVEAT}" in " ".join((sweep / job / "summary.txt").read_text().split())
    assert calls["sweep"].out.count(SWEEP_CAVEAT) >= 2


def test_p32_a_sweep_ends_with_its_runs_and_what_they_cost_together(calls):
    end = calls["sweep"].out.rpartition("Sweep sweep_")[2]
    runs = [[cell.strip() for cell in line.split("│")[:2]] for line in end.splitlines()[3:5]]
    assert runs == [["0", "2"], ["1", "4"]]
    assert "Epsilon of the sweep as a whole: " in end
    assert "Report of the sweep: " in end


def test_a_group_that_is_set_to_null_has_a_message(calls):
    assert calls["null group"].code == 1
    assert calls["null group"].err.startswith("error: a group of the config can't be set to null")
    assert "Traceback" not in calls["null group"].err
    assert SWEEP_CAVEAT not in calls["private"].out


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unknown key", ["'callbacks.privacy.epsilonn'", "lightning-privacy --cfg job"]),
        ("unknown option", ["'data/cifar'", "digits", "fashion_mnist"]),
        ("unknown argument", ["'epsilonn'", "callbacks.privacy"]),
        ("bad epsilon", ["epsilon must be", "-1", "callbacks.privacy"]),
        ("bad seed", ["seed must be a whole number or null, got 'often'"]),
        ("cut", ["cut.ckpt can't be read", "resume from another one"]),
        ("foreign", ["foreign.ckpt was not written by a Lightning trainer"]),
        ("absent", ["absent.ckpt"]),
        ("other model", ["last.ckpt is of another model", "size mismatch for backbone", "choose its model"]),
        ("full disk", ["full_disk/run/checkpoints/", "could not be written (File too large)"]),
        ("no folder", ["file/run", "paths.runs_dir="]),
    ],
)
def test_an_error_is_one_line_that_names_what_is_wrong(calls, name, parts):
    call = calls[name]
    assert call.code == 1, call.out + call.err
    (line,) = call.err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_a_full_disk_leaves_no_half_written_checkpoint(calls):
    assert list((calls["full disk"].folder / "run" / "checkpoints").iterdir()) == []


def test_the_trace_is_shown_to_those_who_ask(calls):
    call = calls["trace"]
    assert call.code != 0
    assert "Traceback" in call.err
    assert "ConfigurationError" in call.err


def test_the_keys_can_be_listed(calls):
    assert calls["keys"].code == 0
    assert "max_grad_norm:" in calls["keys"].out


@pytest.mark.parametrize(
    "command", [["-m", "lightning_privacy"], [str(Path(sys.executable).with_name("lightning-privacy"))]]
)
def test_both_names_of_the_command_work_from_an_unrelated_folder(tmp_path, command):
    program = command if command[0] != "-m" else [sys.executable, *command]
    run = subprocess.run([*program, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("lightning-privacy [group=choice ...]")
    assert "== Configuration groups ==" in run.stdout
    assert "experiment" in run.stdout
    assert list(tmp_path.iterdir()) == []
