"""The process of one run of a sweep: takes what to run from its standard input, and writes down what it cost.

Only the process that started it can write there, which is of the same user and trusts itself.
"""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from omegaconf import DictConfig, open_dict, read_write

from lightning_privacy.sweeps.result import RunResult
from lightning_privacy.sweeps.run_process import COMMAND, TRACE_VARIABLE, Parcel, task_overrides
from lightning_privacy.sweeps.spending import Spending, set_present_spending

__all__ = ["serve_run"]

_ERROR = "error.txt"
_SECONDS_TO_END = 120.0


def serve_run(
    run: Callable[[DictConfig], Mapping[str, float]],
    *,
    explained: tuple[type[BaseException], ...],
    explain: Callable[[BaseException], str],
) -> int:
    """Run what stands in the standard input.

    Args:
        run: Trains and tests what a config describes, and returns its figures.
        explained: Errors that need no trace.
        explain: Gives the one line for an error.

    Returns:
        The exit status.
    """
    parcel = _receive(sys.stdin.buffer)
    config = _become(parcel)
    hydra = HydraConfig.get()
    folder, sweep = Path(hydra.runtime.output_dir), Path(hydra.sweep.dir)
    spending = Spending(sweep, folder, parcel.attempt)
    set_present_spending(spending)
    try:
        figures = run(config)
        RunResult(parcel.attempt, parcel.digest, figures, spending.result()).write(folder)
    except Exception as error:  # noqa: BLE001 - told to the process that started this one, and shown
        (folder / _ERROR).write_text(explain(error) + "\n", encoding="utf-8")
        if isinstance(error, explained) and os.environ.get(TRACE_VARIABLE, "0") == "0":
            return 1
        traceback.print_exc()
        return 1
    return 0


def _receive(stream: IO[bytes]) -> Parcel:
    setup_globals()
    parcel = pickle.load(stream)  # noqa: S301 - see above: from the process that started this one
    if not isinstance(parcel, Parcel):
        raise SystemExit(f"{COMMAND} is how a sweep starts its runs; use lightning-privacy -m ...")
    threading.Thread(target=_watch, args=(stream.fileno(),), daemon=True).start()
    return parcel


def _watch(descriptor: int) -> None:
    """End with the sweep: the pipe is closed when the process at its other end is gone."""
    # Not by the stream, whose lock the interpreter takes when it shuts down.
    os.read(descriptor, 1)
    # Lightning ends a fit after the batch; what does not end by itself is ended.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_END)
    os.kill(os.getpid(), signal.SIGKILL)


def _become(parcel: Parcel) -> DictConfig:
    """Be the job of Hydra that the parcel describes; returns its config."""
    HydraConfig.instance().set_config(parcel.config)
    hydra = HydraConfig.get()
    configure_log(parcel.config.hydra.job_logging, hydra.verbose)
    # Lightning starts further processes of a run with the arguments of the first.
    sys.argv = [sys.argv[0], *task_overrides(hydra)]
    config = copy.deepcopy(parcel.config)
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config
