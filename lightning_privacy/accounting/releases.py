"""What can be charged to a ledger: one frozen dataclass for each kind of release.

A release is one output computed from private data: a noisy gradient, a noisy count, a set of randomised labels.
Each class holds the parameters its privacy depends on and nothing else, so that two releases with equal parameters
are equal, hash alike and are grouped by the ledger. ``event()`` gives the event that ``dp_accounting`` composes.

Example:
    >>> from lightning_privacy.accounting.releases import SampledGaussian, release_from_dict
    >>> step = SampledGaussian(noise_multiplier=1.1, sample_rate=0.01)
    >>> step.label
    'Gaussian, sampled (sigma 1.1, rate 0.01)'
    >>> release_from_dict(step.to_dict()) == step
    True
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import dp_accounting
from typing_extensions import override

from lightning_privacy._validate import non_negative, positive, positive_int, probability
from lightning_privacy.accounting.release import Release
from lightning_privacy.errors import ConfigurationError

__all__ = [
    "AdaptiveClippingRelease",
    "GaussianRelease",
    "LaplaceRelease",
    "NonPrivate",
    "RandomizedResponseRelease",
    "Release",
    "SampledGaussian",
    "TruncatedSampledGaussian",
    "release_from_dict",
]


@dataclass(frozen=True)
class SampledGaussian(Release):
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

    noise_multiplier: float
    sample_rate: float
    kind: ClassVar[str] = "sampled_gaussian"

    def __post_init__(self) -> None:
        self._set(
            noise_multiplier=non_negative(noise_multiplier=self.noise_multiplier),
            sample_rate=probability(sample_rate=self.sample_rate),
        )

    @property
    @override
    def label(self) -> str:
        return f"Gaussian, sampled (sigma {self.noise_multiplier:.6g}, rate {self.sample_rate:.6g})"

    @property
    @override
    def private(self) -> bool:
        return self.noise_multiplier > 0

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
class TruncatedSampledGaussian(Release):
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

    noise_multiplier: float
    sample_rate: float
    num_examples: int
    max_batch_size: int
    kind: ClassVar[str] = "truncated_sampled_gaussian"

    def __post_init__(self) -> None:
        self._set(
            noise_multiplier=non_negative(noise_multiplier=self.noise_multiplier),
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

    @property
    @override
    def private(self) -> bool:
        return self.noise_multiplier > 0

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent(
            dataset_size=self.num_examples,
            sampling_probability=self.sample_rate,
            truncated_batch_size=self.max_batch_size,
            noise_multiplier=self.noise_multiplier,
        )


@dataclass(frozen=True)
class GaussianRelease(Release):
    """Gaussian noise on a value computed from all units.

    Args:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity; 0 has infinite epsilon.

    Raises:
        ConfigurationError: if it is negative or not finite.

    Example:
        >>> GaussianRelease(noise_multiplier=2).noise_multiplier
        2.0
    """

    noise_multiplier: float
    kind: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        self._set(noise_multiplier=non_negative(noise_multiplier=self.noise_multiplier))

    @property
    @override
    def label(self) -> str:
        return f"Gaussian (sigma {self.noise_multiplier:.6g})"

    @property
    @override
    def private(self) -> bool:
        return self.noise_multiplier > 0

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.GaussianDpEvent(self.noise_multiplier)


@dataclass(frozen=True)
class LaplaceRelease(Release):
    """Laplace noise of scale sensitivity / epsilon.

    Dwork et al., "Calibrating Noise to Sensitivity in Private Data Analysis", 2006.

    Args:
        epsilon: epsilon of one such release on its own.

    Raises:
        ConfigurationError: if epsilon is not a finite number above 0.

    Example:
        >>> LaplaceRelease(epsilon=0.5).event()
        LaplaceDpEvent(noise_multiplier=2.0)
    """

    epsilon: float
    kind: ClassVar[str] = "laplace"

    def __post_init__(self) -> None:
        self._set(epsilon=positive(epsilon=self.epsilon))

    @property
    @override
    def label(self) -> str:
        return f"Laplace (epsilon {self.epsilon:.6g})"

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.LaplaceDpEvent(1.0 / self.epsilon)


@dataclass(frozen=True)
class RandomizedResponseRelease(Release):
    """Every unit's class, kept with probability e^epsilon / (e^epsilon + num_classes - 1), else another at random.

    Warner, "Randomized Response", 1965; for more than two classes Kairouz et al., "Extremal Mechanisms for Local
    Differential Privacy", 2016. ``epsilon`` bounds the change of a unit's class to any other; replacing the unit
    by a null record, whose output is uniform, costs less.

    Args:
        epsilon: epsilon of one such release on its own, when a class is replaced by another.
        num_classes: number of classes, at least 2.

    Raises:
        ConfigurationError: if a number is out of its range.

    Example:
        >>> RandomizedResponseRelease(epsilon=1.0, num_classes=2).event().num_buckets
        2
    """

    epsilon: float
    num_classes: int
    kind: ClassVar[str] = "randomized_response"

    def __post_init__(self) -> None:
        self._set(epsilon=positive(epsilon=self.epsilon), num_classes=positive_int(num_classes=self.num_classes))
        if self.num_classes < 2:
            raise ConfigurationError(f"num_classes must be a whole number >= 2, got {self.num_classes!r}")

    @property
    @override
    def label(self) -> str:
        return f"Randomised response (epsilon {self.epsilon:.6g}, {self.num_classes} classes)"

    @property
    @override
    def private(self) -> bool:
        return self.noise_parameter > 0

    @property
    def noise_parameter(self) -> float:
        """Probability of an answer drawn uniformly from all classes: k / (e^epsilon + k - 1)."""
        # Written with exp(-epsilon), which cannot overflow.
        decay = math.exp(-self.epsilon)
        return self.num_classes * decay / (1.0 + (self.num_classes - 1) * decay)

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.dp_event.RandomizedResponseDpEvent(self.noise_parameter, self.num_classes)


@dataclass(frozen=True)
class NonPrivate(Release):
    """Something that leaves with no protection: epsilon is infinite from then on.

    Args:
        reason: what was released and why it is not private; shown in the summary.

    Raises:
        ConfigurationError: if the reason is empty.

    Example:
        >>> NonPrivate("validation set holds training examples").private
        False
    """

    reason: str
    kind: ClassVar[str] = "non_private"

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or not self.reason.strip():
            raise ConfigurationError(f"reason must be a text that says what is not private, got {self.reason!r}")

    @property
    @override
    def label(self) -> str:
        return f"Not private: {self.reason}"

    @property
    @override
    def private(self) -> bool:
        return False

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.NonPrivateDpEvent()


_KINDS: dict[str, type[Release]] = {
    cls.kind: cls
    for cls in (
        SampledGaussian,
        AdaptiveClippingRelease,
        TruncatedSampledGaussian,
        GaussianRelease,
        LaplaceRelease,
        RandomizedResponseRelease,
        NonPrivate,
    )
}


def release_from_dict(values: Mapping[str, Any]) -> Release:
    """Make the release that :meth:`Release.to_dict` described.

    Args:
        values: the kind under ``"kind"`` and one entry for each parameter.

    Returns:
        The release.

    Raises:
        ConfigurationError: if the kind is unknown, or parameters are missing, superfluous or out of range.

    Example:
        >>> release_from_dict({"kind": "laplace", "epsilon": 1.0})
        LaplaceRelease(epsilon=1.0)
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"a release must be a mapping with a 'kind', got {values!r}")
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigurationError(f"unknown release kind {kind!r}; known are {', '.join(_KINDS)}")
    cls = _KINDS[kind]
    wanted = {field.name for field in fields(cls)}
    given = set(values) - {"kind"}
    if given != wanted:
        raise ConfigurationError(
            f"release {kind!r} needs {', '.join(sorted(wanted))}, got {', '.join(sorted(map(str, given))) or 'nothing'}"
        )
    return cls(**{name: values[name] for name in wanted})
