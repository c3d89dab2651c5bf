"""The least noise with which a Gaussian release is (epsilon, delta)-private, from the exact condition.

Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy: Analytical Calibration and Optimal
Denoising", 2018, Theorem 8: with noise multiplier s the mechanism is (epsilon, delta)-private if and only if ``Phi(1 /
(2 s) - epsilon s) - exp(epsilon) Phi(-1 / (2 s) - epsilon s) <= delta``. The textbook's ``sqrt(2 ln(1.25 / delta)) /
epsilon`` is more noise than that below an epsilon of 1, and not private above.

Example:
    >>> round(gaussian_noise_multiplier(epsilon=1.0, delta=1e-5), 4)
    3.7306
    >>> round((2 * math.log(1.25 / 1e-5)) ** 0.5, 4)
    4.8448
"""

from __future__ import annotations

import math

from scipy.special import log_ndtr

from lightning_privacy._validate import positive, within_open_unit

__all__ = ["gaussian_delta", "gaussian_noise_multiplier"]

# What is kept between the root and the answer: rounding here, and the grid of a ledger that composes it.
_MARGIN = 1e-6


def gaussian_delta(*, epsilon: float, noise_multiplier: float) -> float:
    """Return the smallest delta of one Gaussian release at an epsilon.

    Args:
        epsilon: > 0.
        noise_multiplier: standard deviation of the noise over the sensitivity, > 0.

    Raises:
        ConfigurationError: a number is out of its range.

    Example:
        >>> round(gaussian_delta(epsilon=1.0, noise_multiplier=1.0), 4)
        0.1269
    """
    epsilon, sigma = positive(epsilon=epsilon), positive(noise_multiplier=noise_multiplier)
    upper = float(log_ndtr(0.5 / sigma - epsilon * sigma))
    lower = epsilon + float(log_ndtr(-0.5 / sigma - epsilon * sigma))
    # The difference of two numbers that may be close and tiny; lower is below upper but for rounding.
    return -math.exp(upper) * math.expm1(min(0.0, lower - upper))


def gaussian_noise_multiplier(*, epsilon: float | None, delta: float | None) -> float:
    """Return the smallest noise multiplier of an (epsilon, delta)-private Gaussian release, to a millionth above.

    Args:
        epsilon: in what multiple probabilities may differ, as a logarithm, > 0.
        delta: and by how much besides, in (0, 1).

    Raises:
        ConfigurationError: a number is out of its range.
    """
    epsilon, delta = positive(epsilon=epsilon), within_open_unit(delta=delta)

    def enough(sigma: float) -> bool:
        return gaussian_delta(epsilon=epsilon, noise_multiplier=sigma) <= delta

    low = high = 1.0
    while enough(low):
        low /= 2.0
    while not enough(high):
        high *= 2.0
    while high / low > 1.0 + _MARGIN / 4.0:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high * (1.0 + _MARGIN / 2.0)
