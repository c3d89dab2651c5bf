"""Claim: at epsilon 3 and delta 1e-5, end to end from pixels, MNIST at 98.9% and Fashion-MNIST at 90.0% test accuracy.

Tramer and Boneh ("Differentially Private Learning Needs Better Features (or Much More Data)", 2021) report 98.7% and
89.7% with scattering features, and 98.1% and 86.0% for training on the pixels themselves.

Each row is an experiment of the command's own, run once per seed. The seed sets the first weights; noise and sampling
are fresh each time, so repeating a seed gives another figure. The test is on all 10,000 held-out images with the
weights of the last step: no settings were chosen by the accuracy on them (``search`` in the result says how they were
chosen). Epsilon is what the run's ledger says; the search is not in it.

    python benchmarks/utility.py --root <folder with mnist/ and fashion-mnist/>     # writes results/utility.json
    python benchmarks/utility.py --root <folder> --out other.json -- callbacks.privacy.epsilon=1
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _experiment import run_experiment
from _harness import hardware, pin_threads, show_claims, write_result

_RESULT = Path(__file__).parent / "results" / "utility.json"
_PACKAGES = ("lightning-privacy", "torch", "torchvision", "pytorch-lightning", "dp-accounting")
_EPSILON = 3.0


@dataclass(frozen=True)
class Row:
    """One data set: the experiment, where its files are, what it should reach, how its settings were found."""

    experiment: str
    folder: str
    target: float
    published: float
    search: str


ROWS = {
    "mnist": Row(
        experiment="mnist_scattering",
        folder="mnist",
        target=0.989,
        published=0.987,
        search=(
            "24 configurations, each trained once on 50,000 of the training images (6 of them on 12,000) and "
            "compared on 10,000 (8,000) others of the training images, never on the test: 15 linear "
            "(normalisation, order 2 relative to order 1, centred features, upright digits, learning rate 2 to "
            "80, bound 0.01 or 0.1, 15 to 50 epochs), 3 with a convolution on the features (2 cut short), 6 with "
            "digits magnified or not. Their privacy is not accounted."
        ),
    ),
    "fashion_mnist": Row(
        experiment="fashion_mnist_scattering",
        folder="fashion-mnist",
        target=0.900,
        published=0.897,
        search=(
            "16 configurations, all linear, each trained once on 50,000 of the training images and compared on "
            "the other 10,000: normalisation, order 2 relative to order 1, learning rate 8 to 80, momentum 0.9 or "
            "0.97, 15 or 40 epochs. Their privacy is not accounted. The test set was looked at twice: the best of "
            "the first 15 (15 epochs, learning rate 32) had reached 90.24%, 90.18%, 90.24% and 89.89% when the "
            "16th was tried and was 0.2 points better on the 10,000."
        ),
    ),
}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder that has the folders mnist and fashion-mnist")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=_RESULT, help="rows that are not run keep what is there")
    parser.add_argument("overrides", nargs="*", help="after --: overrides of the config, such as trainer.max_epochs=2")
    return parser.parse_args(argv)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """What of a run's config decides its accuracy; folders left out."""
    data = {key: value for key, value in config["data"].items() if key not in ("root", "download")}
    trainer = {key: config["trainer"][key] for key in ("max_epochs", "max_steps", "accumulate_grad_batches")}
    others = {key: value for key, value in config["callbacks"].items() if key not in ("checkpoint", "progress")}
    return {"data": data, "model": config["model"], "callbacks": others, "trainer": trainer}


def _run(row: Row, root: Path, seed: int, overrides: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One training: its figures, and its settings."""
    overrides = ["data.download=false", *overrides]
    figures, config = run_experiment(row.experiment, root=root / row.folder, seed=seed, overrides=overrides)
    return figures, _settings(config)


def judge(row: Row, runs: list[dict[str, Any]], overrides: list[str]) -> dict[str, bool]:
    """Which claims hold for the runs of a row; with overrides it is another experiment, and nothing is claimed."""
    if overrides:
        return {}
    median = statistics.median(run["test_accuracy"] for run in runs)
    return {
        f"median test accuracy at least {row.target:.1%}": median >= row.target,
        f"median test accuracy above the published {row.published:.1%}": median > row.published,
        f"every epsilon at most {_EPSILON:g}": all(run["epsilon"] <= _EPSILON for run in runs),
    }


def main(argv: list[str]) -> int:
    """Run rows and seeds and write the result after each run; the exit status is 1 if a claim does not hold."""
    arguments = _parse(argv)
    pin_threads(arguments.threads)
    result: dict[str, Any] = {"benchmark": "utility", "rows": {}}
    if arguments.out.exists():
        result = json.loads(arguments.out.read_text(encoding="utf-8"))
    failed = 0
    for name in arguments.rows:
        row, runs = ROWS[name], []
        for seed in arguments.seeds:
            figures, settings = _run(row, arguments.root, seed, arguments.overrides)
            runs.append(figures)
            claims = judge(row, runs, arguments.overrides)
            result["rows"][name] = {
                "experiment": row.experiment,
                "overrides": arguments.overrides,
                "claims": claims,
                "median_test_accuracy": statistics.median(run["test_accuracy"] for run in runs),
                "runs": runs,
                "settings": settings,
                "search": row.search,
                "hardware": hardware(threads=arguments.threads, packages=_PACKAGES),
            }
            write_result(arguments.out, result)
            print(
                f"{name}, seed {seed}: test accuracy {figures['test_accuracy']:.2%}, epsilon {figures['epsilon']:.4f}, "
                f"{figures['whole_seconds'] / 60:.1f} minutes ({figures['processor_seconds'] / 60:.1f} of a processor)",
                flush=True,
            )
        failed |= show_claims(claims, about=f"{name}: ")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
