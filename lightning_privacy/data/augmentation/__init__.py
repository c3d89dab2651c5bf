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
from lightning_privacy.data.augmentation.test_time import predict_with_views

__all__ = [
    "Affine",
    "AugmentationDataModule",
    "Blur",
    "Chain",
    "ColorJitter",
    "Crop",
    "CutMix",
    "Draws",
    "Erase",
    "Flip",
    "Geometric",
    "MixUp",
    "Noise",
    "OneOf",
    "PerExample",
    "RandAugment",
    "ResizedCrop",
    "Sharpen",
    "Sometimes",
    "TrivialAugment",
    "predict_with_views",
]
