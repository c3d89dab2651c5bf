"""How frequent each class is, estimated from labels that went through randomised response.

An answer is class j with probability ``p`` where j is the truth and ``r`` where it is not, so among n answers the share
of class j is in expectation ``r + (p - r) f`` for a true share f, and ``(share - r) / (p - r)`` is an unbiased estimate
of f. Its variance, the true labels being fixed, is ``(f p (1 - p) + (1 - f) r (1 - r)) / (n (p - r)**2)``. This is
post-processing: it costs nothing.

Wang et al., "Locally Differentially Private Protocols for Frequency Estimation", 2017, section 3 (direct encoding).

Example:
    >>> from lightning_privacy.mechanisms.randomized_labels import randomized_response
    >>> noisy = randomized_response([0] * 3000 + [1] * 7000, num_classes=2, epsilon=1.0)
    >>> estimate = estimate_frequencies(noisy, num_classes=2, epsilon=1.0)
    >>> bool(abs(estimate.frequencies[0] - 0.3) < 6 * estimate.standard_errors[0])
    True
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_privacy.accounting import RandomizedResponseRelease
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms._values import class_labels

__all__ = ["FrequencyEstimate", "estimate_frequencies"]


class FrequencyEstimate(NamedTuple):
    """Estimated shares of classes.

    Attributes:
        frequencies: shape (num_classes,); they sum to 1, and as they are unbiased a rare class may be below 0.
        standard_errors: of the frequencies as estimates of those of the true labels in this data set, same shape. As
            estimates of those of a population the labels are a sample of, they have the error of sampling besides.
    """

    frequencies: NDArray[np.float64]
    standard_errors: NDArray[np.float64]


def estimate_frequencies(labels: Any, *, num_classes: int, epsilon: float) -> FrequencyEstimate:
    """Return unbiased estimates of the true frequencies, and their standard errors.

    Args:
        labels: what :func:`~lightning_privacy.randomized_response` returned: whole numbers in [0, num_classes), or
            booleans for two classes, shape (N,).
        num_classes: as they were randomised.
        epsilon: as they were randomised.

    Returns:
        Frequencies and standard errors.

    Raises:
        ConfigurationError: an argument is out of range, or there are no labels.
    """
    release = RandomizedResponseRelease(epsilon, num_classes)
    answers = class_labels(labels, release.num_classes)
    if len(answers) == 0:
        raise ConfigurationError("labels must not be empty: there is nothing to estimate frequencies from")
    wrong, gain = release.noise_parameter / release.num_classes, release.truth_gain
    right = wrong + gain
    shares = np.bincount(answers, minlength=release.num_classes) / len(answers)
    frequencies = (shares - wrong) / gain
    likely = frequencies.clip(0.0, 1.0)
    variances = likely * right * (1.0 - right) + (1.0 - likely) * wrong * (1.0 - wrong)
    return FrequencyEstimate(frequencies, np.sqrt(variances / len(answers)) / gain)
