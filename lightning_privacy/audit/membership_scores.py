"""Scores of membership from the losses of one model: the simplest attack, and what the calibrated ones start from.

A model that was trained on an example has a lower loss on it than it would have otherwise (Yeom et al., "Privacy Risk
in Machine Learning: Analyzing the Connection to Overfitting", 2018).

Example:
    >>> import numpy as np
    >>> loss_scores(np.array([0.1, 2.0])).tolist()
    [-0.1, -2.0]
    >>> confidence_logits(np.log(np.array([2.0, 4.0]))).round(4).tolist()  # confidences of a half and a quarter
    [0.0, -1.0986]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_privacy.errors import ConfigurationError

__all__ = ["check_losses", "check_references", "confidence_logits", "loss_scores", "margin_logits"]


def check_losses(losses: npt.ArrayLike, *, name: str = "losses") -> npt.NDArray[np.float64]:
    """Losses as float64, all of them finite.

    Args:
        losses: Any shape.
        name: The argument's name, for the message.

    Raises:
        ConfigurationError: One is NaN or infinite.
    """
    values = np.asarray(losses, np.float64)
    if not np.isfinite(values).all():
        wrong = int((~np.isfinite(values)).sum())
        raise ConfigurationError(
            f"{name} must be finite, got {wrong} of {values.size} that are not: did a model diverge? Leave it out, or "
            "train it with a lower learning rate"
        )
    return values


def check_references(
    losses: npt.NDArray[np.float64], reference_losses: npt.ArrayLike, reference_member: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The losses of reference models, and which examples each was trained on, both of shape ``(R, N)``.

    Args:
        losses: Of the models under attack, shape ``(..., N)``.
        reference_losses: Shape ``(R, N)``.
        reference_member: True where a reference model was trained on an example, shape ``(R, N)``; or one value per
            example.

    Raises:
        ConfigurationError: Shapes don't agree, or an example was in the training of every reference model.
    """
    references = check_losses(reference_losses, name="reference_losses")
    if references.ndim != 2 or references.shape[1] != losses.shape[-1]:
        raise ConfigurationError(
            f"reference_losses must be of shape (references, {losses.shape[-1]}), got {references.shape}"
        )
    member = np.asarray(reference_member)
    if member.dtype != np.bool_ or member.shape not in (references.shape, references.shape[1:]):
        raise ConfigurationError(
            f"reference_member must hold True and False in shape {references.shape}, got {member.dtype} of shape "
            f"{member.shape}"
        )
    member = np.broadcast_to(member, references.shape)
    never_out = int(member.all(axis=0).sum())
    if never_out:
        raise ConfigurationError(
            f"reference_member says that {never_out} of {member.shape[1]} examples were in the training of all "
            f"{member.shape[0]} reference models: each needs one at least that was trained without it, so train on "
            "random halves, or more models"
        )
    return references, member


def loss_scores(losses: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Minus the losses: one threshold for all examples (Yeom et al. 2018).

    Args:
        losses: Any shape.

    Raises:
        ConfigurationError: One is not finite.
    """
    return -check_losses(losses)


def confidence_logits(losses: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The logit of a model's confidence in the true label, log p / (1 - p), which is nearly normal over models.

    See Carlini et al. 2022. A loss that its number type rounded to zero counts as half of the smallest step
    below a confidence of one.

    Args:
        losses: Cross-entropy, -log p, any shape. In float32 confidences are told apart up to 1 - 6e-8 only;
            :func:`margin_logits` of a model's outputs has no such limit.

    Raises:
        ConfigurationError: A loss is not finite, or below zero as no cross-entropy is.
    """
    given = np.asarray(losses)
    smallest = np.finfo(given.dtype).eps / 2 if given.dtype.kind == "f" else np.finfo(np.float64).eps / 2
    values = check_losses(given)
    if (values < 0).any():
        raise ConfigurationError(
            f"losses must be cross-entropies, which are not below 0, got {values.min():g}; for other losses use "
            "statistic='loss'"
        )
    values = np.maximum(values, smallest)
    return np.asarray(-values - np.log(-np.expm1(-values)), np.float64)


def margin_logits(logits: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The same as :func:`confidence_logits`, from a classifier's outputs and without loss of precision.

    Args:
        logits: Shape ``(..., N, C)``, of at least two classes.
        labels: Shape ``(N,)``.

    Returns:
        The true class's output less the log-sum-exp of the others', shape ``(..., N)``.

    Raises:
        ConfigurationError: Shapes don't agree, or an output is not finite.

    Example:
        >>> margin_logits([[2.0, 0.0]], [0]).tolist()
        [2.0]
    """
    outputs, classes = check_losses(logits, name="logits"), np.asarray(labels)
    if outputs.ndim < 2 or outputs.shape[-1] < 2 or classes.shape != (outputs.shape[-2],):
        raise ConfigurationError(
            f"logits of shape (..., N, C) and labels of shape (N,) must agree, got {outputs.shape} and {classes.shape}"
        )
    true = np.zeros(outputs.shape[-2:], np.bool_)
    true[np.arange(len(classes)), classes] = True
    own = np.where(true, outputs, 0.0).sum(axis=-1)
    others = np.where(true, -np.inf, outputs)
    top = others.max(axis=-1)
    return np.asarray(own - top - np.log(np.exp(others - top[..., None]).sum(axis=-1)), np.float64)
