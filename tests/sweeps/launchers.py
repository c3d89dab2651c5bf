"""A launcher for tests of sweepers: runs nothing and returns what it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins
from omegaconf import DictConfig


class StubLauncher:
    """Keeps what it was given; the result of a job is that of ``answer(overrides, folder)``."""

    def __init__(self, answer: Callable[[dict[str, str], Path], Any]) -> None:
        self.answer = answer
        self.launched: list[tuple[int, list[dict[str, str]]]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """As a launcher of Hydra."""
        jobs = [dict(override.split("=", 1) for override in overrides) for overrides in job_overrides]
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
    sweeper.setup(hydra_context=None, task_function=None, config=multirun(folder))
    return sweeper


def multirun(folder: Path, *overrides: str) -> DictConfig:
    """The config of a sweep."""
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        return compose("config", overrides=[f"hydra.sweep.dir={folder}", *overrides], return_hydra_config=True)
