"""Claim: Fashion-MNIST at epsilon 2.7 and delta 1e-5 with at least 84% test accuracy, in under 20 minutes on 2 cores.

Runs the command's own experiment, ``experiment=fashion_mnist``, once per seed; the seed sets the first weights, while
noise and sampling are fresh each time. The test is on all 10,000 held-out images with the weights of the last step:
nothing is chosen on them.

    python benchmarks/fashion_mnist.py --root <folder of the files>    # writes benchmarks/results/fashion_mnist.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from _experiment import run_experiment
from _harness import hardware, pin_threads, show_claims, write_result

_RESULT = Path(__file__).parent / "results" / "fashion_mnist.json"
_PACKAGES = ("lightning-privacy", "torch", "torchvision", "pytorch-lightning", "dp-accounting")
_ACCURACY, _EPSILON, _MINUTES = 0.84, 2.7, 20.0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the data, as data.root takes it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=_RESULT)
    parser.add_argument("overrides", nargs="*", help="further overrides of the config, such as trainer.max_epochs=2")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run all seeds and write the result; the exit status is 1 if a claim does not hold."""
    arguments = _parse(argv)
    pin_threads(arguments.threads)
    runs = [
        run_experiment("fashion_mnist", root=arguments.root, seed=seed, overrides=arguments.overrides)[0]
        for seed in arguments.seeds
    ]
    claims = {
        f"every test accuracy at least {_ACCURACY:.0%}": all(run["test_accuracy"] >= _ACCURACY for run in runs),
        f"every epsilon at most {_EPSILON}": all(run["epsilon"] <= _EPSILON for run in runs),
        f"every run under {_MINUTES:g} minutes": all(run["whole_seconds"] < 60 * _MINUTES for run in runs),
    }
    accuracies = [run["test_accuracy"] for run in runs]
    result = {
        "claims": claims,
        "median_test_accuracy": statistics.median(accuracies),
        "runs": runs,
        "hardware": hardware(threads=arguments.threads, packages=_PACKAGES),
    }
    write_result(arguments.out, result)
    for run in runs:
        print(
            f"seed {run['seed']}: test accuracy {run['test_accuracy']:.2%}, epsilon {run['epsilon']:.4f}, "
            f"{run['whole_seconds'] / 60:.1f} minutes ({run['processor_seconds'] / 60:.1f} of one processor)"
        )
    return show_claims(claims)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
