"""Claim: confident learning finds most planted label errors, on the persona generator's digits and on scikit-learn's.

Labels of a share of the rows are moved to another class; the truth is known. Precision and recall of what is found, for
shares from 2 to 20%. On the generator's people the errors are those that it plants itself.

    python benchmarks/label_errors.py             # all of it; writes benchmarks/results/label_errors.json
    python benchmarks/label_errors.py --quick     # small tables: shows that it runs; writes nothing
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from _harness import hardware, run_benchmark

_PACKAGES = ("lightning-privacy", "scikit-learn", "polars", "numpy")
_SHARES = (0.02, 0.05, 0.1, 0.2)
_PERSONS = 4_000


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small tables: shows that it runs")
    parser.add_argument("--output", type=Path, help="result file; a complete run has a place of its own")
    arguments = parser.parse_args(argv)
    if arguments.output is None and not arguments.quick:
        arguments.output = Path(__file__).parent / "results" / "label_errors.json"
    return arguments


def _scores(found: Any, wrong: Any) -> dict[str, Any]:
    hits = int((found & wrong).sum())
    return {
        "rows": len(wrong),
        "planted": int(wrong.sum()),
        "found": int(found.sum()),
        "precision": round(hits / max(1, int(found.sum())), 4),
        "recall": round(hits / max(1, int(wrong.sum())), 4),
    }


def _find(features: Any, labels: Any, model: Any) -> tuple[Any, float]:
    from lightning_privacy.preparation.confident_learning import label_errors, out_of_sample_probabilities

    start = time.perf_counter()
    found = label_errors(labels, out_of_sample_probabilities(features, labels, model=model))
    return found, round(time.perf_counter() - start, 2)


def _digits(models: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    results = []
    for share in _SHARES[1:2] if quick else _SHARES:
        rng = np.random.default_rng(0)
        wrong = rng.random(len(digits.target)) < share
        labels = digits.target.copy()
        labels[wrong] = (labels[wrong] + rng.integers(1, 10, wrong.sum())) % 10
        for name, model in models.items():
            found, seconds = _find(digits.data, labels, model)
            results.append({"share": share, "model": name, **_scores(found, wrong), "seconds": seconds})
    return results


def _persona(models: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    """The generator's wrong labels, records of one image once."""
    import numpy as np

    from lightning_privacy.data.persona.generator import PersonaGenerator

    data = PersonaGenerator(num_persons=600 if quick else _PERSONS).generate()
    records = data.records.unique("image", keep="first", maintain_order=True).drop_nulls("label")
    planted = set(data.truth.planted("wrong_label").to_list())
    wrong = np.array([record in planted for record in records["record"]])
    labels = records["label"].cast(int).to_numpy()
    # Every other pixel in both directions: enough for digits, and a quarter of the time.
    pixels = data.images[records["image"].to_numpy()][:, ::2, ::2].reshape(len(labels), -1) / 255.0
    results = []
    for name, model in models.items():
        found, seconds = _find(pixels, labels, model)
        results.append({"model": name, **_scores(found, wrong), "seconds": seconds})
    return results


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.neighbors import KNeighborsClassifier

    models = {
        "nearest neighbours": KNeighborsClassifier(10, weights="distance"),
        "extremely randomised trees": ExtraTreesClassifier(100, n_jobs=arguments.threads, random_state=0),
    }
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    return {
        "benchmark": "label_errors",
        "quick": arguments.quick,
        "method": "cross-validation in 5 parts, then pruning by noise rate",
        "digits": _digits(models, arguments.quick),
        "persona": _persona(models, arguments.quick),
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
    }


def _format(result: dict[str, Any]) -> str:
    lines = [f"{'data':>10}{'share':>7}{'model':>28}{'planted':>9}{'found':>7}{'precision':>11}{'recall':>8}{'s':>8}"]
    for data in ("digits", "persona"):
        for row in result[data]:
            lines.append(
                f"{data:>10}{row.get('share', row['planted'] / row['rows']):7.2f}{row['model']:>28}{row['planted']:9}"
                f"{row['found']:7}{row['precision']:11.3f}{row['recall']:8.3f}{row['seconds']:8.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
