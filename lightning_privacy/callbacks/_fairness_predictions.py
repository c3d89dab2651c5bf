"""Predictions and labels of a batch: from what the step returned, from ``forward``, or as the user says.

Example:
    >>> import torch
    >>> outputs = {"logits": torch.tensor([[0.0, 2.0]]), "loss": torch.tensor(0.1)}
    >>> reading = Reading()
    >>> reading.predictions(outputs, batch=None, module=None, context=None).labels(2)
    tensor([1])
    >>> reading.target({}, [torch.zeros(1, 3), torch.tensor([1])])
    tensor([1])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._lightning import LightningModule
from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.batch_groups import Groups, column_of
from lightning_privacy.fairness.predictions import KINDS, Predictions, looks_like_probabilities, read_predictions

__all__ = ["Reading", "fields_of"]

_TARGETS = ("target", "targets", "label", "labels", "y")
_INPUTS = ("x", "input", "inputs", "image", "images", "features", "pixel_values")
_WAYS_OUT = (
    "Return a dictionary with 'probs', 'logits' or 'preds' from the step, or pass predict=, a function of the module "
    "and the batch"
)


def fields_of(batch: Any) -> Any:
    """A data class as a mapping of its fields; anything else as it is."""
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return batch


def _named(batch: Any, names: Sequence[str]) -> Any:
    """The first entry of one of these names; None where there is none."""
    found = batch if isinstance(batch, Mapping) else {name: getattr(batch, name, None) for name in _fields(batch)}
    return next((found[name] for name in names if found.get(name) is not None), None)


def _fields(batch: Any) -> tuple[str, ...]:
    fields: tuple[str, ...] = getattr(batch, "_fields", ())
    return fields


class Reading:
    """How predictions and labels are read.

    Args:
        predict: A function of the module and the batch that returns what ``forward`` may return; None to look for
            ``"probs"``, ``"logits"`` or ``"preds"`` in what the step returned, and else to call ``forward``.
        kind: What predictions without a name are: ``"probs"``, ``"logits"`` or ``"preds"``. None tells where it can be
            told: whole numbers are classes, and rows of several numbers are probabilities if they add up to 1, and
            logits otherwise.
        target: Where in the batch the labels are; None for the usual places.

    Raises:
        ConfigurationError: An argument is none of these.
    """

    def __init__(
        self,
        predict: Callable[[LightningModule, Any], Any] | None = None,
        kind: str | None = None,
        target: Groups | None = None,
    ) -> None:
        if predict is not None and not callable(predict):
            raise ConfigurationError(f"predict must be a function of the module and the batch, got {predict!r}")
        if kind is not None:
            one_of(KINDS, prediction_kind=kind)
        self._predict = predict
        self._kind = kind
        self._target = target

    def predictions(
        self, outputs: Any, batch: Any, module: Any, context: Callable[[], AbstractContextManager[Any]] | None
    ) -> Predictions:
        """The predictions of a batch.

        Args:
            outputs: What the step returned.
            batch: What the step was given.
            module: The module.
            context: Of the precision, in which ``forward`` is run.

        Raises:
            ConfigurationError: There are none, or what there is can't be told to be probabilities, logits or classes.
        """
        if self._predict is None:
            found = self._by_name(outputs, "the step")
            if found is not None:
                return found
            forward = self._forward(module)

            def given() -> Any:
                return forward(_input(batch))

            source = "forward"
        else:
            predict = self._predict

            def given() -> Any:
                return predict(module, batch)

            source = "predict"
        with torch.no_grad():
            if context is None:
                result = given()
            else:
                with context():
                    result = given()
        found = self._by_name(result, source)
        return self._without_name(result, source) if found is None else found

    def _by_name(self, outputs: Any, source: str) -> Predictions | None:
        """Predictions that are called by their kind."""
        entries = outputs if isinstance(outputs, Mapping) else {"logits": getattr(outputs, "logits", None)}
        for kind in KINDS:
            values = entries.get(kind)
            if isinstance(values, Tensor):
                # Some call their probabilities or logits "preds".
                if kind == "preds" and values.is_floating_point():
                    return self._without_name(values, f"'preds' of {source}")
                return read_predictions(values, kind=kind)
        return None

    def _without_name(self, values: Any, source: str) -> Predictions:
        if not isinstance(values, Tensor):
            raise ConfigurationError(
                f"{source} gave a {type(values).__name__} and no tensor of predictions. {_WAYS_OUT}"
            )
        if self._kind is not None:
            return read_predictions(values, kind=self._kind)
        if not values.is_floating_point():
            return read_predictions(values, kind="preds")
        if values.dim() == 2 and values.shape[1] > 1:
            return read_predictions(values, kind="probs" if looks_like_probabilities(values) else "logits")
        raise ConfigurationError(
            f"{source} gave one number per example, shape {tuple(values.shape)}, which may be a probability, a logit "
            "or a class: say which with prediction_kind='probs', 'logits' or 'preds'"
        )

    @staticmethod
    def _forward(module: Any) -> Any:
        if getattr(type(module), "forward", None) is LightningModule.forward:
            raise ConfigurationError(
                f"{type(module).__name__} returns no predictions from its step and has no forward. {_WAYS_OUT}"
            )
        return module

    def target(self, outputs: Any, batch: Any) -> Tensor:
        """The labels of a batch, shape ``(N,)``.

        Args:
            outputs: What the step returned; labels in it go first.
            batch: What the step was given.

        Raises:
            ConfigurationError: There are none.
        """
        if self._target is not None:
            found = column_of(batch if callable(self._target) else fields_of(batch), self._target, argument="target")
        else:
            found = _named(outputs, _TARGETS) if isinstance(outputs, Mapping) else None
            batch = fields_of(batch)
            if found is None:
                found = _named(batch, _TARGETS)
            if found is None and isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) > 1:
                found = batch[1]
        if found is None:
            raise ConfigurationError(
                f"there are no labels in the batch, a {type(batch).__name__}: none of {', '.join(_TARGETS)} and no "
                "second part. Say where they are with target=, a key, a place or a function of the batch"
            )
        try:
            labels = found if isinstance(found, Tensor) else torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"labels must be numbers, one class per example, got a {type(found).__name__}: say where they are with "
                "target=, a key, a place or a function of the batch"
            ) from error
        labels = labels.detach().squeeze(1) if labels.dim() == 2 and labels.shape[1] == 1 else labels.detach()
        if labels.dim() != 1:
            raise ConfigurationError(
                f"labels must be one class per example, got shape {tuple(labels.shape)}: give a function that makes "
                "them so as target="
            )
        return labels


def _input(batch: Any) -> Any:
    """What ``forward`` is called with."""
    batch = fields_of(batch)
    if isinstance(batch, Tensor):
        return batch
    found = _named(batch, _INPUTS)
    if found is None and isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        found = batch[0]
    if found is None:
        raise ConfigurationError(
            f"what forward is called with is not known: the batch is a {type(batch).__name__} with none of "
            f"{', '.join(_INPUTS)}. {_WAYS_OUT}"
        )
    return found
