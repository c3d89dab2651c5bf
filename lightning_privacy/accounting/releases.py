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

from lightning_privacy._validate import positive, positive_int
from lightning_privacy.accounting.gaussian import (
    AdaptiveClippingRelease,
    GaussianRelease,
    SampledGaussian,
    TruncatedSampledGaussian,
)
from lightning_privacy.accounting.release import Release
from lightning_privacy.errors import ConfigurationError

__all__ = [
    "AdaptiveClippingRelease",
    "GaussianRelease",
    "LaplaceRelease",
    "NonPrivate",
    "PureRelease",
    "RandomizedResponseRelease",
    "Release",
    "SampledGaussian",
    "SelectionRelease",
    "TruncatedSampledGaussian",
    "release_from_dict",
]


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

    @property
    def truth_gain(self) -> float:
        """Probability of the true class less that of any other: (e^epsilon - 1) / (e^epsilon + k - 1)."""
        # Not 1 - noise_parameter, which loses its digits where epsilon is small.
        return -math.expm1(-self.epsilon) / (1.0 + (self.num_classes - 1) * math.exp(-self.epsilon))

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.dp_event.RandomizedResponseDpEvent(self.noise_parameter, self.num_classes)


@dataclass(frozen=True)
class SelectionRelease(Release):
    """One of several candidates, chosen by noisy maximum or by the exponential mechanism.

    McKenna and Sheldon, "Permute-and-Flip: A New Mechanism for Differentially Private Selection", 2020; McSherry and
    Talwar, "Mechanism Design via Differential Privacy", 2007. It is charged as Laplace noise of the same epsilon, which
    costs no less at any delta and under composition. For let the scores move in a straight line from those of one data
    set to those of its neighbour, at unit speed in privacy loss: it takes them epsilon. All along, with p for the
    probability of any set of answers, the logarithms of p and of 1 - p change at most at unit speed, so
    ``|dp / dt| <= min(p, 1 - p)``, and the half-lines of one Laplace variable of epsilon meet this with equality.

    Args:
        epsilon: epsilon of one such release on its own.

    Raises:
        ConfigurationError: if epsilon is not a finite number above 0.

    Example:
        >>> SelectionRelease(epsilon=0.5).event()
        LaplaceDpEvent(noise_multiplier=2.0)
    """

    epsilon: float
    kind: ClassVar[str] = "selection"

    def __post_init__(self) -> None:
        self._set(epsilon=positive(epsilon=self.epsilon))

    @property
    @override
    def label(self) -> str:
        return f"Private choice (epsilon {self.epsilon:.6g})"

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.LaplaceDpEvent(1.0 / self.epsilon)


@dataclass(frozen=True)
class PureRelease(Release):
    """Any release of pure epsilon-DP of which nothing else is known, such as the answers of a sparse vector.

    It is charged as the worst there can be: a coin that tells with probability ``e^epsilon / (1 + e^epsilon)`` which of
    two neighbouring data sets it came from (Kairouz, Oh and Viswanath, "The Composition Theorem for Differential
    Privacy", 2015, Theorem 3.2). ``dp_accounting`` has it as discrete Laplace noise of sensitivity 1, whose privacy
    loss is plus or minus epsilon and nothing between.

    Args:
        epsilon: epsilon of one such release on its own.

    Raises:
        ConfigurationError: if epsilon is not a finite number above 0.

    Example:
        >>> PureRelease(epsilon=0.5).label
        'Pure (epsilon 0.5)'
    """

    epsilon: float
    kind: ClassVar[str] = "pure"

    def __post_init__(self) -> None:
        self._set(epsilon=positive(epsilon=self.epsilon))

    @property
    @override
    def label(self) -> str:
        return f"Pure (epsilon {self.epsilon:.6g})"

    @override
    def event(self) -> dp_accounting.DpEvent:
        return dp_accounting.dp_event.DiscreteLaplaceDpEvent(self.epsilon, 1)


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
        SelectionRelease,
        PureRelease,
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
