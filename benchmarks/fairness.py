"""Claim: bootstrap intervals of 200,000 rows, 5 groups and 200 samples take under 3 seconds on two cores.

Fairlearn's MetricFrame is the other side: the same rows, groups and figures, in the same process. Its time is measured
for fewer samples and given for each. A third row has the figures of counts only, which need no rows.

    python benchmarks/fairness.py                          # all of it; writes benchmarks/results/fairness.json
    python benchmarks/fairness.py --rows 20000 --rounds 3  # part of it; writes nothing unless told where
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from _harness import Timing, hardware, interleave, machine_line, parsed, parser_of, run_benchmark

_PACKAGES = ("lightning-privacy", "torch", "fairlearn", "scikit-learn", "numpy", "pandas")
_ROWS, _GROUPS, _SAMPLES = 200_000, 5, 200
_FAIRLEARN_SAMPLES = 1
_QUICK_ROWS = 2_000
_ROUNDS = 3
_THREADS = 2
_LIMIT_SECONDS = 3.0
_FIGURES = ("accuracy", "selection_rate", "tpr", "fpr", "precision", "auroc", "log_loss")
_DESCRIPTIONS = {
    "all figures": "12 figures of every group, with AUROC, log-loss and calibration error, and 11 disparities",
    "figures of counts": "9 figures of every group and 11 disparities, from the table of counts",
    "fairlearn": f"MetricFrame with {len(_FIGURES)} figures: {', '.join(_FIGURES)}",
}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=_ROUNDS, threads=_THREADS, quick="few rows")
    parser.add_argument("--rows", type=int, default=_ROWS)
    arguments = parsed(
        parser,
        argv,
        result="fairness.json",
        complete=lambda given: given.rounds >= _ROUNDS and (given.rows, given.threads) == (_ROWS, _THREADS),
        numbers=("rows", "rounds", "threads"),
    )
    if arguments.quick:
        arguments.rows = _QUICK_ROWS
    return arguments


def _data(rows: int) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(_GROUPS, (rows,), generator=generator)
    target = (torch.rand(rows, generator=generator) < 0.2 + 0.1 * groups).long()
    probs = (torch.randn(rows, generator=generator) + target - 0.5).sigmoid()
    return {"groups": groups, "target": target, "probs": probs, "preds": (probs > 0.5).long()}


def _frame(data: dict[str, Any], samples: int) -> Any:
    """Fairlearn's figures; with ``samples`` their intervals too."""
    import fairlearn.metrics as fm
    import sklearn.metrics as sk

    metrics = {
        "accuracy": sk.accuracy_score,
        "selection_rate": fm.selection_rate,
        "tpr": fm.true_positive_rate,
        "fpr": fm.false_positive_rate,
        "precision": sk.precision_score,
        # MetricFrame gives predictions to every metric, so those of scores get them as a parameter of their own.
        "auroc": lambda y_true, y_pred, scores: sk.roc_auc_score(y_true, scores),  # noqa: ARG005
        "log_loss": lambda y_true, y_pred, scores: sk.log_loss(y_true, scores, labels=[0, 1]),  # noqa: ARG005
    }
    scores = {"scores": data["probs"].numpy()}
    options: dict[str, Any] = {}
    if samples:
        options = {"n_boot": samples, "ci_quantiles": [0.025, 0.975], "random_state": 0}
    return fm.MetricFrame(
        metrics=metrics,
        y_true=data["target"].numpy(),
        y_pred=data["preds"].numpy(),
        sensitive_features=data["groups"].numpy(),
        sample_params={"auroc": scores, "log_loss": scores},
        **options,
    )


def _contenders(data: dict[str, Any], samples: int) -> dict[str, Callable[[], object]]:
    from lightning_privacy.fairness import GroupSample

    def ours(*, scores: bool) -> object:
        sample = GroupSample.of_rows(
            preds=data["preds"],
            target=data["target"],
            groups=data["groups"],
            num_groups=_GROUPS,
            num_classes=2,
            probs=data["probs"] if scores else None,
        )
        return sample.figures(), sample.intervals(replicates=samples)

    return {"all figures": lambda: ours(scores=True), "figures of counts": lambda: ours(scores=False)}


def _largest_error(data: dict[str, Any]) -> float:
    """Of the figures of both sides without bootstrap, which are to be equal."""
    import numpy as np

    from lightning_privacy.fairness import GroupSample

    figures = GroupSample.of_rows(**data, num_groups=_GROUPS, num_classes=2).figures()
    frame = _frame(data, 0).by_group
    return max(float(np.abs(figures[name].numpy() - frame[name].to_numpy(float)).max()) for name in _FIGURES)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits must not keep the other from working
    import torch

    torch.set_num_threads(arguments.threads)
    data = _data(arguments.rows)
    samples = 10 if arguments.quick else _SAMPLES
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    contenders = _contenders(data, samples)
    contenders["fairlearn"] = lambda: _frame(data, _FAIRLEARN_SAMPLES)
    # The figures themselves, without intervals, are taken off: what is asked is the cost of a sample.
    contenders["fairlearn without intervals"] = lambda: _frame(data, 0)
    timings = interleave(contenders, rounds=arguments.rounds, turn_seconds=0.01, enough_seconds=300)
    plain = timings.pop("fairlearn without intervals")
    each = (timings["fairlearn"].seconds - plain.seconds) / _FAIRLEARN_SAMPLES
    cells = {}
    for name, timing in timings.items():
        fairlearn = name == "fairlearn"
        cells[name] = {
            "description": _DESCRIPTIONS[name],
            "samples": _FAIRLEARN_SAMPLES if fairlearn else samples,
            "seconds": round(timing.seconds, 4),
            "best_seconds": round(timing.best_seconds, 4),
            "processor_seconds": round(_processor(timing), 4),
            "milliseconds_per_sample": round(1e3 * (each if fairlearn else timing.seconds / samples), 4),
        }
    seconds = cells["all figures"]["seconds"]
    return {
        "benchmark": "fairness",
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "rows": arguments.rows,
        "groups": _GROUPS,
        "time_method": "the contenders in turn, round by round; seconds: median over rounds; processor_seconds: of all "
        "threads, which other processes disturb less; this package's time holds the counting and the figures "
        "themselves, fairlearn's per sample does not",
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
        "largest_error": _largest_error(data),
        "contenders": cells,
        "times_faster_per_sample": round(
            cells["fairlearn"]["milliseconds_per_sample"] / cells["all figures"]["milliseconds_per_sample"], 1
        ),
        "limit_seconds": _LIMIT_SECONDS,
        "met": bool(seconds < _LIMIT_SECONDS),
    }


def _processor(timing: Timing) -> float:
    return sorted(seconds for turn in timing.processor_rounds for seconds in turn)[len(timing.processor_rounds) // 2]


def _format(result: dict[str, Any]) -> str:
    lines = [f"{'':20}{'samples':>8}{'s':>9}{'best s':>9}{'cpu s':>9}{'ms a sample':>13}"]
    for name, cell in result["contenders"].items():
        lines.append(
            f"{name:20}{cell['samples']:8}{cell['seconds']:9.3f}{cell['best_seconds']:9.3f}"
            f"{cell['processor_seconds']:9.3f}{cell['milliseconds_per_sample']:13.3f}"
        )
    lines.append(
        f"{result['rows']:,} rows, {result['groups']} groups; {result['times_faster_per_sample']} times as fast as "
        f"fairlearn per sample; figures differ by {result['largest_error']:.1e} at most"
    )
    met = "met" if result["met"] else "MISSED"
    lines.append(f"limit {result['limit_seconds']} s: {met}; {machine_line(result['hardware'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
