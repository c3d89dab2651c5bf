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

import sys
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
    from lightning_privacy.callbacks import (
        AdversarialDebiasing,
        DifferentialPrivacy,
        GroupDRO,
        GroupFairness,
        PrivateBalance,
        Reweighing,
    )
    from lightning_privacy.data import AugmentationDataModule
    from lightning_privacy.errors import (
        CheckpointError,
        ConfigurationError,
        LightningPrivacyError,
        PrivacyBudgetExceeded,
        PrivacyViolation,
        UnsupportedError,
    )
    from lightning_privacy.fairness import GroupDisparity, GroupMetrics, GroupThresholds
    from lightning_privacy.federated import (
        ClientPrivacy,
        CoordinateMedian,
        DirichletPartition,
        Ditto,
        FedNova,
        FedProx,
        GeometricMedian,
        IIDPartition,
        Krum,
        NaturalPartition,
        Scaffold,
        ShardPartition,
        TrimmedMean,
        WeightedMean,
    )
    from lightning_privacy.gradients import (
        AdaptiveClipping,
        AutomaticClipping,
        ClippingPolicy,
        DPOptimizer,
        FlatClipping,
        GlobalAdaptClipping,
        PerLayerClipping,
    )
    from lightning_privacy.mechanisms import (
        NoiseSource,
        SeededNoiseWarning,
        gaussian,
        laplace,
        private_histogram,
        randomized_response,
    )
    from lightning_privacy.plugins import AtomicCheckpointIO
    from lightning_privacy.sampling import (
        BalancedBatchSampler,
        BalancedSampler,
        PoissonSampler,
        ResampledDataset,
        ResumableDataLoader,
        resample,
    )
    from lightning_privacy.strategies import FederatedStrategy

__all__ = [
    "AdaptiveClipping",
    "AdaptiveClippingRelease",
    "AdversarialDebiasing",
    "AtomicCheckpointIO",
    "AugmentationDataModule",
    "AutomaticClipping",
    "BalancedBatchSampler",
    "BalancedSampler",
    "CheckpointError",
    "ClientPrivacy",
    "ClippingPolicy",
    "ConfigurationError",
    "CoordinateMedian",
    "DPOptimizer",
    "DifferentialPrivacy",
    "DirichletPartition",
    "Ditto",
    "FedNova",
    "FedProx",
    "FederatedStrategy",
    "FlatClipping",
    "GaussianRelease",
    "GeometricMedian",
    "GlobalAdaptClipping",
    "GroupDRO",
    "GroupDisparity",
    "GroupFairness",
    "GroupMetrics",
    "GroupThresholds",
    "IIDPartition",
    "Krum",
    "LaplaceRelease",
    "LightningPrivacyError",
    "NaturalPartition",
    "NoiseSource",
    "NonPrivate",
    "PerLayerClipping",
    "PoissonSampler",
    "PrivacyBudgetExceeded",
    "PrivacyLedger",
    "PrivacyViolation",
    "PrivateBalance",
    "RandomizedResponseRelease",
    "ResampledDataset",
    "ResumableDataLoader",
    "Reweighing",
    "SampledGaussian",
    "Scaffold",
    "SeededNoiseWarning",
    "ShardPartition",
    "TrimmedMean",
    "TruncatedSampledGaussian",
    "UnsupportedError",
    "WeightedMean",
    "__version__",
    "calibrate_noise",
    "gaussian",
    "laplace",
    "private_histogram",
    "randomized_response",
    "resample",
]

# Which room a name is in; the test of the exports holds this, __all__ and the imports above together.
_ROOMS = {
    "accounting": (
        "AdaptiveClippingRelease GaussianRelease LaplaceRelease NonPrivate PrivacyLedger "
        "RandomizedResponseRelease SampledGaussian TruncatedSampledGaussian calibrate_noise"
    ),
    "callbacks": "AdversarialDebiasing DifferentialPrivacy GroupDRO GroupFairness PrivateBalance Reweighing",
    "data": "AugmentationDataModule",
    "errors": (
        "CheckpointError ConfigurationError LightningPrivacyError PrivacyBudgetExceeded PrivacyViolation "
        "UnsupportedError"
    ),
    "fairness": "GroupDisparity GroupMetrics GroupThresholds",
    "federated": (
        "ClientPrivacy CoordinateMedian DirichletPartition Ditto FedNova FedProx GeometricMedian IIDPartition "
        "Krum NaturalPartition Scaffold ShardPartition TrimmedMean WeightedMean"
    ),
    "gradients": (
        "AdaptiveClipping AutomaticClipping ClippingPolicy DPOptimizer FlatClipping GlobalAdaptClipping "
        "PerLayerClipping"
    ),
    "mechanisms": "NoiseSource SeededNoiseWarning gaussian laplace private_histogram randomized_response",
    "plugins": "AtomicCheckpointIO",
    "sampling": "BalancedBatchSampler BalancedSampler PoissonSampler ResampledDataset ResumableDataLoader resample",
    "strategies": "FederatedStrategy",
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


def _federated(**options: Any) -> Any:
    return import_module(f"{__name__}.strategies").FederatedStrategy(**options)


if {"pytorch_lightning", "lightning.pytorch"} & sys.modules.keys():
    # So that Trainer(strategy="federated") works; lightning_privacy.strategies says what it is.
    import_module(f"{__name__}._lightning").StrategyRegistry.register("federated", _federated, override=True)
