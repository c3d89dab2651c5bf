"""How private a run looks if scores are normal: an estimate, and no bound.

With normal scores of one variance, of mean a for canaries that were out and a + mu s.d. for those that were in, the
scores are as good as the outcome of a Gaussian mechanism with that mu (Nasr, Hayes, Steinke, Balle, Tramer, Jagielski,
Carlini and Terzis, "Tight Auditing of Differentially Private Machine Learning", 2023, section 4; Andrew et al.,
"One-shot Empirical Privacy Estimation for Federated Learning", 2024, fit normals in one run). It uses every score, and
so is nearer to the truth than a bound, where scores are normal and canaries independent. Neither is proven of a run:
the interval is that of the fit, not of the privacy.

Example:
    >>> import numpy as np
    >>> coins = np.arange(2000) % 2 == 0
    >>> fit = gaussian_fit(np.random.default_rng(0).normal(size=2000) + 1.0 * coins, coins)
    >>> fit.low < 1.0 < fit.high, round(fit.mu, 1)
    (True, 1.0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from lightning_privacy._validate import within_open_unit
from lightning_privacy.errors import ConfigurationError

__all__ = ["GaussianFit", "gaussian_fit"]

_LARGEST_MU = 100.0


@dataclass(frozen=True)
class GaussianFit:
    """How far the scores of canaries that were in are from the others.

    Attributes:
        mu: Difference of the means over the common standard deviation; at least 0.
        low: Lower end of its interval; at least 0.
        high: Upper end.
    """

    mu: float
    low: float
    high: float


def gaussian_fit(scores: ArrayLike, coins: ArrayLike, *, confidence: float = 0.95) -> GaussianFit | None:
    """Fit two normals of one variance to the scores.

    The interval is the usual one for a standardised difference of means, from its large-sample variance ``1 / a + 1 / b
    + mu^2 / (2 (a + b))`` (Hedges and Olkin, "Statistical Methods for Meta-Analysis", 1985, section 5.E).

    Args:
        scores: Finite, shape ``(m,)``; higher for a canary that looks as if it was in.
        coins: Shape ``(m,)``; which were.
        confidence: Of the interval, on both sides together; in (0, 1).

    Returns:
        The fit; None where fewer than two canaries were in, or out, or where all scores are the same.

    Raises:
        ConfigurationError: A score is not finite, or there are not as many of one as of the other.
    """
    level = 1.0 - within_open_unit(confidence=confidence)
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(coins, dtype=np.bool_)
    if values.ndim != 1 or values.shape != true.shape or not np.isfinite(values).all():
        raise ConfigurationError("scores must be finite numbers, and one for each coin")
    inside, outside = values[true], values[~true]
    a, b = len(inside), len(outside)
    if min(a, b) < 2:
        return None
    spread = ((a - 1) * inside.var(ddof=1) + (b - 1) * outside.var(ddof=1)) / (a + b - 2)
    distance = float(inside.mean() - outside.mean())
    if spread == 0:
        if distance == 0:
            return None
        spread = np.finfo(np.float64).tiny
    mu = float(np.clip(distance / math.sqrt(spread), -_LARGEST_MU, _LARGEST_MU))
    error = math.sqrt(1 / a + 1 / b + mu**2 / (2 * (a + b))) * float(ndtri(1 - level / 2))
    return GaussianFit(*(min(max(0.0, value), _LARGEST_MU) for value in (mu, mu - error, mu + error)))
