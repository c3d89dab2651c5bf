"""What is told at the end of a sweep, and whether a run of it failed.

Example:
    >>> from lightning_privacy.report.sweep_end import SweepEnd, sweep_failed
    >>> isinstance(SweepEnd(), object), sweep_failed()
    (True, False)
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from typing_extensions import override

from lightning_privacy.sweeps.attempts import AttemptLog
from lightning_privacy.sweeps.random_runs import Selection

__all__ = ["SweepEnd", "sweep_failed"]

_EXTRAS = {
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "submitit",
    "hydra_plugins.hydra_ray_launcher": "ray",
}
_FAILED: list[str] = []


def sweep_failed() -> bool:
    """Whether a run of the sweep that this process has just made did not finish."""
    return bool(_FAILED)


class SweepEnd(Callback):
    """A callback of Hydra, listed in ``conf/hydra/default.yaml``: writes the sweep's report when all runs are over.

    In the process of the command alone, whatever launcher there is.
    """

    def __init__(self) -> None:
        self._before: frozenset[str] = frozenset()

    @override
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _FAILED.clear()
        _refuse_missing_launcher(str(config.hydra.launcher.get("_target_", "")))
        attempts, _ = AttemptLog(_folder(config)).read()
        self._before = frozenset(attempt.name for attempt in attempts)

    @override
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = _folder(config)
        attempts, _ = AttemptLog(folder).read()
        new = [attempt for attempt in attempts if attempt.name not in self._before]
        lost = [attempt for attempt in new if attempt.ended is None or attempt.ended.how != "finished"]
        _FAILED.extend(attempt.run for attempt in lost)
        if config.hydra.sweeper.get("secret", False):
            # Nothing of single runs, nor how many there were.
            selection = Selection.read(folder)
            if selection is not None:
                _say(selection.sentence())
                _report(folder)
            return
        for attempt in lost:
            why = "no end is known" if attempt.ended is None else f"{attempt.ended.how}: {attempt.ended.why}"
            _say(f"Run {attempt.run} did not finish ({why})", sys.stderr)
        if lost:
            _say(
                f"{len(lost)} of {len(new)} runs did not finish. The same command with hydra.sweep.dir={folder} does "
                "them again and leaves out those that are finished.",
                sys.stderr,
            )
        _report(folder)


def _refuse_missing_launcher(target: str) -> None:
    """End with one line where the launcher's package is not installed."""
    package = ".".join(target.split(".")[:2])
    extra = _EXTRAS.get(package)
    if extra is None:
        return
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # hydra_plugins itself
        found = False
    if not found:
        _say(f"error: this launcher needs {package}: pip install 'lightning-privacy[{extra}]'", sys.stderr)
        # Hydra turns other errors of a callback into warnings.
        raise SystemExit(1)


def _report(folder: Path) -> None:
    # Imported here: runs, which import this file too, draw nothing.
    from lightning_privacy.report.sweep_command import tell_sweep

    try:
        tell_sweep(folder)
    except Exception as error:  # noqa: BLE001 - the runs are done and must not seem lost by a picture of them
        _say(f"The report of the sweep could not be made: {error}. The runs are in {folder}", sys.stderr)


def _say(text: str, sink: Any = None) -> None:
    sink = sys.stdout if sink is None else sink
    sink.write(f"{text}\n")
    sink.flush()


def _folder(config: DictConfig) -> Path:
    return Path(config.hydra.sweep.dir).absolute()
