"""The mean of a column of private numbers, such as a scale to normalise by or a value to fill gaps with.

A number x between public bounds adds its distance from the lower one to a first sum A and its distance from the upper
one to a second, B. Leaving it out changes the two by the width of the bounds in all, so that Laplace noise of scale
width / epsilon on each is a release of epsilon, and the mean is ``lower + width * A / (A + B)``. Two sums that share
one sensitivity need 0.7 times the noise of a sum and a count that halve epsilon between them.

The numbers are first rounded to a grid and the sums are of whole numbers. Sums of floating-point numbers can change by
more than the number left out (Casacuberta et al., "Widespread Underestimation of Sensitivity in Differentially Private
Libraries and How to Fix It", 2022).

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> mean = private_mean([20.0, 40.0] * 5000, lower=0, upper=100, epsilon=1.0, ledger=ledger)
    >>> abs(mean - 30.0) < 1.0, round(ledger.epsilon(exact=True), 3)
    (True, 1.0)
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.mechanisms._charge import charge
from lightning_privacy.mechanisms._exact import ExactRandomness
from lightning_privacy.mechanisms._values import column_values, public_bounds
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["private_mean"]

# Steps between the bounds: with up to 2**38 records the sums are exact in 64 bits.
_STEPS = 2**24


def private_mean(
    values: Any,
    *,
    lower: float,
    upper: float,
    epsilon: float,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
) -> float:
    """Return the mean, with noise of about ``2 (upper - lower) / (N epsilon)``.

    The standard deviation is ``(upper - lower) sqrt(2 (m**2 + (1 - m)**2)) / (N epsilon)`` for a mean at the share m of
    the way between the bounds, while it is small.

    Args:
        values: tensor, array, series or list of numbers, shape (N,); those outside the bounds count as the bounds.
        lower: smallest value there can be, known without looking at the data.
        upper: largest value there can be, known without looking at the data.
        epsilon: what the release costs, > 0, when one record is replaced by a null record, whose value is missing (the
            ledger's neighbouring relation, "zero-out"). The number of values is protected too.
        ledger: charged before anything is drawn.
        noise: None for the operating system's randomness; a seeded source makes the result reproducible and NOT
            PRIVATE.

    Returns:
        A number between the bounds; their middle where noise outweighs the values.

    Raises:
        ConfigurationError: an argument is out of range, there are no values, or not all are finite; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.
    """
    low, high = public_bounds(lower, upper)
    release = LaplaceRelease(epsilon)
    numbers = column_values(values)
    charge(ledger, release, noise, label="mean")
    steps = np.rint((np.clip(numbers, low, high) - low) / (high - low) * _STEPS).astype(np.int64)
    above = int(steps.sum())
    below = _STEPS * len(steps) - above
    one, two = ExactRandomness(noise).many_rounded_laplace(Fraction(release.epsilon) / _STEPS, 2).tolist()
    above, total = above + one, above + one + below + two
    # Cut to [0, 2], which the bounds cut further, as the quotient of such whole numbers may pass float64.
    share = max(0, min(2 * total, above)) / total if total > 0 else 0.5
    return min(high, max(low, low + (high - low) * share))
