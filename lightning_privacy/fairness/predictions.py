"""What a model gives, as classes and probabilities: classes, probabilities and logits told apart, never guessed.

Example:
    >>> import torch
    >>> read_predictions(torch.tensor([0.0, 2.0]), kind="logits").probs
    tensor([0.5000, 0.8808])
    >>> read_predictions(torch.tensor([[0.1, 0.9]]), kind="probs").labels(2, threshold=0.5)
    tensor([1])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.confusion import check_ids

__all__ = ["KINDS", "Predictions", "looks_like_probabilities", "read_predictions"]

KINDS = ("probs", "logits", "preds")
"""Probabilities, logits, or classes."""

_TOLERANCE = 0.02  # bfloat16 has three digits


@dataclass(frozen=True)
class Predictions:
    """Predictions of a batch.

    Attributes:
        probs: probability of class 1, shape ``(N,)``, or of every class, shape ``(N, C)``; float32 or float64.
            None where only classes are known.
        classes: predicted classes, shape ``(N,)``, int64; None where they follow from ``probs``.
    """

    probs: Tensor | None = None
    classes: Tensor | None = None

    def labels(self, num_classes: int, threshold: float = 0.5) -> Tensor:
        """Predicted classes, shape ``(N,)``, int64.

        Args:
            num_classes: number of classes; one that doesn't fit is refused.
            threshold: with two classes, class 1 is predicted where its probability is above it.

        Raises:
            ConfigurationError: the predictions are of another number of classes, or ``threshold`` is not in 0 to 1.
        """
        if not 0.0 <= threshold <= 1.0:
            raise ConfigurationError(f"threshold must be in 0 to 1, got {threshold!r}")
        if self.probs is None:
            classes = torch.zeros(0, dtype=torch.int64) if self.classes is None else self.classes
            return check_ids(classes, num_classes, what="preds", limit_name="num_classes")
        scores = self.scores(num_classes)
        return (scores > threshold).long() if scores.dim() == 1 else scores.argmax(dim=1)

    def scores(self, num_classes: int) -> Tensor:
        """Probabilities of class 1, shape ``(N,)``, for two classes; of every class, shape ``(N, C)``, for more.

        Args:
            num_classes: number of classes.

        Raises:
            ConfigurationError: there are no probabilities, or they are of another number of classes.
        """
        if self.probs is None:
            raise ConfigurationError(
                "preds are classes, and AUROC, log-loss and calibration error need probabilities: give probabilities "
                "or logits, or leave these figures out (scores=False)"
            )
        found = 2 if self.probs.dim() == 1 else self.probs.shape[1]
        if found != num_classes:
            raise ConfigurationError(
                f"num_classes={num_classes}, but the predictions have {found} classes (shape "
                f"{tuple(self.probs.shape)}): set num_classes={found}, or give one column per class"
            )
        return self.probs[:, 1] if self.probs.dim() == 2 and num_classes == 2 else self.probs


def looks_like_probabilities(values: Tensor) -> bool:
    """Whether every row of a ``(N, C)`` tensor is a distribution: none negative, and a sum of 1."""
    if bool((values < 0).any()):
        return False
    return bool(((values.float().sum(dim=1) - 1.0).abs() <= _TOLERANCE).all())


def read_predictions(values: Tensor, *, kind: str) -> Predictions:
    """Turn a tensor into predictions.

    Args:
        values: classes of shape ``(N,)``; or probabilities or logits of class 1, shape ``(N,)``, or of every class,
            shape ``(N, C)`` with C of at least 2. A last dimension of one element is dropped.
        kind: what the numbers are, one of ``KINDS``.

    Returns:
        The predictions, without their graph. Half precisions become float32.

    Raises:
        ConfigurationError: the shape is another, a number is NaN, a probability is not in 0 to 1 or those of a row
            don't add up to 1, or classes are not whole numbers.
    """
    one_of(KINDS, kind=kind)
    values = values.detach()
    if values.dim() == 2 and values.shape[1] == 1:
        values = values.squeeze(1)
    if values.dim() not in (1, 2) or (kind == "preds" and values.dim() == 2):
        wanted = "(N,)" if kind == "preds" else "(N,) or (N, C)"
        raise ConfigurationError(f"{kind} must have shape {wanted}, one row per example, got {tuple(values.shape)}")
    if kind == "preds":
        return Predictions(classes=check_ids(values, 2**31, what="preds", limit_name="num_classes"))
    if values.dtype != torch.float64:
        values = values.float()
    if bool(values.isnan().any()):
        raise ConfigurationError(f"{kind} have NaN in {int(values.isnan().any(-1).sum())} rows: the model has diverged")
    if kind == "logits":
        return Predictions(probs=values.sigmoid() if values.dim() == 1 else values.softmax(dim=1))
    outside = (values < 0) | (values > 1 + _TOLERANCE)
    if bool(outside.any()) or (values.dim() == 2 and not looks_like_probabilities(values)):
        example = values[outside][0].item() if bool(outside.any()) else values.sum(dim=1)[0].item()
        raise ConfigurationError(
            f"probs must be probabilities: in 0 to 1, and with a sum of 1 over the classes; got {example:g}"
            + ("" if bool(outside.any()) else " as a sum")
            + ". If these are logits, say so (logits), or apply sigmoid or softmax"
        )
    return Predictions(probs=values.clamp(max=1.0))
