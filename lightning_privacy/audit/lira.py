"""The likelihood-ratio attack: how unusual is this model's confidence among models that never saw the example?

Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022. Reference models are trained on
random parts of data like the target's. For each example the confidences of those that were trained without it are taken
for normally distributed; offline, the score is how far above their mean the target's confidence is, in standard
deviations. Online, the models trained with it count too, and the score is the log-likelihood ratio of the two normal
distributions (Algorithm 1 there).

Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> reference = rng.uniform(0.5, 1.5, (8, 3))
    >>> lira_scores([0.05, 1.0, 1.0], reference, np.zeros((8, 3), bool))[0] > 2
    np.True_
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lightning_privacy._validate import one_of
from lightning_privacy.audit.membership_scores import check_losses, check_references, confidence_logits, loss_scores
from lightning_privacy.errors import ConfigurationError

__all__ = ["STATISTICS", "lira_scores"]

#: What of the losses is taken for normally distributed, by the name of the option.
STATISTICS: dict[str, Callable[[npt.ArrayLike], npt.NDArray[np.float64]]] = {
    "logit": confidence_logits,
    "loss": loss_scores,
}

# Below this many models an example's own variance is worse than one of all examples (ablation there).
_ENOUGH_FOR_VARIANCE = 64
# Models that agree to the last digit still leave a finite score.
_LEAST_DEVIATION = 1e-12


def lira_scores(
    losses: npt.ArrayLike,
    reference_losses: npt.ArrayLike,
    reference_member: npt.ArrayLike,
    *,
    online: bool = False,
    variance: str = "auto",
    statistic: str = "logit",
) -> npt.NDArray[np.float64]:
    """Scores of the likelihood-ratio attack, for all targets and examples at once.

    Args:
        losses: Of the models under attack on the examples, shape ``(N,)`` or ``(T, N)``.
        reference_losses: Of reference models, shape ``(R, N)``.
        reference_member: True where a reference model was trained on an example, shape ``(R, N)`` or ``(N,)``.
        online: Also use the reference models that were trained on the example.
        variance: ``"example"``: each example's own; ``"shared"``: one of all examples; ``"auto"``: the first from 64
            models on.
        statistic: ``"logit"`` of the confidence for cross-entropies; ``"loss"`` itself for other losses.

    Returns:
        Higher for a likelier member, of the shape of ``losses``.

    Raises:
        ConfigurationError: Shapes don't agree, a loss is not finite, or there are too few reference models.
    """
    one_of(("auto", "example", "shared"), variance=variance)
    one_of(tuple(STATISTICS), statistic=statistic)
    target = check_losses(losses)
    if target.ndim not in (1, 2):
        raise ConfigurationError(f"losses must be of shape (N,) or (T, N), got {target.shape}")
    _, member = check_references(target, reference_losses, reference_member)
    # From what was given, whose type says how small a loss it can hold.
    observed, references = STATISTICS[statistic](losses), STATISTICS[statistic](reference_losses)
    mean, deviation = _normal(references, ~member, variance, "without")
    standing = (observed - mean) / deviation
    if not online:
        return np.asarray(standing, np.float64)
    mean_in, deviation_in = _normal(references, member, variance, "with")
    standing_in = (observed - mean_in) / deviation_in
    return np.asarray((standing**2 - standing_in**2) / 2 + np.log(deviation / deviation_in), np.float64)


def _normal(
    values: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_], variance: str, what: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each column over the chosen rows, shape ``(N,)``."""
    number = chosen.sum(axis=0)
    if not number.all() or number.max() < 2:
        raise ConfigurationError(
            f"an example has {number.min()} to {number.max()} reference models trained {what} it; there must be one "
            "for each and two for some, so train more of them"
        )
    mean = np.where(chosen, values, 0.0).sum(axis=0) / number
    squares = np.where(chosen, (values - mean) ** 2, 0.0).sum(axis=0)
    own = variance == "example" or (variance == "auto" and number.min() >= _ENOUGH_FOR_VARIANCE)
    if own and number.min() < 2:
        raise ConfigurationError(
            f"variance='example' needs two reference models trained {what} each example, got {number.min()}: train "
            "more of them, or use variance='shared'"
        )
    spread = squares / (number - 1) if own else np.full_like(mean, squares.sum() / (number - 1).sum())
    return mean, np.maximum(np.sqrt(spread), _LEAST_DEVIATION)
