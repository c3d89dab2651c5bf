"""Claim: LiRA finds at least five times as many members as chance in an overfitted model, and no more at epsilon 3.

All 1,797 of scikit-learn's digits, at 8x8. A perceptron is trained on a random half of them, once for each of some
targets and references; for the targets each digit's half is decided by a coin of its own. Both sides have the same
network and the same halves. The plain side is trained until it knows its half by heart. The private side has the
callback ``DifferentialPrivacy`` at epsilon 3 on its trainer.

Each target is attacked by the loss threshold, by LiRA (offline) and by RMIA. What is claimed is the true-positive rate
(TPR) at a false-positive rate (FPR) of 1%, all targets together. That the private side can't be told from chance is a
test: with coins that say nothing the number of members above the threshold is negative hypergeometric, and the test
alarms where one as large has a probability of 5% or less. So it alarms in one run of 20 where there is nothing; what
leak it would miss in one run of 10 stands in the result.

Beside it, measured and not claimed: attribute inference on persona columns and gradient inversion against federated
deltas (``_attribute_inference.py``, ``_gradient_inversion.py``), both with privacy and without.

    python benchmarks/membership.py                        # all of it; writes benchmarks/results/membership.json
    python benchmarks/membership.py --quick                # shows that it runs, measures nothing
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _harness import hardware, pin_threads, write_result

_RESULT = Path(__file__).parent / "results" / "membership.json"
_PACKAGES = ("lightning-privacy", "torch", "pytorch-lightning", "scikit-learn", "numpy")
_TARGETS, _REFERENCES = 4, 16
_FPR = 0.01
_TIMES = 5
_EPSILON, _DELTA = 3.0, 1e-5
_SIGNIFICANCE, _MISS = 0.05, 0.1
_SETTINGS = {
    "plain": {"epochs": 100, "batch": 128, "learning_rate": 1e-2},
    "private": {"epochs": 60, "batch": 256, "learning_rate": 1e-2},
}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--targets", type=int, default=_TARGETS)
    parser.add_argument("--references", type=int, default=_REFERENCES)
    parser.add_argument("--jobs", type=int, default=2, help="models trained at the same time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few small models: shows that it runs, measures nothing")
    parser.add_argument("--only", choices=("membership", "attributes", "inversion"), help="one part; writes nothing")
    parser.add_argument("--picture", type=Path, help="where to save the picture of the gradient inversion")
    parser.add_argument("--output", type=Path, help="result file; a complete run has a place of its own")
    arguments = parser.parse_args(argv)
    for name, least in (("targets", 1), ("references", 4), ("threads", 1), ("jobs", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} must be >= {least}, got {getattr(arguments, name)}")
    enough = arguments.targets >= _TARGETS and arguments.references >= _REFERENCES
    complete = enough and not arguments.quick and arguments.only is None
    if arguments.output is None and complete:
        arguments.output = _RESULT
    return arguments


def _trainer(epochs: int, private: bool) -> Any:
    from lightning_privacy._lightning import Trainer
    from lightning_privacy.callbacks import DifferentialPrivacy

    callbacks = [DifferentialPrivacy(delta=_DELTA, epsilon=_EPSILON, max_grad_norm=1.0, probe=False)]
    return Trainer(
        max_epochs=epochs,
        callbacks=callbacks if private else None,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _data() -> Any:
    import torch
    from sklearn.datasets import load_digits

    from lightning_privacy.data.in_memory import InMemoryDataset

    images, labels = load_digits(return_X_y=True)
    return InMemoryDataset(torch.tensor(images / 8 - 1, dtype=torch.float32), torch.tensor(labels))


def _trained(name: str, epochs: int, threads: int, first: int, member: Any) -> tuple[Any, Any]:
    """Losses of some models, and where they are right; in a process of its own."""
    import numpy as np
    import torch

    from lightning_privacy.callbacks._reference_models import losses_of_models
    from lightning_privacy.data.in_memory import collate
    from lightning_privacy.models import MLP, Classifier

    torch.set_num_threads(threads)
    _be_quiet()
    settings = _SETTINGS[name]
    adam = partial(torch.optim.Adam, lr=settings["learning_rate"])
    right: list[Any] = []

    def module() -> Classifier:
        return Classifier(MLP(in_features=64, num_classes=10, hidden=(64,)), num_classes=10, optimizer=adam)

    def losses(model: Any, batch: Any) -> Any:
        outputs = model(batch[0]).double()  # so that confidences next to 1 are told apart
        right.append((outputs.argmax(1) == batch[1]).numpy())
        return torch.nn.functional.cross_entropy(outputs, batch[1], reduction="none")

    found = losses_of_models(
        module,
        _data(),
        member,
        make_trainer=partial(_trainer, epochs, name == "private"),
        batch_size=int(settings["batch"]),
        collate_fn=collate,
        losses=losses,
        seed=first,
    )
    return found, np.concatenate(right).reshape(found.shape)


def _be_quiet() -> None:
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _side(name: str, arguments: argparse.Namespace, labels: Any, member: Any, halves: Any) -> dict[str, Any]:
    """Train targets and references of one side and attack the targets."""
    import numpy as np

    from lightning_privacy.audit.exceedances import detectable_ratio
    from lightning_privacy.audit.membership import measure_membership

    settings = _SETTINGS[name]
    epochs = 2 if arguments.quick else int(settings["epochs"])
    every = np.concatenate([member, halves])
    starts = np.array_split(np.arange(len(every)), arguments.jobs)
    start = time.perf_counter()
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        done = [
            pool.submit(_trained, name, epochs, arguments.threads, int(rows[0]), every[rows])
            for rows in starts
            if rows.size
        ]
        parts = [future.result() for future in done]
    seconds = time.perf_counter() - start
    found, right = (np.concatenate(each) for each in zip(*parts, strict=True))
    correct = right[: len(member)]
    report = measure_membership(found[: len(member)], member, found[len(member) :], halves, parts={"class": labels})
    figures = report.attacks["lira"]
    ratio = detectable_ratio(figures.members, figures.non_members, fpr=_FPR, significance=_SIGNIFICANCE, miss=_MISS)
    result = report.result(**({"epsilon": _EPSILON, "delta": _DELTA} if name == "private" else {}))
    print(f"{name}: {result.sentence}", flush=True)
    return {
        **settings,
        "epochs": epochs,
        "accuracy_on_members": float(correct[member].mean()),
        "accuracy_on_others": float(correct[~member].mean()),
        "seconds_of_training": round(seconds, 1),
        "attacks": {attack: value.to_dict() for attack, value in report.attacks.items()},
        "classes": {
            part: {attack: value.to_dict() for attack, value in attacks.items()}
            for part, attacks in report.parts["class"].items()
        },
        "p_value_of_lira": report.p_values["lira"][_FPR],
        "p_value_of_rmia": report.p_values["rmia"][_FPR],
        "noticed_from_this_multiple_of_the_fpr": round(ratio, 3),
        "verdict": result.verdict,
    }


def _membership(arguments: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from lightning_privacy.audit.halves import random_halves

    labels = _data().tensors[1].numpy()
    coins = np.random.default_rng(0).random((arguments.targets, len(labels))) < 0.5
    halves = random_halves(arguments.references, len(labels), seed=1)
    sides = {name: _side(name, arguments, labels, coins, halves) for name in _SETTINGS}
    plain = sides["plain"]["attacks"]["lira"]["tpr"][f"{_FPR:g}"]
    p_value = sides["private"]["p_value_of_lira"]
    return {
        "targets": arguments.targets,
        "references": arguments.references,
        "epsilon": _EPSILON,
        "delta": _DELTA,
        "test": {
            "fpr": _FPR,
            "probability_of_an_alarm_where_nothing_leaks": _SIGNIFICANCE,
            "probability_of_missing_the_multiple_noticed": _MISS,
        },
        "sides": sides,
        "seconds_of_all_attacks_on_60000_examples_with_64_references": _attack_seconds(arguments.quick),
        "claims": {
            f"LiRA on the overfitted model: TPR at {_FPR:.0%} FPR at least {_TIMES} times the FPR": plain["value"]
            >= _TIMES * _FPR,
            f"at epsilon {_EPSILON:g} LiRA at {_FPR:.0%} FPR is not told from chance": p_value > _SIGNIFICANCE,
        },
    }


def _attack_seconds(quick: bool) -> float:
    import numpy as np

    from lightning_privacy.audit.halves import random_halves
    from lightning_privacy.audit.membership import measure_membership

    examples = 600 if quick else 60_000
    rng = np.random.default_rng(0)
    member, halves = rng.random(examples) < 0.5, random_halves(64, examples, seed=0)
    losses, references = rng.exponential(size=examples), rng.exponential(size=(64, examples))
    start = time.perf_counter()
    measure_membership(losses, member, references, halves)
    return round(time.perf_counter() - start, 2)


def main(argv: list[str]) -> int:
    """Train, attack, print, write; the exit status is 1 if a claim does not hold."""
    arguments = _parse(argv)
    pin_threads(arguments.threads)
    import torch
    from _attribute_inference import attributes
    from _gradient_inversion import inversion

    torch.set_num_threads(arguments.threads)
    _be_quiet()
    parts = {
        "membership": lambda: _membership(arguments),
        "attributes": lambda: attributes(quick=arguments.quick),
        "inversion": lambda: inversion(quick=arguments.quick, picture=arguments.picture),
    }
    result: dict[str, Any] = {"benchmark": "membership", "quick": arguments.quick}
    for name, part in parts.items():
        if arguments.only in (None, name):
            result[name] = part()
    result["hardware"] = hardware(threads=arguments.threads, packages=_PACKAGES)
    if arguments.output is not None:
        write_result(arguments.output, result)
        print(f"written to {arguments.output}")
    claims = result.get("membership", {}).get("claims", {})
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    return int(not arguments.quick and not all(claims.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
