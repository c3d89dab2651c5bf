"""A search by Optuna for several figures at once: accuracy against epsilon, accuracy against the worst group.

Later settings are chosen by the results of earlier runs, so everything that was seen counts: the epsilon of the search
is the composition of all runs, which the report of the sweep gives.

Trials are kept in a file of the sweep's folder. A search that is started again there goes on with the trials it lacks.

Example:
    >>> from lightning_privacy.sweeps.optuna_search import Objectives
    >>> objectives = Objectives({"epsilon": "minimize", "accuracy": "maximize"})
    >>> objectives.values({"epsilon": 1.0, "accuracy": 0.9}), objectives.values({"epsilon": 1.0})
    ((1.0, 0.9), None)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from typing_extensions import override

from lightning_privacy._validate import one_of, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sweeps.result import FIGURES
from lightning_privacy.sweeps.space import Between, OneOf, parse_space

if TYPE_CHECKING:
    from optuna import Study, Trial

__all__ = ["Objectives", "OptunaSweeper"]

SEARCH_NAME = "optuna.jsonl"
"""In the folder of a sweep whose settings were chosen by results: what was tried, as Optuna keeps it."""

_DIRECTIONS = ("minimize", "maximize")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objectives:
    """Figures and whether they are to be low or high.

    Args:
        directions: ``"minimize"`` or ``"maximize"`` by the name of the figure.

    Raises:
        ConfigurationError: There is no figure, or one is unknown.
    """

    directions: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.directions:
            raise ConfigurationError("objectives must name at least one figure, such as {accuracy: maximize}")
        for name, direction in self.directions.items():
            one_of(FIGURES, objective=name)
            one_of(_DIRECTIONS, direction=direction)

    def values(self, figures: object) -> tuple[float, ...] | None:
        """Those of a run; ``None`` where it failed, or one was not measured or is not finite."""
        if not isinstance(figures, Mapping):
            return None
        found = [figures.get(name) for name in self.directions]
        numbers = tuple(value for value in found if isinstance(value, int | float) and math.isfinite(value))
        return numbers if len(numbers) == len(found) else None


class OptunaSweeper(Sweeper):
    """A sweeper of Hydra for ``hydra/sweeper=optuna``.

    Args:
        n_trials: Runs of the search, those of earlier calls in this folder included.
        n_jobs: Runs that are chosen at once, without regard to each other; the launcher runs so many at a time.
        objectives: Figures by name, each ``"minimize"`` or ``"maximize"``.
        seed: Of the search.
        sampler: An Optuna sampler in place of the one that Optuna takes; its own seed counts then.

    Raises:
        ConfigurationError: An argument is out of range, or Optuna is not installed.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int = 1,
        objectives: Mapping[str, str] | None = None,
        seed: int | None = 0,
        sampler: Any = None,
    ) -> None:
        self._trials = positive_int(n_trials=n_trials)
        self._jobs = positive_int(n_jobs=n_jobs)
        wanted = {"epsilon": "minimize", "accuracy": "maximize"} if objectives is None else dict(objectives)
        self._objectives = Objectives(wanted)
        self._seed, self._sampler = seed, sampler
        self._config: DictConfig | None = None
        self._launcher: Launcher | None = None

    @override
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config = config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @override
    def sweep(self, arguments: list[str]) -> None:
        """Ask, run and tell, until there are as many trials as wanted.

        Raises:
            ConfigurationError: Nothing is to be chosen, or the folder holds a search for other figures.
        """
        if self._config is None or self._launcher is None:
            raise ConfigurationError("setup must come first")
        fixed, choices = parse_space(arguments)
        if not choices:
            raise ConfigurationError(
                "nothing has several values: give choices and intervals, such as callbacks.privacy.epsilon=1,3,8 "
                "'model.optimizer.lr=tag(log,interval(0.001,0.1))'"
            )
        folder = Path(self._config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self._config, folder / "multirun.yaml")
        study = self._study(folder / SEARCH_NAME)
        while len(study.trials) < self._trials:
            number = min(self._jobs, self._trials - len(study.trials))
            asked = [study.ask() for _ in range(number)]
            jobs = [[*fixed, *_suggest(trial, choices)] for trial in asked]
            returned = self._launcher.launch(jobs, initial_job_idx=asked[0].number)
            for trial, job in zip(asked, returned, strict=True):
                self._tell(study, trial, self._objectives.values(job.return_value), job.return_value)
        _log.info("%d trials; best: %s", len(study.trials), [trial.number for trial in study.best_trials])

    def _study(self, path: Path) -> Study:
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise ConfigurationError(
                "hydra/sweeper=optuna needs Optuna: pip install 'lightning-privacy[optuna]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = [optuna.study.StudyDirection[name.upper()] for name in self._objectives.directions.values()]
        # Another seed for what is asked after a pause: the sampler's own state is not kept.
        began = path.exists()
        sampler = self._sampler
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
            study_name="sweep",
            directions=directions,
            load_if_exists=True,
        )
        names = study.user_attrs.get("objectives")
        if names is not None and names != dict(self._objectives.directions):
            raise ConfigurationError(
                f"{path.parent} holds a search for {names}, and this one is for {dict(self._objectives.directions)}: "
                "give another folder, hydra.sweep.dir=..."
            )
        study.set_user_attr("objectives", dict(self._objectives.directions))
        if sampler is None:
            seed = None if self._seed is None else self._seed + (len(study.trials) if began else 0)
            sampler = optuna.samplers.TPESampler(seed=seed)
        study.sampler = sampler
        for trial in study.trials:
            if not trial.state.is_finished():
                # Asked for by a call that was ended; its run, if there was one, counts in what the sweep has spent.
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    @staticmethod
    def _tell(study: Study, trial: Trial, values: tuple[float, ...] | None, figures: object) -> None:
        from optuna.trial import TrialState

        if isinstance(figures, Mapping):
            for name, value in figures.items():
                trial.set_user_attr(str(name), value if isinstance(value, str) or math.isfinite(value) else str(value))
        if values is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, list(values))


def _suggest(trial: Trial, choices: Mapping[str, OneOf | Between]) -> Sequence[str]:
    overrides = []
    for key, choice in choices.items():
        if isinstance(choice, OneOf):
            value = trial.suggest_categorical(key, choice.values)
        elif choice.whole:
            value = str(trial.suggest_int(key, int(choice.low), int(choice.high), log=choice.log))
        else:
            value = repr(float(trial.suggest_float(key, choice.low, choice.high, log=choice.log)))
        overrides.append(f"{key}={value}")
    return overrides
