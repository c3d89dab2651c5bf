"""One run of a sweep in a process of its own, whatever launcher started it.

A run that fails, is killed or takes the memory of the machine takes no other with it; nothing of one run, be it a port,
a seed, a setting of the environment or memory of the accelerator, is left for the next; and a run that is finished is
not done again when the sweep is started again in the same folder.
"""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import fcntl
import itertools
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.sweep import RUN_VARIABLE
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sweeps.attempts import AttemptLog, Ended, Started
from lightning_privacy.sweeps.result import RunResult, config_digest
from lightning_privacy.sweeps.spending import FOLDER

__all__ = ["COMMAND", "FAILED", "TRACE_VARIABLE", "Parcel", "run_in_process", "task_overrides"]

COMMAND = "sweep-job"
"""Subcommand of the process that runs."""

FAILED = "failed"
"""Name under which a run that failed returns its error in place of figures."""

TRACE_VARIABLE = "LIGHTNING_PRIVACY_FULL_ERROR"
"""Whether the user wants traces, in the environment; Hydra's own variable is always set while it runs a sweep."""

_PROGRAM = (sys.executable, "-m", "lightning_privacy", COMMAND)
_LOCK = ".lock"
_ERROR = "error.txt"
# What Hydra and earlier attempts have in the folder of a run before it starts.
_KEPT = (".hydra", "run.log", _LOCK, FOLDER)
_EARLIER = "earlier_"
_PUT_ASIDE = re.compile(rf"{_EARLIER}(\d+)")
_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
# A run that is one of several at a time must not meet others, or think to be one of their processes.
_NOT_INHERITED = ("MASTER_PORT", "MASTER_ADDR", "LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "GROUP_RANK")
_JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
_SECONDS_TO_STOP = 20.0
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Parcel:
    """What the process of a run is given.

    Args:
        config: Of the run, Hydra's own part and its folders included.
        attempt: Names the attempt.
        digest: Of the settings.
    """

    config: DictConfig
    attempt: str
    digest: str


def run_in_process(config: DictConfig, *, explain: Callable[[BaseException], str]) -> dict[str, Any]:
    """Run a job of a Hydra multirun, unless it is finished already.

    Args:
        config: Of the job.
        explain: Gives the one line for an error of the settings.

    Returns:
        The figures of the run, or its error under :data:`FAILED`. It never raises for what is wrong with this one run,
        so that the others go on.
    """
    hydra = HydraConfig.get()
    folder, sweep = Path(hydra.runtime.output_dir), Path(hydra.sweep.dir).absolute()
    name = folder.relative_to(sweep).as_posix() if folder.is_relative_to(sweep) else str(folder)
    tell = _teller(hydra, name)
    log, attempt = AttemptLog(sweep), uuid.uuid4().hex
    digest, overrides = "", tuple(task_overrides(hydra))
    try:
        with _locked(folder):
            digest = config_digest(config, folder)
            known = RunResult.read(folder)
            if known is None:
                _put_aside(folder)
                parcel = _parcel(config, folder, sweep, attempt, digest)
                log.write(Started(attempt, name, digest, overrides, _now()))
                tell("starts: " + (" ".join(overrides) or "as configured"))
                return _ended(_process(parcel, folder, name), folder, log, attempt, tell)
            if known.config != digest:
                raise ConfigurationError(
                    f"{folder} holds a finished run with other settings, which would no longer count in what the sweep "
                    "costs: start the sweep with the settings it had, or in another folder (hydra.sweep.dir=...)"
                )
            tell("is finished already")
            return dict(known.figures)
    except Exception as error:  # noqa: BLE001 - one run's error must not end the sweep; it is told and kept
        text = explain(error)
        # Once more where it had begun, which changes nothing.
        log.write(Started(attempt, name, digest, overrides, _now()))
        log.write(Ended(attempt, "failed", text, _now()))
        tell(f"could not start: {text}", sys.stderr)
        return {FAILED: text}


def _ended(status: int, folder: Path, log: AttemptLog, attempt: str, tell: Callable[..., None]) -> dict[str, Any]:
    result = RunResult.read(folder)
    if result is not None and result.attempt == attempt:
        log.write(Ended(attempt, "finished", time=_now()))
        tell("finished: " + ", ".join(itertools.starmap(_shown, result.figures.items())))
        return dict(result.figures)
    how, why = _end(status, folder / _ERROR)
    log.write(Ended(attempt, how, why, time=_now()))
    tell(f"{how}: {why}", sys.stderr)
    return {FAILED: why}


def _shown(name: str, value: float) -> str:
    return f"{name} {epsilon_text(value) if name == 'epsilon' else format(value, '.4g')}"


def _end(status: int, error: Path) -> tuple[str, str]:
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return "killed", f"its process got {name}{hint}"
    told = error.read_text(encoding="utf-8").strip() if error.exists() else ""
    return "failed", told or f"its process ended with status {status} and no result"


def _parcel(config: DictConfig, folder: Path, sweep: Path, attempt: str, digest: str) -> Parcel:
    whole = copy.deepcopy(config)
    with read_write(whole), open_dict(whole):
        whole.hydra = HydraConfig.get()
    with read_write(whole.hydra), open_dict(whole.hydra):
        # As they are now: what stands there may name the time. Further processes of this run, which Lightning starts,
        # look for their folder under the other name.
        whole.hydra.sweep.dir, whole.hydra.run.dir = str(sweep), str(folder)
        # Of classes of plugins, which pickle can't always find again, and which a run has no use for.
        whole.hydra.launcher, whole.hydra.sweeper = _plain(whole.hydra.launcher), _plain(whole.hydra.sweeper)
    return Parcel(whole, attempt, digest)


def _process(parcel: Parcel, folder: Path, name: str) -> int:
    """Run it and give the exit status, negative for a signal."""
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    environment[RUN_VARIABLE] = name
    several = parcel.config.hydra.launcher.get("_target_") != _BASIC
    secret = bool(parcel.config.hydra.sweeper.get("secret", False))
    with contextlib.ExitStack() as stack:
        output: Any = subprocess.PIPE if several else None
        if secret:
            output = stack.enter_context((folder / "output.log").open("ab"))
        process = subprocess.Popen(  # noqa: S603 - this program
            _PROGRAM,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
        )
        threads = []
        if several and not secret:
            for source, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                threads.append(threading.Thread(target=_pass_on, args=(source, sink, name), daemon=True))
                threads[-1].start()
        try:
            # The pipe stays open while this process lives: at its end, the run knows that nobody waits for it.
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(pickle.dumps(parcel))
                    process.stdin.flush()
            status = _wait(process, watch=parcel.config.hydra.launcher.get("_target_") == _JOBLIB)
        except BaseException:
            _stop(process)
            raise
        finally:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            for thread in threads:
                thread.join(timeout=_SECONDS_TO_STOP)
    return status


def _wait(process: subprocess.Popen[bytes], *, watch: bool) -> int:
    """The exit status of a run; a worker of joblib, which would go on without the sweep, ends it with the sweep."""
    parent = os.getppid()
    while True:
        try:
            return process.wait(timeout=_SECONDS_BETWEEN_LOOKS)
        except subprocess.TimeoutExpired:
            if watch and os.getppid() != parent:
                process.terminate()
                watch = False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let a run end by itself, which an interrupt from the keyboard has reached too, and end it if it does not."""
    try:
        process.wait(timeout=_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(timeout=_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pass_on(source: IO[bytes], sink: Any, name: str) -> None:
    """Give lines of a run to the terminal with its name before them, as those of several runs are mixed there."""
    with source:
        for line in source:
            text = line.decode(errors="replace").rstrip("\n")
            if text.strip():
                sink.write(f"[{name}] {text}\n")
                sink.flush()


def _teller(hydra: Any, name: str) -> Callable[..., None]:
    if hydra.sweeper.get("secret", False):
        return lambda *_: None

    def tell(text: str, sink: Any = None) -> None:
        sink = sys.stdout if sink is None else sink
        sink.write(f"Run {name} {text}\n")
        sink.flush()

    return tell


def task_overrides(hydra: Any) -> list[str]:
    """The arguments of a job, as they were given: not with what their interpolations stand for."""
    return list(map(str, OmegaConf.to_container(hydra.overrides.task) or ()))


def _plain(node: Any) -> dict[str, Any]:
    return {name: node.get(name) for name in ("_target_", "secret") if name in node}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from running the same run at the same time."""
    with (folder / _LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"another process is at work on {folder}: wait for it, or use another folder (hydra.sweep.dir=...)"
            ) from error
        yield


def _put_aside(folder: Path) -> None:
    """Move what an attempt that did not finish has left out of the way of the next; its charges stay where they are."""
    left = [path for path in folder.iterdir() if path.name not in _KEPT and not path.name.startswith(_EARLIER)]
    if not left:
        return
    aside = _next_earlier(folder)
    aside.mkdir()
    for path in left:
        shutil.move(path, aside / path.name)


def _next_earlier(folder: Path) -> Path:
    """The folder after the last that is there; a user may have removed others, and an attempt makes some itself."""
    taken = [int(found[1]) for path in folder.iterdir() if path.is_dir() and (found := _PUT_ASIDE.fullmatch(path.name))]
    number = max(taken, default=-1) + 1
    while (folder / f"{_EARLIER}{number}").exists():  # a file, say
        number += 1
    return folder / f"{_EARLIER}{number}"


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
