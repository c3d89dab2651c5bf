"""The best of a secret number of runs: how they are drawn, what is left of them, what it costs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
from lightning_privacy.accounting.best_of_runs import NegativeBinomialRuns, best_run_epsilon
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.sweeps.random_runs import RandomRunsSweeper, Selection
from lightning_privacy.sweeps.result import RunResult
from lightning_privacy.sweeps.run_process import FAILED

sys.path.insert(0, str(Path(__file__).parent))
from launchers import StubLauncher, set_up

SPACE = ["callbacks.privacy.epsilon=2", "model.optimizer.lr=tag(log,interval(0.001,1))", "seed=1,2,3"]


def _ledger(sigma: float = 4.0, *, unit: str = "example") -> PrivacyLedger:
    ledger = PrivacyLedger(delta=1e-5, unit=unit)
    ledger.charge(GaussianRelease(sigma), 2)
    return ledger


def _trains(job, folder, *, ledger=None, covers="all"):
    """A run: its figures, and what it leaves in its folder."""
    rate = float(job["model.optimizer.lr"])
    if rate > 0.3:
        return {FAILED: "lr is too high"}
    folder.mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "weights").write_text(repr(rate))
    for name in (
        "report.json",
        "report.html",
        "model_card.md",
        "summary.json",
        "summary.txt",
        "ledger.json",
        "error.txt",
    ):
        (folder / name).write_text("epsilon = 0.500")
    for name in ("metrics", "deployed", "privacy_ledger"):
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text("epsilon = 0.500")
    (folder / ".hydra").mkdir()
    figures = {"accuracy": 1 - rate, "epsilon": 1.0}
    spent = {"covers": covers, "ledgers": [(ledger or _ledger()).state_dict()]}
    RunResult("a", "c", figures, spent).write(folder)
    return figures


def _search(folder, launcher, monkeypatch, arguments=SPACE, *, runs=12, **given):
    monkeypatch.setattr(NegativeBinomialRuns, "draw", lambda self: runs)
    sweeper = RandomRunsSweeper(**{"mean": 10.0, **given})
    set_up(sweeper, folder, launcher, monkeypatch).sweep(list(arguments))


def test_p32_nothing_but_the_best_is_left(tmp_path, monkeypatch, capfd):
    launcher = StubLauncher(_trains)
    _search(tmp_path, launcher, monkeypatch)
    ((_, jobs),) = launcher.launched
    assert len(jobs) == 12
    rates = sorted(float(job["model.optimizer.lr"]) for job in jobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "selection.json"]
    assert float((tmp_path / "best" / "checkpoints" / "weights").read_text()) == rates[0]
    assert not (tmp_path / "best" / ".hydra").exists()
    # Neither the number of runs nor a place in their order is anywhere.
    names = [job["hydra.sweep.subdir"] for job in jobs]
    assert len(set(names)) == 12
    assert all(len(name) == 16 for name in names)
    out, err = capfd.readouterr()
    assert out == err == ""


def test_p32_the_cost_is_that_of_random_stopping(tmp_path, monkeypatch):
    _search(tmp_path, StubLauncher(_trains), monkeypatch, mean=20.0, shape=0.0)
    selection = Selection.read(tmp_path)
    number = NegativeBinomialRuns.with_mean(20.0, shape=0.0)
    assert selection.number == number
    assert selection.epsilon() == best_run_epsilon([_ledger()], number, delta=1e-5)
    assert selection.epsilon() > _ledger().epsilon(exact=True)


def test_p32_what_is_published_says_what_the_search_costs(tmp_path, monkeypatch):
    _search(tmp_path, StubLauncher(_trains), monkeypatch)
    best, selection = tmp_path / "best", Selection.read(tmp_path)
    names = sorted(path.name for path in best.iterdir())
    assert names == ["checkpoints", "finished.json", "selection.json", "summary.txt"]
    assert not any("0.500" in path.read_text() for path in best.rglob("*") if path.is_file())
    assert RunResult.read(best).figures["epsilon"] == selection.epsilon()
    assert RunResult.read(best).spent["ledgers"] == []
    assert selection.sentence() in (best / "summary.txt").read_text()
    assert json.loads((best / "selection.json").read_text())["epsilon"] == selection.epsilon()


def test_p32_a_caveat_of_any_run_is_one_of_the_search(tmp_path, monkeypatch):
    noted = _ledger()
    noted.add_caveat("The noise was drawn from a fixed seed. NOT PRIVATE.")
    ledgers = iter([_ledger(), noted, _ledger()])
    launcher = StubLauncher(lambda job, folder: _trains(job, folder, ledger=next(ledgers)))
    _search(tmp_path, launcher, monkeypatch, ["model.optimizer.lr=0.1,0.2"], runs=3)
    assert Selection.read(tmp_path).epsilon() == math.inf
    assert "NOT PRIVATE" in (tmp_path / "best" / "summary.txt").read_text()


def test_the_number_is_drawn_and_so_is_each_setting(tmp_path, monkeypatch):
    """20 searches of 10 runs on average: they have one and the same length with probability below 1e-9."""
    lengths, seeds = set(), []
    for number in range(20):
        launcher = StubLauncher(_trains)
        sweeper = set_up(RandomRunsSweeper(mean=10.0), tmp_path / str(number), launcher, monkeypatch)
        try:
            sweeper.sweep(list(SPACE))
        except ConfigurationError:  # a single run may be one that fails
            assert not (tmp_path / str(number) / "best").exists()
        ((_, jobs),) = launcher.launched
        lengths.add(len(jobs))
        seeds += [job["seed"] for job in jobs]
    assert len(lengths) > 1
    assert set(seeds) == {"1", "2", "3"}


def test_p32_an_interrupted_search_goes_on_with_the_runs_it_had_drawn(tmp_path, monkeypatch):
    class EndedError(Exception):
        pass

    def dies(job, folder):
        raise EndedError

    first, second = StubLauncher(dies), StubLauncher(_trains)
    with pytest.raises(EndedError):
        _search(tmp_path, first, monkeypatch, runs=7)
    with pytest.raises(ConfigurationError, match="had other settings"):
        _search(tmp_path, second, monkeypatch, [*SPACE, "data.batch_size=7"])
    _search(tmp_path, second, monkeypatch, runs=3)
    assert second.launched == first.launched
    # And once it is over, it is over.
    third = StubLauncher(_trains)
    _search(tmp_path, third, monkeypatch)
    assert third.launched == []


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("callbacks.privacy.epsilon=1,2", "callbacks.privacy.epsilon"),
        ("data.batch_size=int(interval(10,90))", "data.batch_size"),
        ("trainer.max_epochs=1,2", "trainer.max_epochs"),
        ("model/optimizer=adam,sgd", "model/optimizer"),
        ("model.optimizer._target_=torch.optim.SGD,torch.optim.Adam", "_target_"),
        ("model.optimizer._partial_=true,false", "_partial_"),
        ("++model.optimizer.max_iter=1,15", "max_iter"),
        ("model.optimizer.lr={_target_:a},{_target_:b}", "mapping"),
        ("model.optimizer.lr=${data.batch_size},0.1", "mapping"),
        ("model.optimizer={_target_:torch.optim.SGD},{_target_:torch.optim.Adam}", "mapping"),
    ],
)
def test_p32_what_changes_the_cost_of_a_run_is_not_drawn(tmp_path, monkeypatch, argument, named):
    launcher = StubLauncher(_trains)
    with pytest.raises(ConfigurationError, match=named):
        _search(tmp_path, launcher, monkeypatch, [argument])
    assert launcher.launched == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["model.num_classes=10,3", "trainer.max_epochs=${model.num_classes}"], r"trainer\.max_epochs"),
        (["seed=0,1", "data.batch_size=${seed}"], r"data\.batch_size"),
        (["seed=0,1", "data=digits_augmented"], r"data\.seed"),
        (["model.optimizer.max_iter=1,15", "optimizer=lbfgs"], "L-BFGS"),
        (["model.optimizer.lr=0.1,0.2", "optimizer=lbfgs"], "L-BFGS"),
        (["seed=0,1", "deploy=default", "deploy.folder=exports"], "deploy"),
        (["seed=0,1", "+trainer.max_time=00:01:00:00"], "max_time"),
        (
            ["seed=0,1", "+callbacks.stop={_target_:pytorch_lightning.callbacks.EarlyStopping,monitor:val/loss}"],
            "callbacks.stop",
        ),
        (["seed=0,1", "logger=tensorboard"], "logger"),
    ],
)
def test_p32_what_the_config_makes_of_a_choice_is_looked_at(tmp_path, monkeypatch, arguments, named):
    launcher = StubLauncher(_trains)
    with pytest.raises(ConfigurationError, match=named):
        _search(tmp_path, launcher, monkeypatch, arguments)
    assert launcher.launched == []
    assert not (tmp_path / ".runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [["seed=range(0,9)", "data=persona"], ["model.optimizer.lr=0.1,0.2", "experiment=persona"]],
)
def test_what_costs_nothing_is_drawn(tmp_path, monkeypatch, arguments):
    launcher = StubLauncher(lambda job, folder: {FAILED: "no"})
    with pytest.raises(ConfigurationError, match="no run finished"):
        _search(tmp_path, launcher, monkeypatch, arguments)
    assert launcher.launched


def test_p32_runs_that_cost_different_amounts_have_no_bound(tmp_path, monkeypatch):
    ledgers = iter([_ledger(4.0), _ledger(3.0), _ledger(4.0)])
    launcher = StubLauncher(lambda job, folder: _trains(job, folder, ledger=next(ledgers)))
    with pytest.raises(ConfigurationError, match="not all cost the same"):
        _search(tmp_path, launcher, monkeypatch, ["model.optimizer.lr=0.1,0.2"], runs=3)
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("covers", ["none", "each client has a ledger of its own"])
def test_p32_runs_without_a_guarantee_have_no_bound(tmp_path, monkeypatch, covers):
    launcher = StubLauncher(lambda job, folder: _trains(job, folder, covers=covers))
    with pytest.raises(ConfigurationError, match="must be private"):
        _search(tmp_path, launcher, monkeypatch, ["model.optimizer.lr=0.1,0.2"])


def test_bad_input_is_named(tmp_path, monkeypatch):
    launcher = StubLauncher(lambda job, folder: {FAILED: "no"})
    with pytest.raises(ConfigurationError, match="nothing has several values"):
        _search(tmp_path, launcher, monkeypatch, ["seed=1"])
    with pytest.raises(ConfigurationError, match="no run finished"):
        _search(tmp_path / "failed", launcher, monkeypatch)
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "attempts.jsonl").touch()
    with pytest.raises(ConfigurationError, match="another sweep"):
        _search(tmp_path / "swept", launcher, monkeypatch)
    for given, message in [({"secret": False}, "secret"), ({"score": "epsilon"}, "score"), ({"mean": 1.0}, "mean")]:
        with pytest.raises(ConfigurationError, match=message):
            RandomRunsSweeper(**{"mean": 10.0, **given})


@pytest.mark.parametrize("content", ["{", "{}", '{"version": 9}'])
def test_a_selection_that_cannot_be_read_is_named(tmp_path, content):
    assert Selection.read(tmp_path) is None
    (tmp_path / "selection.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"selection\.json"):
        Selection.read(tmp_path)
