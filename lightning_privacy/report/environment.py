"""What a run ran on: versions, hardware, the command that started it.

Example:
    >>> values = environment_values(["callbacks.privacy.epsilon=8", "logger.key=abc"])
    >>> values["command"]
    ['lightning-privacy', 'callbacks.privacy.epsilon=8', 'logger.key=(left out)']
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lightning_privacy._text_file import write_text
from lightning_privacy.report._version import package_version
from lightning_privacy.report.hidden import hidden_argument

__all__ = ["ENVIRONMENT_FILE", "environment_values", "write_environment"]

ENVIRONMENT_FILE = "environment.json"
VERSION = 1
_PACKAGES = (
    "torch",
    "pytorch-lightning",
    "lightning",
    "torchmetrics",
    "dp-accounting",
    "opacus",
    "numpy",
    "hydra-core",
)
_CPU = Path("/proc/cpuinfo")


def environment_values(command: Sequence[str]) -> dict[str, Any]:
    """The environment of this process as plain values, without names of people, machines and home folders.

    Args:
        command: Arguments of the command; values of those that are named like secrets are left out.
    """
    return {
        "version": VERSION,
        "lightning_privacy": package_version(),
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": ["lightning-privacy", *map(hidden_argument, command)],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: found for name in _PACKAGES if (found := _installed(name)) is not None},
        "cpu": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def write_environment(folder: Path, command: Sequence[str]) -> None:
    """Write ``environment.json`` into a folder.

    Args:
        folder: Of the run.
        command: Arguments of the command.

    Raises:
        OSError: It can't be written.
    """
    write_text(folder / ENVIRONMENT_FILE, json.dumps(environment_values(command), indent=2) + "\n")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    if _CPU.is_file():
        for line in _CPU.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
