"""The report of a sweep: front, budgets, page, table and command."""

from __future__ import annotations

import html.parser
import json
import math
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightning_privacy import cli
from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.accounting.best_of_runs import NegativeBinomialRuns
from lightning_privacy.report._parallel import parallel_chart
from lightning_privacy.report.sweep_command import sweep_report_command, sweep_table, tell_sweep
from lightning_privacy.report.sweep_data import sweep_data
from lightning_privacy.report.sweep_end import SweepEnd, sweep_failed
from lightning_privacy.report.sweep_page import sweep_page
from lightning_privacy.report.sweep_record import SweepEntry, SweepRecord
from lightning_privacy.sweeps.attempts import AttemptLog, Ended, Started
from lightning_privacy.sweeps.random_runs import Selection
from lightning_privacy.sweeps.result import RunResult
from lightning_privacy.sweeps.spending import Spending

LEDGER = PrivacyLedger(delta=1e-5)
LEDGER.charge(SampledGaussian(1.5, 0.05), 50)
FIGURES = ["epsilon", "accuracy", "accuracy of the worst group"]
# epsilon, accuracy, worst group
GRID = {"0": (1.0, 0.7, 0.5), "1": (1.0, 0.6, 0.6), "2": (3.0, 0.9, 0.55), "3": (3.0, 0.65, 0.5), "4": (8.0, 0.9, 0.5)}


def _entries(grid=GRID) -> tuple[SweepEntry, ...]:
    return tuple(
        SweepEntry(
            name,
            "finished",
            overrides=(f"callbacks.privacy.epsilon={cost:g}", f"model.lr=0.{name}", "seed=1"),
            figures={"epsilon": cost, "accuracy": right, "worst_group": worst},
            ledgers=(LEDGER,),
        )
        for name, (cost, right, worst) in grid.items()
    )


def _record(*more: SweepEntry, **given) -> SweepRecord:
    return SweepRecord(Path("runs/demo"), (*_entries(), *more), **given)


class _Page(html.parser.HTMLParser):
    """What is in a page, and whether its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_front_is_what_no_other_run_beats():
    runs = sweep_data(_record())["runs"]
    # By hand: 3 is beaten by 0, and 4 by 2; the others each have a figure that no run with as good others reaches.
    assert [run["run"] for run in runs if run["pareto"]] == ["0", "1", "2"]


def test_settings_that_the_runs_share_are_not_shown():
    data = sweep_data(_record())
    assert data["settings"] == ["callbacks.privacy.epsilon", "model.lr"]
    assert data["runs"][2]["settings"] == {"callbacks.privacy.epsilon": "3", "model.lr": "0.2"}


def test_the_columns_of_the_table_have_names_of_their_own():
    assert _headers("callbacks.privacy.epsilon", "model.lr") == ["run", "privacy.epsilon", "lr", *FIGURES]
    assert _headers("a.lr", "b.lr", "b.a.lr") == ["run", "a.lr", "b.lr", "b.a.lr", *FIGURES]
    assert _headers("seed", "data.seed") == ["run", "seed", "data.seed", *FIGURES]


def _headers(*settings: str) -> list[str]:
    data = {**sweep_data(_record()), "settings": list(settings), "runs": []}
    return [str(column.header) for column in sweep_table(data).columns][:-1]


def test_the_best_within_each_budget():
    slightly = {**GRID, "5": (2.999, 0.2, 0.1)}
    rows = sweep_data(SweepRecord(Path("x"), _entries(slightly)))["budgets"]
    assert [row["epsilon"] for row in rows] == [1.0, 3.0, 8.0]
    assert [row["accuracy"]["run"] for row in rows] == ["0", "2", "2"]
    assert [row["worst_group"]["run"] for row in rows] == ["1", "1", "1"]


def test_the_page_is_whole_and_fetches_nothing():
    lost = SweepEntry("5", "killed", why="its process got <SIGKILL>", ledgers=(LEDGER,))
    page = _Page(sweep_page(sweep_data(_record(lost))))
    assert page.open == []
    tags = [tag for tag, _ in page.found]
    assert "script" not in tags
    assert not any("src" in attrs or str(attrs.get("href", "#"))[:1] not in "#d" for _, attrs in page.found)
    pictures = [attrs["aria-label"] for tag, attrs in page.found if tag == "svg"]
    assert len(pictures) == 4
    assert pictures[0].startswith("Accuracy against epsilon: ")
    for words in ("Epsilon of the sweep", "at delta 1e-05", "Best within each budget", "its process got <SIGKILL>"):
        assert words in page.text
    assert "0.2" in page.text


@pytest.mark.parametrize(
    ("more", "words", "colour"),
    [
        ((), "Epsilon of the sweep: ", "good"),
        ((SweepEntry("5", "killed", ledgers=(LEDGER,), unknown="it is gone"),), "unknown, at least", "warn"),
        ((SweepEntry("5", "finished", private=False, figures={"accuracy": 1.0}),), "is not private", "bad"),
    ],
    ids=["known", "unknown", "public"],
)
def test_p32_the_headline_says_what_is_known(more, words, colour):
    page = _Page(sweep_page(sweep_data(_record(*more))))
    assert words in page.text
    (banner,) = [attrs["class"] for tag, attrs in page.found if "banner" in str(attrs.get("class"))]
    assert banner == f"banner {colour}"


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (SweepEntry("0", "failed"),),
        (SweepEntry("0", "finished"),),
        (SweepEntry("0", "finished", figures={"epsilon": math.inf, "accuracy": 0.5}, private=False),),
        (SweepEntry("<b>", "finished", overrides=("a=<i>",), figures={"epsilon": 1.0, "accuracy": math.nan}),),
        _entries()[:1],
    ],
    ids=["none", "failed", "no figures", "not private", "odd", "one"],
)
def test_whatever_is_lacking_the_rest_is_drawn(entries):
    data = sweep_data(SweepRecord(Path("x"), entries))
    json.dumps(data, allow_nan=False)
    page = _Page(sweep_page(data))
    assert page.open == []
    assert not {"b", "i"} & {tag for tag, _ in page.found}


def _write_sweep(folder: Path) -> None:
    log = AttemptLog(folder)
    for entry in _entries():
        run = folder / entry.run
        run.mkdir()
        log.write(Started(entry.run, entry.run, "c", entry.overrides))
        spending = Spending(folder, run, entry.run)
        spending.watch([])
        RunResult(entry.run, "c", entry.figures, {"covers": "all", "ledgers": [LEDGER.state_dict()]}).write(run)
        log.write(Ended(entry.run, "finished"))
    log.write(Started("lost", "5", "c", ("seed=2",)))
    log.write(Ended("lost", "failed", "lr must be > 0"))


def test_the_command_writes_page_and_values(tmp_path, capsys):
    _write_sweep(tmp_path)
    assert sweep_report_command([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    values = json.loads((tmp_path / "sweep.json").read_text())
    together = PrivacyLedger(delta=1e-5)
    together.charge(SampledGaussian(1.5, 0.05), 250)
    assert values["privacy"]["epsilon"] == together.epsilon(exact=True)
    assert f"Epsilon of the sweep as a whole: {values['privacy']['figure']} at delta 1e-05" in out
    assert "Attempts that did not finish: 5 (failed)" in out
    assert "90.0%" in out
    assert (tmp_path / "sweep.html").stat().st_size < 2e6


def test_the_report_may_go_elsewhere_and_have_another_delta(tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    _write_sweep(sweep)
    before = sorted(path.name for path in sweep.iterdir())
    assert sweep_report_command([str(sweep), "--output", str(tmp_path / "out"), "--delta", "1e-3"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sweep.html", "sweep.json"]
    assert sorted(path.name for path in sweep.iterdir()) == before
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["privacy"]["delta"] == 1e-3


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["nowhere"], "nowhere is none"), ([".", "--delta", "2"], "delta"), ([".", "--output", "file/x"], "file")],
)
def test_an_error_is_one_line(tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert sweep_report_command(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_command_is_one_of_the_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-privacy", "sweep-report", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert "Epsilon of the sweep as a whole: unknown" in capsys.readouterr().out


def test_p32_the_best_of_a_secret_number_of_runs(tmp_path):
    number = NegativeBinomialRuns.with_mean(10.0)
    selection = Selection(LEDGER, number, "accuracy")
    selection.write(tmp_path)
    best = tmp_path / "best"
    best.mkdir()
    RunResult("a", "c", {"epsilon": 1.0, "accuracy": 0.9}, {"covers": "all", "ledgers": []}).write(best)
    data = sweep_data(SweepRecord.read(tmp_path))
    assert data["privacy"]["rule"] == "random stopping"
    assert data["privacy"]["epsilon"] == selection.epsilon()
    assert [run["run"] for run in data["runs"]] == ["best"]
    assert "chosen among a secret number" in sweep_page(data)
    # Whoever has left other runs there as well has shown more than the best.
    other = tmp_path / "0"
    other.mkdir()
    (other / "config.yaml").touch()
    (other / "environment.json").touch()
    assert not sweep_data(SweepRecord.read(tmp_path))["privacy"]["known"]


def test_p32_the_end_of_a_secret_search_tells_what_it_costs(tmp_path, capsys):
    selection = Selection(LEDGER, NegativeBinomialRuns.with_mean(10.0), "accuracy")
    selection.write(tmp_path)
    hydra = {"sweep": {"dir": str(tmp_path)}, "sweeper": {"secret": True}, "launcher": {}}
    SweepEnd().on_multirun_end(OmegaConf.create({"hydra": hydra}))
    assert capsys.readouterr().out.splitlines()[0] == selection.sentence()
    assert json.loads((tmp_path / "sweep.json").read_text())["privacy"]["epsilon"] == selection.epsilon()


def test_the_end_of_a_sweep_tells_what_is_lost(tmp_path, capsys):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "sweeper": {}, "launcher": {}}})
    end = SweepEnd()
    end.on_multirun_start(config)
    end.on_multirun_end(config)
    assert not sweep_failed()
    end.on_multirun_start(config)
    _write_sweep(tmp_path)
    end.on_multirun_end(config)
    assert sweep_failed()
    out, err = capsys.readouterr()
    assert "Run 5 did not finish (failed: lr must be > 0)" in err
    assert "1 of 6 runs did not finish" in err
    assert f"hydra.sweep.dir={tmp_path}" in err
    assert "Report of the sweep" in out
    # Started again, what was lost before is not lost now.
    end.on_multirun_start(config)
    end.on_multirun_end(config)
    assert not sweep_failed()


def test_a_report_that_cannot_be_made_loses_no_run(tmp_path, capsys):
    (tmp_path / "selection.json").write_text("{")
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "sweeper": {}, "launcher": {}}})
    end = SweepEnd()
    end.on_multirun_start(config)
    end.on_multirun_end(config)
    assert "could not be made" in capsys.readouterr().err
    assert not sweep_failed()


def test_parallel_coordinates_have_a_line_for_each_run():
    chart = parallel_chart(
        [("lr", ["0.001", "0.1"]), ("kind", ["flat", "adaptive"]), ("accuracy", [0.5, None]), ("empty", [None, None])],
        labels=["0", "<1>"],
        title="All",
        marked=[True, False],
    )
    page = _Page(str(chart))
    assert page.open == []
    lines = [attrs["points"] for tag, attrs in page.found if tag == "polyline"]
    assert [len(str(line).split()) for line in lines] == [3, 2]
    assert "run <1>" in page.text
    assert "nothing to draw" in parallel_chart([], labels=[], title="All")


def test_write_returns_the_page(tmp_path):
    assert tell_sweep(tmp_path) == tmp_path / "sweep.html"


def test_a_launcher_that_is_not_installed_is_named_with_its_extra(tmp_path, capsys, monkeypatch):
    target = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
    hydra = {"sweep": {"dir": str(tmp_path)}, "sweeper": {}, "launcher": {"_target_": target}}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        SweepEnd().on_multirun_start(OmegaConf.create({"hydra": hydra}))
    assert end.value.code == 1
    assert "pip install 'lightning-privacy[ray]'" in capsys.readouterr().err
