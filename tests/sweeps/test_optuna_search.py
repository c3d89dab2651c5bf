"""A search by Optuna: what it asks for, what it is told, how it goes on."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sweeps.optuna_search import Objectives, OptunaSweeper
from lightning_privacy.sweeps.run_process import FAILED

sys.path.insert(0, str(Path(__file__).parent))
from launchers import StubLauncher, set_up

pytest.importorskip("optuna", reason="needs the extra optuna")
SPACE = ["seed=1", "callbacks.privacy.epsilon=1,3,8", "model.optimizer.lr=tag(log,interval(0.001,1))"]


def _figures(job, folder):
    """Accuracy rises with epsilon and is best at a rate of 0.03; one choice fails."""
    epsilon, rate = float(job["callbacks.privacy.epsilon"]), float(job["model.optimizer.lr"])
    if rate > 0.5:
        return {FAILED: "lr is too high"}
    return {"epsilon": epsilon, "accuracy": 1 - 0.3 / epsilon - 0.1 * abs(math.log10(rate / 0.03))}


def test_two_objectives_are_searched_in_batches(tmp_path, monkeypatch):
    import optuna

    launcher = StubLauncher(_figures)
    set_up(OptunaSweeper(n_trials=14, n_jobs=4), tmp_path, launcher, monkeypatch).sweep(SPACE)
    assert [(first, len(jobs)) for first, jobs in launcher.launched] == [(0, 4), (4, 4), (8, 4), (12, 2)]
    jobs = [job for _, batch in launcher.launched for job in batch]
    assert all(job["seed"] == "1" for job in jobs)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.jsonl")))
    study = optuna.load_study(study_name="sweep", storage=storage)
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    for trial, job in zip(study.trials, jobs, strict=True):
        figures = _figures(job, None)
        if FAILED in figures:
            assert trial.state.name == "FAIL"
            assert trial.user_attrs[FAILED] == "lr is too high"
        else:
            assert trial.values == [figures["epsilon"], figures["accuracy"]]
    assert (tmp_path / "multirun.yaml").is_file()


def test_a_search_goes_on_where_it_was_ended(tmp_path, monkeypatch):
    class EndedError(Exception):
        pass

    def dies(job, folder):
        raise EndedError

    with pytest.raises(EndedError):
        set_up(OptunaSweeper(n_trials=5, n_jobs=2), tmp_path, StubLauncher(dies), monkeypatch).sweep(SPACE)
    launcher = StubLauncher(_figures)
    set_up(OptunaSweeper(n_trials=5, n_jobs=2), tmp_path, launcher, monkeypatch).sweep(SPACE)
    # The two that were asked for have folders already; no other run may have their numbers.
    assert [(first, len(jobs)) for first, jobs in launcher.launched] == [(2, 2), (4, 1)]
    with pytest.raises(ConfigurationError, match="holds a search for"):
        set_up(
            OptunaSweeper(n_trials=9, objectives={"accuracy": "maximize", "worst_group": "maximize"}),
            tmp_path,
            launcher,
            monkeypatch,
        ).sweep(SPACE)


def test_better_choices_are_found(tmp_path, monkeypatch):
    launcher = StubLauncher(_figures)
    sweeper = OptunaSweeper(n_trials=60, objectives={"accuracy": "maximize"})
    set_up(sweeper, tmp_path, launcher, monkeypatch).sweep(SPACE)
    last = [job for _, batch in launcher.launched for job in batch][-20:]
    assert sum(job["callbacks.privacy.epsilon"] == "8" for job in last) > 10


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"epsilon": 1.0, "accuracy": 0.5}, (1.0, 0.5)),
        ({"epsilon": math.inf, "accuracy": 0.5}, None),
        ({"epsilon": 1.0}, None),
        ({FAILED: "no"}, None),
        (None, None),
    ],
)
def test_figures_that_are_not_there_are_a_failure(figures, expected):
    assert Objectives({"epsilon": "minimize", "accuracy": "maximize"}).values(figures) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_trials": 0}, "n_trials"),
        ({"n_trials": 1, "objectives": {}}, "at least one"),
        ({"n_trials": 1, "objectives": {"speed": "maximize"}}, "speed"),
        ({"n_trials": 1, "objectives": {"accuracy": "up"}}, "up"),
    ],
)
def test_bad_arguments_are_named(given, message):
    with pytest.raises(ConfigurationError, match=message):
        OptunaSweeper(**given)


def test_nothing_to_choose_is_refused(tmp_path, monkeypatch):
    sweeper = set_up(OptunaSweeper(n_trials=2), tmp_path, StubLauncher(_figures), monkeypatch)
    with pytest.raises(ConfigurationError, match="nothing has several values"):
        sweeper.sweep(["seed=1"])


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    sweeper = set_up(OptunaSweeper(n_trials=2), tmp_path, StubLauncher(_figures), monkeypatch)
    with pytest.raises(ConfigurationError, match=r"lightning-privacy\[optuna\]"):
        sweeper.sweep(SPACE)
    assert importlib.util.find_spec("json") is not None
