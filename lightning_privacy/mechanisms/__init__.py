"""Private releases of values, labels and counts, and the source of their noise.

Example:
    >>> from lightning_privacy.mechanisms import NoiseSource, laplace
    >>> NoiseSource().caveat is None, isinstance(laplace(3.0, sensitivity=1.0, epsilon=1.0), float)
    (True, True)
"""

from __future__ import annotations

from lightning_privacy.mechanisms.forward_correction import ForwardCorrection
from lightning_privacy.mechanisms.frequencies import FrequencyEstimate, estimate_frequencies
from lightning_privacy.mechanisms.gaussian_calibration import gaussian_delta, gaussian_noise_multiplier
from lightning_privacy.mechanisms.gaussian_mechanism import gaussian
from lightning_privacy.mechanisms.histogram import private_histogram
from lightning_privacy.mechanisms.laplace_mechanism import laplace
from lightning_privacy.mechanisms.mean import private_mean
from lightning_privacy.mechanisms.mode import private_mode
from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning
from lightning_privacy.mechanisms.quantile import private_quantile
from lightning_privacy.mechanisms.randomized_labels import randomized_response
from lightning_privacy.mechanisms.selection import exponential, noisy_max
from lightning_privacy.mechanisms.sparse_vector import AboveThreshold, above_threshold

__all__ = [
    "AboveThreshold",
    "ForwardCorrection",
    "FrequencyEstimate",
    "NoiseSource",
    "SeededNoiseWarning",
    "above_threshold",
    "estimate_frequencies",
    "exponential",
    "gaussian",
    "gaussian_delta",
    "gaussian_noise_multiplier",
    "laplace",
    "noisy_max",
    "private_histogram",
    "private_mean",
    "private_mode",
    "private_quantile",
    "randomized_response",
]
