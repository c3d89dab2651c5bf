"""Releases with Gaussian noise: on a sum over a random sample, or on a value computed from all units.

Example:
    >>> from lightning_privacy.accounting.gaussian import SampledGaussian
    >>> SampledGaussian(noise_multiplier=1.1, sample_rate=0.01).label
    'Gaussian, sampled (sigma 1.1, rate 0.01)'
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import dp_accounting
from typing_extensions import override

from lightning_privacy._validate import non_negative, positive, positive_int, probability
from lightning_privacy.accounting.release import Release
from lightning_privacy.errors import ConfigurationError

__all__ = ["AdaptiveClippingRelease", "Gaussian", "GaussianRelease", "SampledGaussian", "TruncatedSampledGaussian"]


@dataclass(frozen=True)
class Gaussian(Release):
    """What releases with Gaussian noise share; not charged itself.

    Args:
        noise_multiplier: standard deviation of the noise over the sensitivity; 0 has infinite epsilon.

    Raises:
        ConfigurationError: if it is negative or not finite.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        self._set(noise_multiplier=non_negative(noise_multiplier=self.noise_multiplier))

    @property
    @override
    def private(self) -> bool:
        return self.noise_multiplier > 0


@dataclass(frozen=True)
class SampledGaussian(Gaussian):
    """Gaussian noise on a sum over a Poisson sample: one step of DP-SGD.

    Abadi et al., "Deep Learning with Differential Privacy", 2016, Algorithm 1.

    Args:
        noise_multiplier: standard deviation of the noise over the norm bound; 0 has infinite epsilon.
        sample_rate: probability with which each unit is in the sample, in (0, 1].

    Raises:
        ConfigurationError: if a number is out of its range.

    Example:
        >>> SampledGaussian(noise_multiplier=1.0, sample_rate=0.5).private
        True
    """

    sample_rate: float
    kind: ClassVar[str] = "sampled_gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(sample_rate=probability(sample_rate=self.sample_rate))

    @property
    @override
    def label(self) -> str:
        return f"Gaussian, sampled (sigma {self.noise_multiplier:.6g}, rate {self.sample_rate:.6g})"

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.PoissonSampledDpEvent(
            self.sample_rate, dp_accounting.GaussianDpEvent(self.noise_multiplier)
        )


@dataclass(frozen=True)
class AdaptiveClippingRelease(SampledGaussian):
    """One step of DP-SGD with adaptive clipping: a noisy gradient, and a noisy count of unclipped examples.

    Both are one Gaussian mechanism (Andrew et al., "Differentially Private Learning with Adaptive Clipping", 2021,
    Theorem 1). With noise multiplier s for the gradient and noise of standard deviation b on a count that one example
    changes by at most 1/2, its noise multiplier sigma is given by ``1 / sigma^2 = 1 / s^2 + 1 / (2 b)^2``. So it is
    charged as :class:`SampledGaussian` with that sigma. The clipping norm of the step is no part of it.

    Args:
        noise_multiplier: sigma, of gradient and count together; 0 has infinite epsilon.
        sample_rate: probability with which each unit is in the sample, in (0, 1].
        count_noise_std: b, in units; above half the noise multiplier.

    Raises:
        ConfigurationError: if a number is out of its range.

    Example:
        >>> step = AdaptiveClippingRelease(noise_multiplier=1.0, sample_rate=0.01, count_noise_std=1.0)
        >>> step.label
        'Gaussian, sampled (sigma 1: gradient 1.1547, count 1; rate 0.01)'
        >>> step.event() == SampledGaussian(noise_multiplier=1.0, sample_rate=0.01).event()
        True
    """

    count_noise_std: float
    kind: ClassVar[str] = "adaptive_clipping"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(count_noise_std=positive(count_noise_std=self.count_noise_std))
        if 2.0 * self.count_noise_std <= self.noise_multiplier:
            raise ConfigurationError(
                f"count_noise_std must be above {self.noise_multiplier / 2.0:g}, half of noise_multiplier "
                f"{self.noise_multiplier!r}, got {self.count_noise_std!r}: the count alone would cost all there is. "
                f"With {self.noise_multiplier:g} the gradient gets 15% more noise than without the count, with "
                f"{3.0 * self.noise_multiplier:g} 1.4%"
            )

    @property
    @override
    def label(self) -> str:
        return (
            f"Gaussian, sampled (sigma {self.noise_multiplier:.6g}: gradient {self.gradient_noise_multiplier:.6g}, "
            f"count {self.count_noise_std:.6g}; rate {self.sample_rate:.6g})"
        )

    @property
    def gradient_noise_multiplier(self) -> float:
        """Standard deviation of the noise on the clipped sum, over the norm bound."""
        sigma, twice = self.noise_multiplier, 2.0 * self.count_noise_std
        # The difference of the squares as a product, which doesn't lose its digits where both are close.
        return sigma * twice / (math.sqrt(twice - sigma) * math.sqrt(twice + sigma))


@dataclass(frozen=True)
class TruncatedSampledGaussian(Gaussian):
    """As :class:`SampledGaussian`, but a sample above ``max_batch_size`` is cut to a random subset of that size.

    Ganesh et al., "Hush! Protecting Secrets During Model Training", 2025, arXiv:2508.15089.

    Args:
        noise_multiplier: standard deviation of the noise over the norm bound; 0 has infinite epsilon.
        sample_rate: probability with which each unit is drawn before the cut, in (0, 1].
        num_examples: number of units in the data set.
        max_batch_size: most units of one sample.

    Raises:
        ConfigurationError: if a number is out of its range.

    Example:
        >>> TruncatedSampledGaussian(1.0, 0.01, num_examples=1000, max_batch_size=30).label
        'Gaussian, sampled (sigma 1, rate 0.01, at most 30 of 1000)'
    """

    sample_rate: float
    num_examples: int
    max_batch_size: int
    kind: ClassVar[str] = "truncated_sampled_gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(
            sample_rate=probability(sample_rate=self.sample_rate),
            num_examples=positive_int(num_examples=self.num_examples),
            max_batch_size=positive_int(max_batch_size=self.max_batch_size),
        )

    @property
    @override
    def label(self) -> str:
        return (
            f"Gaussian, sampled (sigma {self.noise_multiplier:.6g}, rate {self.sample_rate:.6g}, "
            f"at most {self.max_batch_size} of {self.num_examples})"
        )

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent(
            dataset_size=self.num_examples,
            sampling_probability=self.sample_rate,
            truncated_batch_size=self.max_batch_size,
            noise_multiplier=self.noise_multiplier,
        )


@dataclass(frozen=True)
class GaussianRelease(Gaussian):
    """Gaussian noise on a value computed from all units.

    Args:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity; 0 has infinite epsilon.

    Raises:
        ConfigurationError: if it is negative or not finite.

    Example:
        >>> GaussianRelease(noise_multiplier=2).noise_multiplier
        2.0
    """

    kind: ClassVar[str] = "gaussian"

    @property
    @override
    def label(self) -> str:
        return f"Gaussian (sigma {self.noise_multiplier:.6g})"

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.GaussianDpEvent(self.noise_multiplier)
