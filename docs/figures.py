"""Tables in Markdown of what the benchmarks measured, each with the file it is from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "TABLES"]

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def _read(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, name: str, hardware: Mapping[str, Any] | None) -> str:
    """A table, its columns of numbers aligned to the right, and where it is from."""
    rows = list(rows)
    rule = "|" + "".join("---|" if _is_text(column) else "---:|" for column in zip(*rows, strict=True))
    lines = ["| " + " | ".join(row) + " |" for row in ([*head], *rows)]
    source = f"From `benchmarks/results/{name}.json`, which `python benchmarks/{name}.py` writes"
    if hardware is not None:
        device = (
            hardware.get("accelerator")
            or f"{hardware['cpu']}, {hardware['threads']} threads of {hardware['cores']} cores"
        )
        source += f"; measured {str(hardware['date'])[:10]} on {device}".replace("1 threads", "1 thread")
    return "\n".join([lines[0], rule, *lines[1:], "", f"<small>{source}.</small>"])


def _is_text(column: Sequence[str]) -> bool:
    return any(re.match(r"[^\d.,%-]", cell) for cell in column)


def _is_there(name: str) -> bool:
    return (RESULTS / f"{name}.json").exists()


def _not_yet(name: str) -> str:
    """What stands in place of the figures of a benchmark that was not run yet."""
    return f"Not measured yet: `python benchmarks/{name}.py` writes `benchmarks/results/{name}.json`."


def _percent(share: float) -> str:
    return f"{share:.1%}"


def dp_step() -> str:
    """What a whole private step costs beside a plain one, and what it costs in Opacus."""
    found = _read("dp_step")

    def times(contenders: Mapping[str, Any], name: str, kind: str) -> str:
        value = contenders[name].get(kind)
        return "can't run" if value is None else f"{value:.2f}"

    rows = []
    for network in found["networks"].values():
        if "contenders" not in network:
            continue
        sides = network["contenders"]
        best = network["claims"]["best_opacus"]
        rows.append(
            [
                f"{network['description'].split(':')[0].split('(')[0].strip().rstrip(',')}, batch {network['batch']}",
                times(sides, "ours", "time_multiple"),
                times(sides, "Opacus hooks", "time_multiple"),
                f"{times(sides, best, 'time_multiple')} ({best.removeprefix('Opacus ')})",
                times(sides, "ours", "memory_multiple"),
                times(sides, "Opacus hooks", "memory_multiple"),
            ]
        )
    head = ["network", "time", "Opacus, default", "Opacus, fastest mode", "memory", "Opacus, default"]
    return _table(head, rows, name="dp_step", hardware=found["hardware"])


def accuracy() -> str:
    """Test accuracy of private networks on images, each seed."""
    found, network = _read("utility"), _read("fashion_mnist")
    experiments = [(row["experiment"], row["runs"]) for row in found["rows"].values()]
    experiments.append(("fashion_mnist", network["runs"]))
    rows = [
        [
            f"`{experiment}`",
            ", ".join(_percent(run["test_accuracy"]) for run in runs),
            f"{max(run['epsilon'] for run in runs):.2f}",
            f"{runs[0]['delta']:g}",
            str(runs[0]["steps"]),
        ]
        for experiment, runs in experiments
    ]
    table = _table(
        ["experiment", "test accuracy, seed by seed", "epsilon", "delta", "steps"], rows, name="utility", hardware=None
    )
    return table.replace("writes.", "writes, and `fashion_mnist.json` from `fashion_mnist.py`.")


def adult() -> str:
    """Accuracy, privacy and the gap between the sexes on UCI Adult."""
    found = _read("adult")
    rows = []
    for name, row in found["rows"].items():
        epsilon = row["runs"][0].get("epsilon")
        rows.append(
            [
                name,
                "-" if epsilon is None else f"{epsilon:.2f}",
                _percent(row["median_test_accuracy"]),
                f"{100 * row['median_gap']:.1f}",
            ]
        )
    head = ["model", "epsilon", "test accuracy", "gap between men and women, points"]
    return _table(head, rows, name="adult", hardware=found.get("hardware"))


def group_dro() -> str:
    """The worst group where colour gives the label away."""
    found = _read("group_dro")
    names = {
        "plain": "plain training",
        "balanced": "batches balanced over groups",
        "group_dro": "balanced batches and `GroupDRO`",
    }
    rows = [
        [names.get(name, name), _percent(side["median_test_worst"]), _percent(side["median_test_accuracy"])]
        for name, side in found["sides"].items()
    ]
    return _table(["training", "worst group", "accuracy"], rows, name="group_dro", hardware=found.get("hardware"))


def sampling() -> str:
    """Seconds of balanced samplers."""
    found = _read("sampling")
    rows = []
    for case in found["cases"].values():
        for name, side in case["contenders"].items():
            if not name.startswith("this package"):
                ours = case["contenders"]["this package"]
                rows.append([case["title"], f"{ours['seconds']:.3g}", f"{side['seconds']:.3g} ({name})"])
        for name, reason in case["absent"].items():
            rows.append([case["title"], f"{case['contenders']['this package']['seconds']:.3g}", f"{reason} ({name})"])
    return _table(["task", "seconds", "another tool"], rows, name="sampling", hardware=found["hardware"])


def audit() -> str:
    """What canaries proved of runs that are private, not private, and broken on purpose."""
    if not _is_there("audit"):
        return _not_yet("audit")
    found = _read("audit")
    parts, rows = found["parts"], []
    named = [("without privacy", run) for run in parts.get("non_private", {}).get("mislabelled", [])]
    named += [
        (f"epsilon {found['epsilon']:g}, canaries: {kind}", run)
        for kind, runs in parts.get("private", {}).get("runs", {}).items()
        for run in runs
    ]
    named += list(parts.get("broken", {}).get("runs", {}).items())
    named += [("one step of the Gaussian mechanism", run) for run in parts.get("one_step", {}).get("runs", [])]
    for name in dict.fromkeys(name for name, _ in named):
        runs = [run for key, run in named if key == name]
        claimed = runs[0]["claimed"]
        rows.append(
            [
                name,
                str(len(runs)),
                "-" if claimed is None else f"{claimed:.2f}",
                f"{min(run['lower'] for run in runs):.2f} to {max(run['lower'] for run in runs):.2f}",
                str(sum(run["verdict"] == "broken" for run in runs)),
            ]
        )
    head = ["training", "runs", "claimed epsilon", "lower bound, least to largest", "called broken"]
    return _table(head, rows, name="audit", hardware=found["hardware"])


def membership() -> str:
    """What three attacks find of an overfitted model and of a private one."""
    if not _is_there("membership"):
        return _not_yet("membership")
    found = _read("membership")
    names = {"plain": "without privacy, overfitted", "private": f"epsilon {found['membership']['epsilon']:g}"}
    rows = [
        [
            names.get(name, name),
            attack,
            f"{figures['auc']:.3f}",
            f"{figures['tpr']['0.01']['low']:.1%} to {figures['tpr']['0.01']['high']:.1%}",
        ]
        for name, side in found["membership"]["sides"].items()
        for attack, figures in side["attacks"].items()
    ]
    head = ["training", "attack", "AUC", "members found at 1% false alarms"]
    return _table(head, rows, name="membership", hardware=found["hardware"])


def augmentation() -> str:
    """Images a second."""
    found = _read("augmentation")
    rows = [
        [name, *(f"{shape['contenders'][side]['images_per_second']:,}" for side in ("device", "kornia", "torchvision"))]
        for name, shape in found["shapes"].items()
    ]
    head = ["images", "`AugmentationDataModule`, per second", "kornia", "torchvision, one image at a time"]
    return _table(head, rows, name="augmentation", hardware=found["hardware"])


def mechanisms() -> str:
    """Claimed epsilon and what a million runs prove of it."""
    found = _read("mechanisms")
    rows = [[name, f"{row['claim']:g}", f"{row['lower_bound']:.3f}"] for name, row in found["mechanisms"].items()]
    head = ["mechanism", "claimed epsilon", "lower bound found"]
    return _table(head, rows, name="mechanisms", hardware=found["hardware"])


def deduplication() -> str:
    """Precision and recall of finding out who is who."""
    found = _read("deduplication")
    rows = []
    for name, table in found["tables"].items():
        for contender, side in table["contenders"].items():
            if contender == "exact":
                continue
            best = max(side["curve"], key=lambda point: point["f1"])
            rows.append(
                [
                    f"{name.replace('_', ' ')}, {table['records']:,} records",
                    {"ours": "`link_records`"}.get(contender, contender),
                    f"{best['precision']:.3f}",
                    f"{best['recall']:.3f}",
                    f"{best['f1']:.3f}",
                ]
            )
    head = ["table", "tool", "precision", "recall", "F1"]
    return _table(head, rows, name="deduplication", hardware=found["hardware"])


def encryption() -> str:
    """Megabytes a second."""
    found = _read("encryption")
    rows = [[name, f"{side['megabytes_per_second']:,}"] for name, side in found["contenders"].items()]
    return _table(["what", "MB/s"], rows, name="encryption", hardware=found["hardware"])


def serving() -> str:
    """Requests a second."""
    found = _read("serving")
    rows = [
        [
            cell["description"],
            str(cell["clients"]),
            f"{cell['requests_per_second']:,.0f}",
            f"{cell['p99_milliseconds']:.0f}",
        ]
        for cell in found["cells"]
    ]
    head = ["answers", "clients", "requests per second", "99th percentile, ms"]
    return _table(head, rows, name="serving", hardware=found["hardware"])


def fairness() -> str:
    """Milliseconds for each bootstrap sample."""
    found = _read("fairness")
    rows = [
        [f"{name}: {side['description']}", f"{side['milliseconds_per_sample']:,.2f}"]
        for name, side in found["contenders"].items()
    ]
    return _table(
        ["figures of 200,000 rows in five groups", "ms a sample"], rows, name="fairness", hardware=found["hardware"]
    )


def fit() -> str:
    """What privacy costs in a fit, in processor time."""
    if not _is_there("fit"):
        return _not_yet("fit")
    found = _read("fit")
    rows = [
        [name, f"{network['fit_processor_multiple']:.2f}", f"{network['step_processor_multiple']:.2f}"]
        for name, network in found["networks"].items()
    ]
    head = ["network of `benchmarks/dp_step.py`", "fit, processor time", "bare step, processor time"]
    return _table(head, rows, name="fit", hardware=found["hardware"])


def federated() -> str:
    """Clients a second, in simulation."""
    if not _is_there("federated"):
        return _not_yet("federated")
    found = _read("federated")
    names = {"ours": "`FederatedStrategy`", "hand": "a loop by hand", "pfl": "pfl", "flower": "Flower"}
    rows = [
        [f"{network}, {row['parameters']:,} parameters", names.get(side, side), f"{rate:,.1f}"]
        for network, row in found["networks"].items()
        for side, rate in row["clients_per_second"].items()
    ]
    return _table(["network", "tool", "clients per second"], rows, name="federated", hardware=found.get("hardware"))


def federated_utility() -> str:
    """Accuracy of federations on Fashion-MNIST, with and without privacy of clients."""
    if not _is_there("federated_utility"):
        return _not_yet("federated_utility")
    found = _read("federated_utility")
    rows = [
        [
            f"`{name}`",
            "-" if run["guarantee"] is None else f"{run['guarantee']['epsilon']:.2f}",
            _percent(run["test_accuracy"]),
            str(run["rounds"]),
        ]
        for name, run in found["runs"].items()
    ]
    head = ["experiment", "epsilon of a client", "test accuracy", "rounds"]
    return _table(head, rows, name="federated_utility", hardware=found.get("hardware"))


def noise() -> str:
    """Normals a second."""
    found = _read("noise")
    rows = [
        [side["description"], f"{side['millions_per_second']:.0f}"]
        for side in found["contenders"].values()
        if "millions_per_second" in side
    ]
    return _table(["source", "million normals per second"], rows, name="noise", hardware=found["hardware"])


def label_errors() -> str:
    """Wrong labels that were planted and found."""
    found = _read("label_errors")
    rows = [
        [f"digits, {row['share']:.0%} wrong", row["model"], f"{row['precision']:.2f}", f"{row['recall']:.2f}"]
        for row in found["digits"]
    ]
    head = ["labels", "model", "precision", "recall"]
    return _table(head, rows, name="label_errors", hardware=found["hardware"])


def pitfalls() -> str:
    """How often Opacus did what, over the ways to lose the guarantee."""
    found = _read("pitfalls")
    rows = []
    for outcome, meaning in found["outcomes"].items():
        default = [row["row"] for row in found["rows"] if row["outcome"] == outcome]
        other = [
            row["row"] for row in found["rows"] if outcome in row["other_modes"].values() and row["row"] not in default
        ]
        rows.append([f"{outcome}: {meaning}", str(len(default)), ", ".join(sorted({*default, *other})) or "-"])
    head = ["what happened", "rows, default mode", "rows, any mode"]
    return _table(head, rows, name="pitfalls", hardware=None)


def sweep() -> str:
    """A sweep of six runs, one of them killed and done again: each run's epsilon and that of all attempts."""
    found = _read("sweep")
    rows = [
        [f"run {name}", f"{figures['epsilon']:.2f}", _percent(figures["accuracy"])]
        for name, figures in found["figures"].items()
    ]
    rows += [
        [what, f"{found[when]['epsilon_of_the_sweep']:.2f}", "-"]
        for what, when in (
            ("all attempts, when one run had been killed", "first"),
            ("all attempts, when it was done again", "again"),
        )
    ]
    return _table(["", "epsilon", "test accuracy"], rows, name="sweep", hardware=found["hardware"])


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (
        accuracy,
        adult,
        audit,
        augmentation,
        deduplication,
        dp_step,
        encryption,
        fairness,
        federated,
        federated_utility,
        fit,
        group_dro,
        label_errors,
        mechanisms,
        membership,
        noise,
        pitfalls,
        sampling,
        serving,
        sweep,
    )
}
"""The tables by the names under which pages ask for them."""
