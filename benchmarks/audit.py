"""Claim: audits by canaries find what is not private, keep quiet about what is, and see most of a Gaussian mechanism.

On scikit-learn's digits (1,437 images to train on) and a dense network with 256 hidden units. What must hold:

- without privacy, 1,000 canaries prove an epsilon above 3, whatever the training is;
- at epsilon 2, what is proven stays below 2 for every seed, by losses and by gradients;
- runs that are broken on purpose (noise left out; examples drawn ten times as often as charged; clipping off; the same
  noise in every step) are called broken, in three of four at least. They are broken by patches in this file: the
  package has no option for any of it;
- with one step of the Gaussian mechanism on all data, the gradients prove at least 70% of the true epsilon.

Coins, noise and draws come from the operating system, so that a seed fixes the first weights only. Beside it: what
canaries cost in accuracy, and federated runs whose canaries are clients.

    python benchmarks/audit.py              # about ten minutes on one core; writes results/audit.json
    python benchmarks/audit.py --only broken one_step   # keeps the other parts of the result as they are
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from _harness import hardware, parsed, parser_of, run_benchmark, write_result

_PACKAGES = ("lightning-privacy", "torch", "pytorch-lightning", "dp-accounting", "scipy")
_PARTS = ("non_private", "private", "broken", "one_step", "utility", "federated")
_EPSILON, _DELTA = 2.0, 1e-5


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=20, threads=1, quick="few canaries and steps")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS), help="parts to run")
    return parsed(parser, argv, result="audit.json", complete=lambda given: given.rounds >= 20)


def _module(hidden: tuple[int, ...], seed: int, make: Callable[[Any], Any]) -> Any:
    import torch

    from lightning_privacy.models import MLP, Classifier

    torch.manual_seed(seed)
    return Classifier(MLP(784, 10, hidden=hidden, activation="relu"), num_classes=10, optimizer=make)


def _fit(
    audit: Any | None,
    *,
    privacy: Any | None = None,
    strategy: Any = "auto",
    epochs: int = 10,
    batch_size: int = 256,
    hidden: tuple[int, ...] = (256,),
    rate: float = 1e-3,
    seed: int = 0,
    steps: int = -1,
    sgd: bool = False,
    examples: int | None = None,
) -> dict[str, Any]:
    """Train once, and say what the audit and the test set say."""
    import functools

    import torch
    from torch.utils.data import DataLoader, Subset

    from lightning_privacy._lightning import Trainer
    from lightning_privacy.data import DigitsDataModule

    make = functools.partial(torch.optim.SGD if sgd else torch.optim.Adam, lr=rate)
    module, start = _module(hidden, seed, make), time.perf_counter()
    data = DigitsDataModule(batch_size=batch_size)
    data.setup("fit")
    few = None if examples is None else DataLoader(Subset(data.splits.train, range(examples)), batch_size=batch_size)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=epochs,
            max_steps=steps,
            accelerator="cpu",
            devices=1,
            strategy=strategy,
            callbacks=[callback for callback in (privacy, audit) if callback is not None],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, data if few is None else few)
        accuracy = None
        if few is None and strategy == "auto":
            accuracy = float(trainer.test(module, data, verbose=False)[0]["test/acc"])
    found: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 1), "steps": trainer.global_step}
    if accuracy is not None:
        found["test_accuracy"] = round(accuracy, 4)
    if audit is not None:
        bounds = audit.bounds
        fitted = bounds.fitted_epsilon
        found |= {
            "canaries": bounds.num_canaries,
            "verdict": audit.result.verdict,
            "claimed": bounds.claimed,
            "one_run": round(bounds.one_run, 4),
            "f_dp": round(bounds.f_dp, 4),
            "lower": round(bounds.lower, 4),
            "gaussian_fit": None if fitted is None else [round(value, 4) for value in fitted],
            "guesses": [[guessing.made, guessing.correct] for guessing in bounds.guessings],
        }
    print(json.dumps(found), flush=True)
    return found


def _audit(count: int, canaries: str = "mislabelled") -> Any:
    from lightning_privacy.callbacks.privacy_audit import PrivacyAudit

    return PrivacyAudit(num_canaries=count, canaries=canaries, num_classes=10, show=False, write=False)


def _private(**options: Any) -> Any:
    from lightning_privacy.callbacks import DifferentialPrivacy

    return DifferentialPrivacy(delta=_DELTA, probe=False, **({"epsilon": _EPSILON} | options))


def _non_private(rounds: int, quick: bool) -> dict[str, Any]:
    count, epochs, hidden = (200, 5, (64,)) if quick else (1000, 150, (512,))
    runs = [
        _fit(_audit(count), epochs=epochs, batch_size=64, hidden=hidden, seed=seed)
        for seed in range(max(1, rounds // 10))
    ]
    noise = _fit(_audit(count, "noise"), epochs=epochs // 3, batch_size=64, hidden=hidden)
    return {"mislabelled": runs, "noise": noise, "holds": all(run["one_run"] > 3 for run in runs)}


def _private_runs(rounds: int, quick: bool) -> dict[str, Any]:
    count, epochs = (200, 1) if quick else (1000, 10)
    runs = {
        kind: [_fit(_audit(count, kind), privacy=_private(), epochs=epochs, seed=seed) for seed in range(rounds)]
        for kind in ("mislabelled", "gradients")
    }
    below = {kind: sum(run["lower"] < _EPSILON for run in found) for kind, found in runs.items()}
    return {"runs": runs, "below": below, "holds": all(number == rounds for number in below.values())}


@contextmanager
def _noise_left_out() -> Iterator[None]:
    from lightning_privacy.gradients.buffers import GradientBuffers

    def begin(buffers: Any, *_noise: Any, **_options: Any) -> None:
        buffers.clear()

    with mock.patch.object(GradientBuffers, "begin", begin):
        yield


@contextmanager
def _drawn_too_often() -> Iterator[None]:
    from lightning_privacy.callbacks import _private_run
    from lightning_privacy.sampling import PoissonSampler

    def sampler(settings: Any, **_others: Any) -> PoissonSampler:
        return PoissonSampler(settings.num_examples, sample_rate=10 * settings.sample_rate, steps=2**48)

    with mock.patch.object(_private_run, "private_sampler", sampler):
        yield


@contextmanager
def _clipping_off() -> Iterator[None]:
    import torch

    from lightning_privacy.gradients.clipping import ClippingPolicy

    def bounded_factors(_policy: Any, squared_norms: Any) -> Any:
        return torch.ones_like(squared_norms)

    with mock.patch.object(ClippingPolicy, "bounded_factors", bounded_factors):
        yield


@contextmanager
def _noise_repeated() -> Iterator[None]:
    import torch

    from lightning_privacy.mechanisms.noise import NoiseSource

    kept: dict[int, Any] = {}

    def normal_(_source: Any, tensor: Any, *, std: float, **_place: Any) -> Any:
        if tensor.numel() not in kept:
            kept[tensor.numel()] = torch.randn(tensor.shape)
        return tensor.copy_(kept[tensor.numel()] * std)

    with mock.patch.object(NoiseSource, "normal_", normal_):
        yield


_BROKEN = {
    "noise left out": _noise_left_out,
    "drawn ten times as often": _drawn_too_often,
    "clipping off": _clipping_off,
    "noise repeated": _noise_repeated,
}


def _broken(_rounds: int, quick: bool) -> dict[str, Any]:
    count, epochs = (200, 1) if quick else (1000, 10)
    found = {}
    for name, broken in _BROKEN.items():
        with broken():
            found[name] = _fit(_audit(count, "gradients"), privacy=_private(), epochs=epochs, batch_size=64)
    called = sum(run["verdict"] == "broken" for run in found.values())
    return {"runs": found, "called_broken": called, "holds": called >= 3}


def _one_step(rounds: int, quick: bool) -> dict[str, Any]:
    count, hidden = (5000, (64,)) if quick else (1_000_000, (1024, 1024))
    runs = []
    for seed in range(max(1, rounds // 5)):
        audit = _audit(count, "gradients")
        privacy = _private(epsilon=None, noise_multiplier=1.0)
        # All of 64 images and a million canaries: what the images add to an entry is little beside the noise.
        run = _fit(
            audit, privacy=privacy, hidden=hidden, batch_size=64 + count, steps=1, sgd=True, seed=seed, examples=64
        )
        run["share_of_true"] = round(run["f_dp"] / run["claimed"], 4)
        runs.append(run)
    return {"noise_multiplier": 1.0, "runs": runs, "holds": all(run["share_of_true"] >= 0.7 for run in runs)}


def _utility(rounds: int, quick: bool) -> dict[str, Any]:
    seeds, epochs = range(max(1, rounds // 10)), 1 if quick else 10
    counts = (0, 100) if quick else (0, 100, 1000)
    found: dict[str, Any] = {}
    for name, private in (("without privacy", False), (f"epsilon {_EPSILON:g}", True)):
        for count in counts:
            audits = [_audit(count) if count else None for _ in seeds]
            accuracies = [
                _fit(audit, privacy=_private() if private else None, epochs=epochs, seed=seed)["test_accuracy"]
                for seed, audit in zip(seeds, audits, strict=True)
            ]
            found.setdefault(name, {})[str(count)] = {
                "mean_test_accuracy": round(statistics.mean(accuracies), 4),
                "test_accuracies": accuracies,
                "share_of_training_set": round(count / 1437, 4),
            }
    return found


def _federated(_rounds: int, quick: bool) -> dict[str, Any]:
    from lightning_privacy.federated import ClientPrivacy, IIDPartition
    from lightning_privacy.strategies import FederatedStrategy

    strategy = FederatedStrategy(
        partition=IIDPartition(20 if quick else 200),
        cohort_size=10 if quick else 100,
        local_epochs=1 if quick else 5,
        client_privacy=ClientPrivacy(epsilon=4.0, delta=1e-3, max_delta_norm=0.5),
        client_sampling="poisson",
    )
    run = _fit(
        _audit(10 if quick else 100),
        strategy=strategy,
        batch_size=8,
        epochs=2 if quick else 30,
        hidden=(128,),
        rate=0.1,
        sgd=True,
    )
    return {"clients": 20 if quick else 200, "run": run, "holds": run["lower"] <= 4.0}


_RUN = {
    "non_private": _non_private,
    "private": _private_runs,
    "broken": _broken,
    "one_step": _one_step,
    "utility": _utility,
    "federated": _federated,
}


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(arguments.threads)
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    parts = {}
    if arguments.output is not None and arguments.output.exists():
        parts = json.loads(arguments.output.read_text())["parts"]
    for name in arguments.only:
        print(name, flush=True)
        parts[name] = _RUN[name](2 if arguments.quick else arguments.rounds, arguments.quick)
        result = {
            "benchmark": "audit",
            "quick": arguments.quick,
            "seeds": arguments.rounds,
            "epsilon": _EPSILON,
            "delta": _DELTA,
            "confidence": 0.95,
            "hardware": machine,
            "parts": parts,
        }
        if arguments.output is not None:
            write_result(arguments.output, result)  # an hour is long: what is done is kept
    return result


def _format(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{name}: {'holds' if part['holds'] else 'FAILS'}" for name, part in result["parts"].items() if "holds" in part
    )


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
