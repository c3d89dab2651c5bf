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
        PureRelease,
        RandomizedResponseRelease,
        SampledGaussian,
        SelectionRelease,
        TruncatedSampledGaussian,
        calibrate_noise,
    )
    from lightning_privacy.callbacks import (
        AdversarialDebiasing,
        DifferentialPrivacy,
        GroupDRO,
        GroupFairness,
        MembershipInference,
        PrivacyAudit,
        PrivateBalance,
        Reweighing,
        TrainingPlan,
    )
    from lightning_privacy.data import (
        AugmentationDataModule,
        PersonaDataModule,
        PrivateLabels,
        PrivateLabelsDataModule,
    )
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
        ExamplePrivacy,
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
        AboveThreshold,
        ForwardCorrection,
        NoiseSource,
        SeededNoiseWarning,
        above_threshold,
        estimate_frequencies,
        exponential,
        gaussian,
        laplace,
        noisy_max,
        private_histogram,
        private_mean,
        private_mode,
        private_quantile,
        randomized_response,
    )
    from lightning_privacy.plugins import AtomicCheckpointIO, EncryptedCheckpointIO
    from lightning_privacy.sampling import (
        BalancedBatchSampler,
        BalancedSampler,
        PoissonSampler,
        ResampledDataset,
        ResumableDataLoader,
        resample,
    )
    from lightning_privacy.security import Key, KeyRing
    from lightning_privacy.serving import PrivatePredictor
    from lightning_privacy.strategies import FederatedStrategy

__all__ = [
    "AboveThreshold",
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
    "EncryptedCheckpointIO",
    "ExamplePrivacy",
    "FedNova",
    "FedProx",
    "FederatedStrategy",
    "FlatClipping",
    "ForwardCorrection",
    "GaussianRelease",
    "GeometricMedian",
    "GlobalAdaptClipping",
    "GroupDRO",
    "GroupDisparity",
    "GroupFairness",
    "GroupMetrics",
    "GroupThresholds",
    "IIDPartition",
    "Key",
    "KeyRing",
    "Krum",
    "LaplaceRelease",
    "LightningPrivacyError",
    "MembershipInference",
    "NaturalPartition",
    "NoiseSource",
    "NonPrivate",
    "PerLayerClipping",
    "PersonaDataModule",
    "PoissonSampler",
    "PrivacyAudit",
    "PrivacyBudgetExceeded",
    "PrivacyLedger",
    "PrivacyViolation",
    "PrivateBalance",
    "PrivateLabels",
    "PrivateLabelsDataModule",
    "PrivatePredictor",
    "PureRelease",
    "RandomizedResponseRelease",
    "ResampledDataset",
    "ResumableDataLoader",
    "Reweighing",
    "SampledGaussian",
    "Scaffold",
    "SeededNoiseWarning",
    "SelectionRelease",
    "ShardPartition",
    "TrainingPlan",
    "TrimmedMean",
    "TruncatedSampledGaussian",
    "UnsupportedError",
    "WeightedMean",
    "__version__",
    "above_threshold",
    "calibrate_noise",
    "estimate_frequencies",
    "exponential",
    "gaussian",
    "laplace",
    "noisy_max",
    "private_histogram",
    "private_mean",
    "private_mode",
    "private_quantile",
    "randomized_response",
    "resample",
]

# Which room a name is in; the test of the exports holds this, __all__ and the imports above together.
_ROOMS = {
    "accounting": (
        "AdaptiveClippingRelease GaussianRelease LaplaceRelease NonPrivate PrivacyLedger PureRelease "
        "RandomizedResponseRelease SampledGaussian SelectionRelease TruncatedSampledGaussian calibrate_noise"
    ),
    "callbacks": (
        "AdversarialDebiasing DifferentialPrivacy GroupDRO GroupFairness MembershipInference PrivacyAudit "
        "PrivateBalance Reweighing TrainingPlan"
    ),
    "data": "AugmentationDataModule PersonaDataModule PrivateLabels PrivateLabelsDataModule",
    "errors": (
        "CheckpointError ConfigurationError LightningPrivacyError PrivacyBudgetExceeded PrivacyViolation "
        "UnsupportedError"
    ),
    "fairness": "GroupDisparity GroupMetrics GroupThresholds",
    "federated": (
        "ClientPrivacy CoordinateMedian DirichletPartition Ditto ExamplePrivacy FedNova FedProx "
        "GeometricMedian IIDPartition Krum NaturalPartition Scaffold ShardPartition TrimmedMean WeightedMean"
    ),
    "gradients": (
        "AdaptiveClipping AutomaticClipping ClippingPolicy DPOptimizer FlatClipping GlobalAdaptClipping "
        "PerLayerClipping"
    ),
    "mechanisms": (
        "AboveThreshold ForwardCorrection NoiseSource SeededNoiseWarning above_threshold estimate_frequencies "
        "exponential gaussian laplace noisy_max private_histogram private_mean private_mode private_quantile "
        "randomized_response"
    ),
    "plugins": "AtomicCheckpointIO EncryptedCheckpointIO",
    "sampling": ("BalancedBatchSampler BalancedSampler PoissonSampler ResampledDataset ResumableDataLoader resample"),
    "strategies": "FederatedStrategy",
    "security": "Key KeyRing",
    "serving": "PrivatePredictor",
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
