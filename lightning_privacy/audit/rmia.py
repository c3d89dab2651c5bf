"""Robust membership inference: is the example likelier under this model than others are, each against the references?

Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024. It works with as few as one
reference model. An example's likelihood p(x | model) is divided by its likelihood under an average model, and the score
is the share of a population's examples z whose own such ratio it exceeds by a factor ``gamma``.

Example:
    >>> import numpy as np
    >>> reference = np.full((1, 3), 1.0)
    >>> rmia_scores([0.1, 1.0, 1.2], reference, np.zeros((1, 3), bool)).round(2).tolist()
    [1.0, 0.67, 0.33]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_privacy._validate import positive
from lightning_privacy.audit.membership_scores import check_losses, check_references
from lightning_privacy.errors import ConfigurationError

__all__ = ["rmia_scores"]

_Array = npt.NDArray[np.float64]


def rmia_scores(
    losses: npt.ArrayLike,
    reference_losses: npt.ArrayLike,
    reference_member: npt.ArrayLike,
    *,
    population_losses: npt.ArrayLike | None = None,
    reference_population_losses: npt.ArrayLike | None = None,
    gamma: float = 1.0,
    offline_scale: float = 0.3,
) -> npt.NDArray[np.float64]:
    """Scores of the offline attack, for all targets and examples at once.

    Only reference models trained without an example are asked about it. As these alone think less of it than an average
    model would, half of which were trained with it, the average likelihood is taken to be
    ``((1 + a) p_out + 1 - a) / 2`` with ``a = offline_scale``.

    Args:
        losses: Of the models under attack on the examples, -log p, shape ``(N,)`` or ``(T, N)``.
        reference_losses: Of reference models, shape ``(R, N)``.
        reference_member: True where a reference model was trained on an example, shape ``(R, N)`` or ``(N,)``.
        population_losses: Of the models under attack on Z examples that no model was trained on, shape ``(Z,)`` or
            ``(T, Z)``. None takes the examples themselves, which for one target orders them in the same way.
        reference_population_losses: Of the reference models on these, shape ``(R, Z)``.
        gamma: By how much a ratio must be exceeded, at least 1. The larger, the more examples share the score 0; where
            confidences are near 1 throughout, ratios are too, and only 1 tells them apart.
        offline_scale: From 0 (a reference's likelihood is trusted by half) to 1 (as it is).

    Returns:
        Shares from 0 to 1, higher for a likelier member, of the shape of ``losses``. They are multiples of 1 / Z.

    Raises:
        ConfigurationError: Shapes don't agree, a loss is not finite, or a number is out of range.
    """
    if positive(gamma=gamma) < 1:
        raise ConfigurationError(f"gamma must be >= 1, got {gamma!r}")
    if not 0 <= offline_scale <= 1:
        raise ConfigurationError(f"offline_scale must be from 0 to 1, got {offline_scale!r}")
    target = check_losses(losses)
    if target.ndim not in (1, 2):
        raise ConfigurationError(f"losses must be of shape (N,) or (T, N), got {target.shape}")
    references, member = check_references(target, reference_losses, reference_member)
    ratios = np.atleast_2d(-target - _log_average(references, ~member, offline_scale))
    if (population_losses is None) != (reference_population_losses is None):
        raise ConfigurationError("population_losses and reference_population_losses must be given together")
    if population_losses is None or reference_population_losses is None:
        population = ratios
    else:
        seen = np.atleast_2d(check_losses(population_losses, name="population_losses"))
        others = check_losses(reference_population_losses, name="reference_population_losses")
        if others.shape != (len(references), seen.shape[1]) or len(seen) != len(ratios) or not seen.shape[1]:
            raise ConfigurationError(
                f"population_losses must be of shape ({len(ratios)}, Z) and reference_population_losses of "
                f"({len(references)}, Z), got {seen.shape} and {others.shape}"
            )
        population = -seen - _log_average(others, np.ones(others.shape, np.bool_), offline_scale)
    # Sorted once, every example's share of the population is a search.
    scores = [
        np.searchsorted(np.sort(others), own - np.log(gamma), side="right") / others.size
        for own, others in zip(ratios, population, strict=True)
    ]
    return np.asarray(scores, np.float64).reshape(target.shape)


def _log_average(losses: _Array, chosen: npt.NDArray[np.bool_], scale: float) -> _Array:
    """Log of the likelihood under an average model, shape ``(N,)``; the loss of an example may be beyond exp."""
    logs = np.where(chosen, -losses, -np.inf)
    out = np.logaddexp.reduce(logs, axis=0) - np.log(chosen.sum(axis=0))
    if scale == 1:
        return np.asarray(out, np.float64)
    return np.asarray(np.logaddexp(np.log((1 + scale) / 2) + out, np.log((1 - scale) / 2)), np.float64)
