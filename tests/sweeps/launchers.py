"""A launcher for tests of sweepers: runs nothing and returns what it is told."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, open_dict, read_write


class StubLauncher:
    """Keeps what it was given; the result of a job is that of ``answer(overrides, folder)``."""

    def __init__(self, answer: Callable[[dict[str, str], Path], Any]) -> None:
        self.answer = answer
        self.launched: list[tuple[int, list[dict[str, str]]]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """As a launcher of Hydra."""
        jobs = [dict(override.partition("=")[::2] for override in overrides) for overrides in job_overrides]
        self.launched.append((initial_job_idx, jobs))
        returned = []
        for number, job in enumerate(jobs, start=initial_job_idx):
            sweep = Path(job.get("hydra.sweep.dir", "sweep").strip("'"))
            folder = sweep / job.get("hydra.sweep.subdir", str(number))
            hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(folder)))
            value = self.answer(job, folder)
            returned.append(SimpleNamespace(return_value=value, hydra_cfg=SimpleNamespace(hydra=hydra)))
        return returned


def set_up(sweeper: Any, folder: Path, launcher: StubLauncher, monkeypatch: Any) -> Any:
    """The sweeper, as Hydra sets it up for a sweep in a folder."""
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda self, **given: launcher)
    context = SimpleNamespace(config_loader=SimpleNamespace(load_sweep_config=_load))
    sweeper.setup(hydra_context=context, task_function=None, config=multirun(folder))
    return sweeper


def _load(_: DictConfig, overrides: list[str]) -> DictConfig:
    """As the loader of Hydra."""
    return copy.deepcopy(_composed(tuple(overrides)))


def multirun(folder: Path, *overrides: str) -> DictConfig:
    """The config of a sweep."""
    config = copy.deepcopy(_composed(overrides))
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(folder)
    return config


@functools.cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)
