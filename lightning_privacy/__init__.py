"""Train private, fair models with the Lightning code you already have.

The names below are the public ones. Each is imported from its room when it is first used, so that accounting or
sampling alone does not load Lightning.

Example:
    >>> from lightning_privacy import PrivacyLedger, SampledGaussian
    >>> ledger = PrivacyLedger(delta=1e-5, budget=3.0)
    >>> ledger.charge(SampledGaussian(noise_multiplier=1.0, sample_rate=0.01), count=100)
    >>> 0.5 < ledger.epsilon() < 1.0
    True
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_privacy.accounting import (
        AdaptiveClippingRelease,
        GaussianRelease,
        LaplaceRelease,
        NonPrivate,
        PrivacyLedger,
        RandomizedResponseRelease,
        SampledGaussian,
        TruncatedSampledGaussian,
        calibrate_noise,
    )
    from lightning_privacy.callbacks import DifferentialPrivacy
    from lightning_privacy.errors import (
        CheckpointError,
        ConfigurationError,
        LightningPrivacyError,
        PrivacyBudgetExceeded,
        PrivacyViolation,
        UnsupportedError,
    )
    from lightning_privacy.gradients import (
        AdaptiveClipping,
        AutomaticClipping,
        ClippingPolicy,
        DPOptimizer,
        FlatClipping,
        PerLayerClipping,
    )
    from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning
    from lightning_privacy.plugins import AtomicCheckpointIO
    from lightning_privacy.sampling import PoissonSampler

__all__ = [
    "AdaptiveClipping",
    "AdaptiveClippingRelease",
    "AtomicCheckpointIO",
    "AutomaticClipping",
    "CheckpointError",
    "ClippingPolicy",
    "ConfigurationError",
    "DPOptimizer",
    "DifferentialPrivacy",
    "FlatClipping",
    "GaussianRelease",
    "LaplaceRelease",
    "LightningPrivacyError",
    "NoiseSource",
    "NonPrivate",
    "PerLayerClipping",
    "PoissonSampler",
    "PrivacyBudgetExceeded",
    "PrivacyLedger",
    "PrivacyViolation",
    "RandomizedResponseRelease",
    "SampledGaussian",
    "SeededNoiseWarning",
    "TruncatedSampledGaussian",
    "UnsupportedError",
    "__version__",
    "calibrate_noise",
]

# Which room a name is in; the test of the exports holds this, __all__ and the imports above together.
_ROOMS = {
    "accounting": (
        "AdaptiveClippingRelease GaussianRelease LaplaceRelease NonPrivate PrivacyLedger RandomizedResponseRelease "
        "SampledGaussian TruncatedSampledGaussian calibrate_noise"
    ),
    "callbacks": "DifferentialPrivacy",
    "errors": (
        "CheckpointError ConfigurationError LightningPrivacyError PrivacyBudgetExceeded PrivacyViolation "
        "UnsupportedError"
    ),
    "gradients": "AdaptiveClipping AutomaticClipping ClippingPolicy DPOptimizer FlatClipping PerLayerClipping",
    "mechanisms": "NoiseSource SeededNoiseWarning",
    "plugins": "AtomicCheckpointIO",
    "sampling": "PoissonSampler",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("lightning-privacy")
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
