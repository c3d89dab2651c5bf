"""Augmentation of batches in which each example has its own randomness, and the DataModule that applies it."""

from __future__ import annotations

from lightning_privacy.data.augmentation.base import Geometric, PerExample
from lightning_privacy.data.augmentation.colour import Blur, ColorJitter, Sharpen
from lightning_privacy.data.augmentation.combining import Chain, OneOf, Sometimes
from lightning_privacy.data.augmentation.corruption import Erase, Noise
from lightning_privacy.data.augmentation.cropping import Crop, ResizedCrop
from lightning_privacy.data.augmentation.datamodule import AugmentationDataModule
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.geometric import Affine, Flip
from lightning_privacy.data.augmentation.mixing import CutMix, MixUp
from lightning_privacy.data.augmentation.policies import RandAugment, TrivialAugment
from lightning_privacy.data.augmentation.signals import MaskFrequency, MaskTime, Rescale
from lightning_privacy.data.augmentation.tables import MaskColumns, SwapViews
from lightning_privacy.data.augmentation.test_time import predict_with_views
from lightning_privacy.data.augmentation.tokens import DropTokens, MaskTokens

__all__ = [
    "Affine",
    "AugmentationDataModule",
    "Blur",
    "Chain",
    "ColorJitter",
    "Crop",
    "CutMix",
    "Draws",
    "DropTokens",
    "Erase",
    "Flip",
    "Geometric",
    "MaskColumns",
    "MaskFrequency",
    "MaskTime",
    "MaskTokens",
    "MixUp",
    "Noise",
    "OneOf",
    "PerExample",
    "RandAugment",
    "Rescale",
    "ResizedCrop",
    "Sharpen",
    "Sometimes",
    "SwapViews",
    "TrivialAugment",
    "predict_with_views",
]
