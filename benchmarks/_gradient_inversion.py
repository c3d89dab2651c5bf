"""Gradient inversion against the deltas of federated clients, as they are sent and as ClientPrivacy releases them."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_privacy.audit import AuditImage, AuditResult
from lightning_privacy.audit.gradient_inversion import invert_update, likeness
from lightning_privacy.federated.algorithms import Algorithm, LocalTraining
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.cohorts import PoissonCohorts
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.local import LocalLoop
from lightning_privacy.report.audit_picture import audit_picture

__all__ = ["inversion"]

_RATE = 0.1
_NORM = 0.1
_SHOWN = 4
_COMPARED = ("one step, one image", "client privacy, noise 1")
#: Local steps, examples of a client, noise multiplier of the round (None: no client privacy).
_CASES: dict[str, tuple[int, int, float | None]] = {
    "one step, one image": (1, 1, None),
    "three steps, one image": (3, 1, None),
    "one step, four images": (1, 4, None),
    "clipped, noise 0.01": (1, 1, 0.01),
    "clipped, noise 0.1": (1, 1, 0.1),
    "client privacy, noise 1": (1, 1, 1.0),
}


def inversion(*, quick: bool, picture: Path | None) -> dict[str, Any]:
    """Reconstruct the images of several clients in each case."""
    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
    labels = torch.tensor(classes)
    clients = 2 if quick else 10
    cases, shown = {}, [AuditImage(f"client {number}", _grey(images[number])) for number in range(min(_SHOWN, clients))]
    for name, (steps, size, noise) in _CASES.items():
        likes, labels_right = [], 0
        for client in range(clients):
            own = torch.arange(size) * clients + client
            model = _network(client)
            update = _delta(model, images[own], labels[own], steps)
            if noise is not None:
                update = _released(update, noise)
            found = invert_update(
                model, update, learning_rate=_RATE, input_shape=(1, 8, 8), num_examples=size, local_steps=steps,
                bounds=(-1.0, 1.0), iterations=20 if quick else 300, total_variation=0.01, seed=client,
            )  # fmt: skip
            labels_right += int(found.labels.tolist() == sorted(labels[own].tolist()))
            pairs = _matched(found.inputs, images[own])
            likes += [likeness(first, second, images) for first, second in pairs]
            if client < _SHOWN and name in _COMPARED:
                shown.append(AuditImage(name if client == 0 else "", _grey(found.inputs[0])))
        cases[name] = {
            "local_steps": steps,
            "images_of_a_client": size,
            "noise_multiplier": noise,
            "labels_right": labels_right / clients,
            "median_psnr": round(statistics.median(like.psnr for like in likes), 2),
            "median_correlation": round(statistics.median(like.correlation for like in likes), 3),
            "picked_out_of_1797": round(sum(like.rank == 0 for like in likes) / len(likes), 3),
        }
        case = cases[name]
        print(f"{name}: picked {case['picked_out_of_1797']:.0%}, PSNR {case['median_psnr']} dB", flush=True)
    bare, private = (cases[name]["picked_out_of_1797"] for name in _COMPARED)
    audit = AuditResult(
        kind="inversion",
        title="Gradient inversion",
        verdict="measured",
        sentence=(
            f"From what a client with one image sends, {bare:.0%} of the images can be picked out of 1,797; from a "
            f"round with client privacy {private:.0%}."
        ),
        rows=[(name, f"{case['picked_out_of_1797']:.0%}, {case['median_psnr']} dB") for name, case in cases.items()],
        images=shown,
    )
    if picture is not None:
        audit_picture(audit, picture, columns=min(_SHOWN, clients))
    return {
        "clients": clients,
        "learning_rate": _RATE,
        "max_delta_norm": _NORM,
        "attacker": "knows the network, its weights, the learning rate, the number of images, and the deltas of all "
        "other clients of the round, so that the released sum less theirs is the client's clipped delta and all the "
        "noise",
        "cases": cases,
        "audit": audit.to_dict(),
    }


def _grey(image: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in row] for row in ((image.squeeze(0) + 1) / 2).clamp(0, 1).tolist()]


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(512, 32), nn.Tanh(), nn.Linear(32, 10)
    )


def _delta(network: nn.Module, images: Tensor, labels: Tensor, steps: int) -> Tensor:
    """What the package's local training sends."""
    model = FlatModel(network)
    model.remember()
    local = LocalTraining(0, 0, len(labels), model, torch.optim.SGD(network.parameters(), lr=_RATE))
    loop = LocalLoop(lambda batch, _: nn.functional.cross_entropy(network(batch[0]), batch[1]), epochs=steps)
    loop.run(local, lambda _: iter([(images, labels)]), Algorithm())
    delta = model.delta().clone()
    model.restore()
    return delta


def _released(delta: Tensor, noise: float) -> Tensor:
    """The round's sum as ClientPrivacy releases it, less the deltas of all other clients."""
    privacy = ClientPrivacy(delta=1e-5, noise_multiplier=noise, max_delta_norm=_NORM)
    privacy.plan(num_clients=1000, cohort=PoissonCohorts(10), rounds=1)
    clipped, votes = privacy.clip(delta)
    return privacy.finish(0, clipped, votes) * privacy.expected_cohort_size


def _matched(found: Tensor, originals: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each original with the reconstruction that is most like it, one for one."""
    from scipy.optimize import linear_sum_assignment

    errors = (found[:, None] - originals[None]).square().flatten(2).mean(2)
    rows, columns = linear_sum_assignment(errors.numpy())
    return [(found[row], originals[column]) for row, column in zip(rows, columns, strict=True)]
