"""Attribute inference on invented people: gender, age band and country, from a model of their images.

A second model has the gender as an input beside the image, and every gender is tried on it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_privacy._lightning import Trainer, seed_everything
from lightning_privacy.audit.attribute_inference import attribute_figures, candidate_attack, learned_attack
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.data import PersonaDataModule
from lightning_privacy.data.in_memory import InMemoryDataset, collate
from lightning_privacy.data.persona.columns import GENDERS
from lightning_privacy.models import MLP, Classifier

__all__ = ["attributes"]

_COLUMNS = ("gender", "age_band", "location")
_EPSILON, _DELTA = 3.0, 1e-5


def attributes(*, quick: bool) -> dict[str, Any]:
    """Attack a model of images and a model of images and gender, each with privacy and without."""
    people = PersonaDataModule(num_persons=600 if quick else 6000, preparation=[], damage={"wrong_labels": 0.1})
    train, holdout = people.splits.train, people.splits.test
    columns = {
        name: np.concatenate([getattr(train, name).numpy(), getattr(holdout, name).numpy()]) for name in _COLUMNS
    }
    images = torch.cat([train.tensors[0], holdout.tensors[0]]).flatten(1)
    labels = torch.cat([train.labels, holdout.labels])
    member = np.arange(len(labels)) < len(train)
    # The attacker knows the attributes of half of the people held out, and is asked about all others.
    known = np.zeros(len(labels), bool)
    known[len(train) :: 2] = True
    with_gender = torch.cat([images, _indicator(columns["gender"])], dim=1)
    result: dict[str, Any] = {
        "members": int(member.sum()),
        "others": int((~member & ~known).sum()),
        "epsilon": _EPSILON,
        "delta": _DELTA,
        "what_is_known": "image model: the label, and with the model its outputs; gender model: all but the gender",
    }
    for side in ("plain", "private"):
        outputs = _outputs(_trained(images, labels, member, side, quick), images)
        found = {name: _learned(columns[name], outputs, labels, member, known) for name in _COLUMNS}
        model = _trained(with_gender, labels, member, side, quick)
        found["gender, an input"] = _candidate(model, images, columns["gender"], labels, member, known)
        result[side] = found
        for name, figures in found.items():
            print(f"{side}, {name}: with the model {figures['accuracy'][0]:.1%}, without {figures['baseline'][0]:.1%}")
    return result


def _indicator(values: Any) -> Tensor:
    return nn.functional.one_hot(torch.as_tensor(values), len(GENDERS)).float()


def _trained(inputs: Tensor, labels: Tensor, member: Any, side: str, quick: bool) -> Classifier:
    seed_everything(0, verbose=False)
    inside = torch.from_numpy(member)
    network = MLP(in_features=inputs.shape[1], num_classes=10, hidden=(128,))
    module = Classifier(network, num_classes=10, optimizer=partial(torch.optim.Adam, lr=1e-3))
    private = DifferentialPrivacy(delta=_DELTA, epsilon=_EPSILON, probe=False)
    trainer = Trainer(
        max_epochs=2 if quick else 40,
        callbacks=[private] if side == "private" else None,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = InMemoryDataset(inputs[inside], labels[inside])
    trainer.fit(module, DataLoader(data, batch_size=256, shuffle=True, collate_fn=collate))
    return module.eval()


@torch.no_grad()
def _outputs(model: Classifier, inputs: Tensor) -> Any:
    return model(inputs).double().log_softmax(1).numpy()


def _learned(attribute: Any, outputs: Any, labels: Tensor, member: Any, known: Any) -> dict[str, Any]:
    """Guesses from the label with and without the model's outputs."""
    label = np.eye(10)[labels.numpy()]
    loss = -(label * outputs).sum(1, keepdims=True)
    guessed = learned_attack(np.hstack([label, outputs, loss]), attribute, known)
    without = learned_attack(label, attribute, known)
    return _figures(guessed, without, attribute, member, known)


def _candidate(model: Classifier, images: Tensor, gender: Any, labels: Tensor, member: Any, known: Any) -> Any:
    """The gender under which the model fits the record best, weighed by how frequent it is among people known."""
    prior = np.bincount(gender[known], minlength=len(GENDERS)) / known.sum()
    rows = []
    for value in range(len(GENDERS)):
        inputs = torch.cat([images, _indicator(np.full(len(gender), value))], dim=1)
        rows.append(-_outputs(model, inputs)[np.arange(len(gender)), labels.numpy()])
    guessed = candidate_attack(np.stack(rows), prior)
    return _figures(guessed, np.full(len(gender), prior.argmax()), gender, member, known)


def _figures(guessed: Any, without: Any, attribute: Any, member: Any, known: Any) -> dict[str, Any]:
    asked = ~known
    figures = attribute_figures(guessed[asked], without[asked], attribute[asked], member[asked])
    names = ("accuracy", "baseline", "gain", "member_gain")
    return {name: [round(float(number), 4) for number in getattr(figures, name)] for name in names}
