"""One training by the command, in a process of its own: its figures and its config."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_experiment"]

_GUARANTEE = ("epsilon", "delta", "noise_multiplier", "sample_rate", "steps", "caveats")


def run_experiment(experiment: str, *, root: Path, seed: int, overrides: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """Train once.

    Args:
        experiment: name of a config of the group ``experiment``.
        root: folder of the data's files.
        seed: of the first weights; noise and sampling are fresh each time.
        overrides: further overrides of the config.

    Returns:
        The figures of the run, and its whole config.
    """
    # Not at the top: it is not needed to read the command line, and the tests of that are many.
    from omegaconf import OmegaConf

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lightning_privacy", f"experiment={experiment}", f"seed={seed}"]
        command += [f"data.root={root.resolve()}", f"hydra.run.dir={folder}/run", *overrides]
        before = os.times()
        subprocess.run(command, check=True)
        after = os.times()
        summary = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
        config: Any = OmegaConf.to_container(OmegaConf.load(Path(folder, "run", "config.yaml")))
    outcome, guarantee = summary["outcome"], summary["guarantee"]
    figures = {
        "seed": seed,
        "test_accuracy": outcome["test"]["acc"],
        "train_accuracy": outcome["train"]["acc"],
        **{key: guarantee[key] for key in _GUARANTEE},
        "training_seconds": outcome["seconds"],
        "whole_seconds": after.elapsed - before.elapsed,
        # Of all threads: on a machine that does other things too, the clock says little about the cost.
        "processor_seconds": sum(after[2:4]) - sum(before[2:4]),
    }
    return figures, config
