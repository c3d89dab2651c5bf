"""A search that costs little more than one run: a secret random number of runs, of which only the best is kept.

Papernot and Steinke, "Hyperparameter Tuning with Renyi Differential Privacy", ICLR 2022: the number of runs is drawn
from a truncated negative binomial distribution by the operating system's randomness, the settings of each run are drawn
at random and without regard to other runs, and nothing of them leaves but the model with the best score. What that
costs is :func:`~lightning_privacy.accounting.best_of_runs.best_run_epsilon`.

So nothing is shown of the runs while they go, those that were not best are removed, and so is whatever would tell how
many there were. The time that the search takes tells it still: keep that to yourself, or claim the composition instead.

Example:
    >>> from lightning_privacy.accounting import SampledGaussian
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> ledger.charge(SampledGaussian(2.0, 0.01), count=1000)
    >>> selection = Selection(ledger, NegativeBinomialRuns.with_mean(30.0, shape=0.0), score="accuracy")
    >>> round(ledger.epsilon(exact=True), 2), round(selection.epsilon(), 2)
    (0.62, 1.36)
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from typing_extensions import override

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.best_of_runs import NegativeBinomialRuns, best_run_epsilon
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.security.atomic_file import AtomicFile
from lightning_privacy.sweeps.attempts import LOG_NAME
from lightning_privacy.sweeps.free_settings import refuse_costly
from lightning_privacy.sweeps.result import FIGURES, RunResult
from lightning_privacy.sweeps.space import Between, OneOf, parse_space, quoted

__all__ = ["BEST", "SELECTION_NAME", "RandomRunsSweeper", "Selection"]

SELECTION_NAME = "selection.json"
BEST = "best"
_HIDDEN = ".runs"
_PLAN = "plan.json"
_VERSION = 1
_PARTLY = "partly_published"
# Reports, cards, ledgers and exports of a run say what that run costs, which is less than the search does.
_PUBLIC = ("checkpoints", "classification.json", "config.yaml")
_BEST_ONLY = "it is the best run of a search, and selection.json says what that costs"
_SILENT = {"version": 1, "disable_existing_loggers": False, "root": {"level": "CRITICAL"}}


@dataclass(frozen=True)
class Selection:
    """What such a search has left.

    Args:
        ledger: What one run costs, any of them.
        number: How the number of runs was drawn.
        score: Figure by which the best was chosen.
    """

    ledger: PrivacyLedger
    number: NegativeBinomialRuns
    score: str

    def epsilon(self) -> float:
        """Of the whole search, at the ledger's delta."""
        return best_run_epsilon([self.ledger], self.number, delta=self.ledger.delta)

    def sentence(self) -> str:
        """What the search costs, in one sentence."""
        epsilon = self.epsilon()
        figure = epsilon_text(epsilon) if math.isfinite(epsilon) else "infinite: NOT PRIVATE"
        return (
            f"Epsilon of the search, of which this is the best run: {figure} at delta {self.ledger.delta:g} for each "
            f"{self.ledger.unit}, as long as the number of runs and all other runs stay secret."
        )

    def write(self, folder: Path) -> None:
        """Write it into the folder of the search.

        Raises:
            OSError: It can't be written.
        """
        values = {
            "version": _VERSION,
            "rule": "random stopping",
            "number": {"shape": self.number.shape, "gamma": self.number.gamma},
            "score": self.score,
            # Of the search, and what the ledger says is of one run.
            "epsilon": epsilon if math.isfinite(epsilon := self.epsilon()) else None,
            "delta": self.ledger.delta,
            "ledger": self.ledger.state_dict(),
        }
        with AtomicFile(folder / SELECTION_NAME) as file:
            file.write(json.dumps(values, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> Selection | None:
        """Read it; ``None`` where the folder is of no such search.

        Raises:
            CheckpointError: The file is damaged or of another version.
        """
        path = folder / SELECTION_NAME
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_bytes())
            if values["version"] != _VERSION:
                raise CheckpointError(f"{path} has version {values['version']!r}, and {_VERSION} is read")
            state = values["ledger"]
            ledger = PrivacyLedger(delta=state["delta"], unit=state["unit"])
            ledger.load_state_dict(state)
            return cls(ledger, NegativeBinomialRuns(**values["number"]), str(values["score"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}") from error


class RandomRunsSweeper(Sweeper):
    """A sweeper of Hydra for ``hydra/sweeper=random_runs``.

    What has several values on the command line is drawn at random for each run. That may be settings of the model and
    the seed only, on which the cost of a run does not depend: the bound is for the dearest of all choices, also those
    that were not drawn.

    Args:
        mean: Number of runs on average, above 1.
        shape: Of the distribution: 1 is geometric; 0 costs less, and varies more.
        score: Figure that is to be high: ``"accuracy"``, ``"worst_group"``, ``"worst_class"``; of examples that are not
            among those that are protected.
        secret: Nothing of single runs is shown; must be true.

    Raises:
        ConfigurationError: An argument is out of range.
    """

    def __init__(self, mean: float, shape: float = 1.0, score: str = "accuracy", secret: bool = True) -> None:
        if not secret:
            raise ConfigurationError(
                "secret must be true: the bound of random_runs holds only if nothing of single runs is seen"
            )
        if score not in FIGURES[1:]:
            raise ConfigurationError(f"score must be one of {', '.join(FIGURES[1:])}, got {score!r}")
        self._number = NegativeBinomialRuns.with_mean(mean, shape=shape)
        self._score = score
        self._folder = Path()
        self._launcher: Launcher | None = None
        self._compose: Callable[[list[str]], DictConfig] | None = None

    @override
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._folder = Path(config.hydra.sweep.dir).absolute()
        own = copy.deepcopy(config)
        self._compose = lambda overrides: hydra_context.config_loader.load_sweep_config(own, overrides)
        with read_write(own), open_dict(own):
            own.hydra.sweep.dir = str(self._folder / _HIDDEN)
            # A launcher tells how many jobs it has.
            own.hydra.hydra_logging = OmegaConf.create(_SILENT)
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=own
        )

    @override
    def sweep(self, arguments: list[str]) -> None:
        """Draw the runs, launch them, keep the best.

        Raises:
            ConfigurationError: What is swept changes what a run costs; the folder holds other runs; or no run finished.
        """
        if self._launcher is None or self._compose is None:
            raise ConfigurationError("setup must come first")
        fixed, choices = parse_space(arguments)
        if not choices:
            raise ConfigurationError("nothing has several values: there is nothing to choose")
        first = [f"{key}={_any(choice)}" for key, choice in choices.items()]
        refuse_costly(self._compose([*fixed, *first]), choices)
        hidden = self._folder / _HIDDEN
        if (self._folder / SELECTION_NAME).exists():
            # A search that was interrupted while it cleaned up; the best is there.
            shutil.rmtree(hidden, ignore_errors=True)
            return
        if (self._folder / LOG_NAME).exists():
            raise ConfigurationError(
                f"{self._folder} holds another sweep; give a folder of its own: hydra.sweep.dir=..."
            )
        hidden.mkdir(parents=True, exist_ok=True, mode=0o700)
        jobs = self._plan(hidden, list(arguments), fixed, choices)
        returned = self._launcher.launch(jobs, initial_job_idx=0)
        self._keep(hidden, _best(returned, self._score))

    def _plan(
        self, hidden: Path, arguments: list[str], fixed: list[str], choices: dict[str, Any]
    ) -> Sequence[Sequence[str]]:
        """The runs: those of the search that was interrupted, if there is one, for drawing twice would choose twice."""
        path = hidden / _PLAN
        about = {"arguments": arguments, "shape": self._number.shape, "gamma": self._number.gamma, "score": self._score}
        if path.exists():
            plan: dict[str, Any] = json.loads(path.read_bytes())
            if {key: plan[key] for key in about} != about:
                raise ConfigurationError(
                    f"{self._folder} holds a search that was interrupted and had other settings: go on with those, or "
                    "give a folder of its own: hydra.sweep.dir=..."
                )
            return list(plan["jobs"])
        source = random.SystemRandom()
        jobs = [
            # The number of a run in its folder's name would tell of others.
            [*fixed, *(f"{key}={choice.draw(source)}" for key, choice in choices.items()), *_place(hidden)]
            for _ in range(self._number.draw())
        ]
        with AtomicFile(path, mode=0o600) as file:
            file.write(json.dumps({**about, "jobs": jobs}).encode())
        return jobs

    def _keep(self, hidden: Path, best: str | None) -> None:
        folders = [path for path in hidden.iterdir() if path.is_dir() and path.name != _PARTLY]
        results = {path.name: result for path in folders if (result := RunResult.read(path)) is not None}
        if best is None or best not in results:
            raise ConfigurationError(
                f"no run finished with the figure {self._score!r}; nothing is shown of the runs. Try the settings as a "
                "single run on data that need no protection, and start again in another folder"
            )
        ledgers = [_ledger(result) for result in results.values()]
        if any(dict(ledger.groups) != dict(ledgers[0].groups) for ledger in ledgers):
            raise ConfigurationError(
                "the runs have not all cost the same, so what the dearest choice costs is not known: leave out what "
                "ends training early, and use settings of the model that don't change the number of steps"
            )
        # All cost the same; what limits one guarantee limits that of the search.
        one = _ledger(results[best])
        for caveat in (caveat for ledger in ledgers for caveat in ledger.caveats):
            one.add_caveat(caveat)
        selection = Selection(one, self._number, self._score)
        target = self._folder / BEST
        if not target.exists():
            partly = hidden / _PARTLY
            shutil.rmtree(partly, ignore_errors=True)
            _publish(hidden / best, partly, results[best], selection)
            partly.rename(target)
        selection.write(self._folder)
        shutil.rmtree(hidden)


def _any(choice: OneOf | Between) -> str:
    return choice.values[0] if isinstance(choice, OneOf) else choice.draw(random.SystemRandom())


def _publish(kept: Path, target: Path, result: RunResult, selection: Selection) -> None:
    """Copy what is no statement of a single run's cost, and say what the search costs."""
    target.mkdir()
    for name in _PUBLIC:
        path = kept / name
        if path.is_dir():
            shutil.copytree(path, target / name)
        elif path.is_file():
            shutil.copy2(path, target / name)
    figures = {**result.figures, "epsilon": selection.epsilon()}
    RunResult(result.attempt, result.config, figures, {"covers": _BEST_ONLY, "ledgers": []}).write(target)
    selection.write(target)
    with AtomicFile(target / "summary.txt") as file:
        file.write(f"{selection.sentence()}\n".encode())


def _place(hidden: Path) -> tuple[str, str]:
    """Overrides for the folder of a run."""
    return f"hydra.sweep.dir={quoted(str(hidden))}", f"hydra.sweep.subdir={secrets.token_hex(8)}"


def _best(returned: Sequence[JobReturn], score: str) -> str | None:
    """Folder of the run with the highest score, those without one left out."""
    scored = []
    for job in returned:
        figures = job.return_value
        if isinstance(figures, dict) and isinstance(figures.get(score), float) and job.hydra_cfg is not None:
            scored.append((figures[score], os.path.basename(job.hydra_cfg.hydra.runtime.output_dir)))  # noqa: PTH119
    return max(scored)[1] if scored else None


def _ledger(result: RunResult) -> PrivacyLedger:
    """What a run has spent, which must be known and one ledger's."""
    covers, states = result.spent.get("covers"), result.spent.get("ledgers", [])
    if covers not in ("all", "end") or len(states) != 1:
        raise ConfigurationError(
            "the runs of hydra/sweeper=random_runs must be private, each with one ledger: callbacks.privacy=..."
        )
    ledger = PrivacyLedger(delta=states[0]["delta"], unit=states[0]["unit"])
    ledger.load_state_dict(states[0])
    return ledger
