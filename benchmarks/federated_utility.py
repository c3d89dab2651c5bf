"""Claim: 100 clients of Fashion-MNIST with skewed classes, 10 a round: at least 80% test accuracy within 100 rounds.

Runs the command's own experiments: ``federated_fashion_mnist`` without privacy, and ``federated_fashion_mnist_private``
with 1,000 clients at epsilon 8 for each whole client, of which the accuracy is reported and nothing claimed. Accuracy
by round is on 5,000 held-out training images; the last weights are tested on the 10,000 of the test.

    python benchmarks/federated_utility.py --root <folder of the files>  # writes results/federated_utility.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _harness import hardware, pin_threads, show_claims, write_result

_RESULT = Path(__file__).parent / "results" / "federated_utility.json"
_PACKAGES = ("lightning-privacy", "torch", "torchvision", "pytorch-lightning", "dp-accounting")
_EXPERIMENTS = ("federated_fashion_mnist", "federated_fashion_mnist_private")
_ACCURACY, _EPSILON, _ROUNDS = 0.8, 8.0, 100
_GUARANTEE = ("epsilon", "delta", "unit", "noise_multiplier", "sample_rate", "steps", "caveats")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the data, as data.root takes it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=_RESULT)
    parser.add_argument("--experiments", nargs="+", choices=_EXPERIMENTS, default=_EXPERIMENTS)
    parser.add_argument("overrides", nargs="*", help="further overrides of the config, such as trainer.max_epochs=2")
    return parser.parse_args(argv)


def _run(experiment: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once, in a process of its own: accuracy by round, and what holds for the model."""
    from omegaconf import OmegaConf

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lightning_privacy", f"experiment={experiment}", f"seed={arguments.seed}"]
        command += [f"data.root={arguments.root.resolve()}", f"hydra.run.dir={folder}/run", *arguments.overrides]
        before = os.times()
        subprocess.run(command, check=True)
        after = os.times()
        run = Path(folder, "run")
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        with (run / "metrics" / "metrics.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        config: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    outcome, guarantee = summary["outcome"], summary["guarantee"]
    held_out = {int(row["epoch"]) + 1: float(row["val/acc"]) for row in rows if row.get("val/acc")}
    # Where the data are is nobody's business; all else of them is a setting.
    settings = {"data": {k: v for k, v in config["data"].items() if k != "root"}, "model": config["model"]}
    return {
        "experiment": experiment,
        "seed": arguments.seed,
        "test_accuracy": outcome["test"]["acc"],
        "train_accuracy": outcome["train"]["acc"],
        "rounds": outcome["steps"],
        "rounds_to_80_percent_held_out": next((n for n, found in sorted(held_out.items()) if found >= _ACCURACY), None),
        "held_out_accuracy_by_round": [round(found, 4) for _, found in sorted(held_out.items())],
        "guarantee": None if guarantee is None else {name: guarantee[name] for name in _GUARANTEE},
        "training_seconds": outcome["seconds"],
        # Of all threads: on a machine that does other things too, the clock says little about the cost.
        "processor_seconds": sum(after[2:4]) - sum(before[2:4]),
        "settings": settings | {"strategy": config["trainer"]["strategy"]},
    }


def main(argv: list[str]) -> int:
    """Run the experiments and write the result; the exit status is 1 if a claim does not hold."""
    arguments = _parse(argv)
    pin_threads(arguments.threads)
    runs = {name: _run(name, arguments) for name in arguments.experiments}
    claims = {}
    for run in runs.values():
        if run["guarantee"] is None:
            reached = run["test_accuracy"] >= _ACCURACY and run["rounds"] <= _ROUNDS
            claims[f"test accuracy at least {_ACCURACY:.0%} within {_ROUNDS} rounds, without privacy"] = reached
        else:
            kept = run["guarantee"]["epsilon"] <= _EPSILON and run["guarantee"]["unit"] == "client"
            claims[f"epsilon of a client at most {_EPSILON:g}"] = kept
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    write_result(arguments.out, {"claims": claims, "runs": runs, "hardware": machine})
    for name, run in runs.items():
        spent = "no privacy" if run["guarantee"] is None else f"epsilon {run['guarantee']['epsilon']:.3f} per client"
        print(
            f"{name}: test accuracy {run['test_accuracy']:.2%} after {run['rounds']} rounds, {spent}, "
            f"{run['processor_seconds'] / 60:.1f} minutes of one processor"
        )
    return show_claims(claims)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
