"""LightningDataModules for the examples and benchmarks.

None learns anything from its data that is not charged to a ledger: scales, category lists and bounds are public
constants. Validation is always a part of the held-out data.
"""

from __future__ import annotations

from lightning_privacy.data.adult import AdultBatch, AdultDataModule
from lightning_privacy.data.augmentation import AugmentationDataModule
from lightning_privacy.data.coloured import coloured
from lightning_privacy.data.deskew import Deskew
from lightning_privacy.data.digits import DigitsDataModule
from lightning_privacy.data.features import ScatteringFeatures, compute_features
from lightning_privacy.data.in_memory import InMemoryDataModule, InMemoryDataset, Splits
from lightning_privacy.data.mnist import FashionMNISTDataModule, MNISTDataModule
from lightning_privacy.data.persona import Damage, PersonaBatch, PersonaDataModule, PersonaDataset
from lightning_privacy.data.private_labels import PrivateLabels
from lightning_privacy.data.private_labels_datamodule import PrivateLabelsDataModule
from lightning_privacy.data.scattering import Scattering2d
from lightning_privacy.data.shakespeare import ShakespeareDataModule, SpeakerDataset

__all__ = [
    "AdultBatch",
    "AdultDataModule",
    "AugmentationDataModule",
    "Damage",
    "Deskew",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "InMemoryDataModule",
    "InMemoryDataset",
    "MNISTDataModule",
    "PersonaBatch",
    "PersonaDataModule",
    "PersonaDataset",
    "PrivateLabels",
    "PrivateLabelsDataModule",
    "Scattering2d",
    "ScatteringFeatures",
    "ShakespeareDataModule",
    "SpeakerDataset",
    "Splits",
    "coloured",
    "compute_features",
]
