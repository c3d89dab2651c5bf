"""scikit-learn's handwritten digits as 28x28 images: the data of the default run, with no network needed.

1,797 images of 8x8 with values 0 to 16 (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI
1998), divided by 16, scaled up to 28x28 and shifted to -1 to 1. The 16 is the format's own constant:
nothing is learned from the images.

Example:
    >>> from lightning_privacy.data import DigitsDataModule
    >>> datamodule = DigitsDataModule(batch_size=256)
    >>> datamodule.setup("fit")
    >>> images, labels = next(iter(datamodule.train_dataloader()))
    >>> images.shape, labels.shape, float(images.min()), float(images.max())
    (torch.Size([256, 1, 28, 28]), torch.Size([256]), -1.0, 1.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.data.in_memory import InMemoryDataModule, InMemoryDataset, Splits
from lightning_privacy.data.splitting import stratified_split

__all__ = ["DigitsDataModule"]

_LARGEST_VALUE = 16.0
_TRAIN_SIZE = 1437
# Part of the data module's definition, not of a run: the split must not move with the seed of an experiment.
_SPLIT_SEED = 0


class DigitsDataModule(InMemoryDataModule):
    """1,437 images to train on, 90 to validate on and 270 to test on, all three stratified by class.

    Validation is a part of the 360 held-out images, so that watching it costs no privacy.

    Args:
        batch_size: Examples of a training batch; large is good for private training.
        eval_batch_size: Examples of a validation or test batch.
        image_size: Height and width in pixels after scaling up.
        val_size: How many of the 360 held-out images are for validation; with 0 there is none.
        resample: Options of :func:`~lightning_privacy.sampling.resample` for the training data; None: as they are.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> splits = DigitsDataModule().splits
        >>> len(splits.train), len(splits.val), len(splits.test)
        (1437, 90, 270)
    """

    input_range = (-1.0, 1.0)

    def __init__(
        self,
        batch_size: int = 512,
        eval_batch_size: int = 512,
        image_size: int = 28,
        val_size: int = 90,
        resample: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, resample)
        self.image_size = positive_int(image_size=image_size)
        self.val_size = val_size

    @override
    def load(self) -> Splits:
        small, labels = load_digits(return_X_y=True)
        labels = labels.astype(np.int64)
        images = torch.from_numpy(small.astype(np.float32) / _LARGEST_VALUE).reshape(-1, 1, 8, 8)
        images = torch.nn.functional.interpolate(images, size=self.image_size, mode="bilinear")
        images = images.mul_(2).sub_(1)
        train, held_out = stratified_split(labels, size=_TRAIN_SIZE, seed=_SPLIT_SEED)
        val, test = stratified_split(labels[held_out], size=self.val_size, seed=_SPLIT_SEED)

        def part(positions: np.ndarray) -> InMemoryDataset:
            return InMemoryDataset(images[positions], torch.from_numpy(labels[positions]))

        return Splits(train=part(train), val=part(held_out[val]) if self.val_size else None, test=part(held_out[test]))
